"""Take out of an installed environment what no process of ours uses, while an image is built.

Run with the Python of that environment. Debug symbols and sources of extension modules go, as do tests of libraries
and what a library offers for choices that we never make. Bytecode is written for our own modules and for what they
import; it stays valid whatever times a builder gives to the files. The rest is compiled if it is ever imported.
"""

import importlib
import pkgutil
import py_compile
import subprocess
import sys
import sysconfig
import zoneinfo
from collections.abc import Iterable, Iterator
from pathlib import Path

OURS = ("app", "worker", "db", "domain")
SOURCES_OF_EXTENSIONS = frozenset({".c", ".cpp", ".h", ".hpp", ".pxd", ".pxi", ".pyi", ".pyx"})
NEVER_CHOSEN = (
    # Examples made up for OpenAPI documents.
    "faker",
    "polyfactory",
    # Frameworks and command lines that others use.
    "advanced_alchemy/extensions",
    "litestar/cli",
    "rich_click",
    "litestar/contrib",
    # Colours for other languages, commands of modules that our Redis does not load, archives, extensions of SQLAlchemy.
    "pygments/lexers",
    "redis/commands",
    "backports/zstd/tarfile.py",
    "backports/zstd/zipfile",
    "sqlalchemy/ext",
)
# A traceback is the one thing that is ever shown in colour.
CHOSEN_LATE = frozenset(
    {"pygments/lexers/python.py", "pygments/lexers/special.py", "pygments/lexers/text.py"}
)
# `migrate` alone imports these, once for each release.
NOT_WORTH_BYTECODE = (
    "alembic",
    "mako",
    "pygments/lexers",
    "sqlalchemy/dialects/mssql",
    "sqlalchemy/dialects/mysql",
    "sqlalchemy/dialects/oracle",
)


def slim(site: Path) -> None:
    """Make an environment smaller, and prove on the way that all of it still loads."""
    for library in site.rglob("*.so*"):
        subprocess.run(["strip", "--strip-unneeded", str(library)], check=True)
    _import_ours()
    _use_ours()
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    imported = {Path(file) for file in files if file}
    for file in list(_unused(site)):
        if file not in imported:
            file.unlink()
    for folder in sorted(site.rglob("*"), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    own = {file for package in OURS for file in (site / package).rglob("*.py")}
    theirs = {file for file in imported if file.suffix == ".py" and site in file.parents}
    for file in own | {file for file in theirs if not _within(file, site, NOT_WORTH_BYTECODE)}:
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(file), doraise=True, invalidation_mode=mode)


def _import_ours() -> None:
    for name in OURS:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith(".__main__") and ".migrations" not in module.name:
                importlib.import_module(module.name)


def _use_ours() -> None:
    """Have libraries import what they import only when they are used."""
    from app.cli.commands import run  # noqa: PLC0415 - as `importlib` above: not before the libraries are stripped
    from app.main import create_app  # noqa: PLC0415
    from app.openapi import render_document  # noqa: PLC0415
    from app.settings import load_app_settings  # noqa: PLC0415
    from domain.keys import mint_pepper  # noqa: PLC0415

    environ = {
        "DATABASE_URL": "postgresql://nobody@localhost/none",
        "REDIS_URL": "redis://localhost",
        "GATEWAY_KEY_PEPPER": mint_pepper("p"),
    }
    create_app(load_app_settings(environ))
    render_document(admin_only=False)
    if run(("--help",)) != 0:
        raise SystemExit("the command line does not start")


def _within(file: Path, site: Path, places: Iterable[str]) -> bool:
    return any(file.is_relative_to(site / place) for place in places)


def _unused(site: Path) -> Iterator[Path]:
    chosen_late = {site / name for name in CHOSEN_LATE}
    zones_of_the_base = any(Path(path, "tzdata.zi").exists() for path in zoneinfo.TZPATH)
    for file in site.rglob("*"):
        place = file.relative_to(site)
        if file.is_dir() or place.parts[0] in OURS:
            continue
        if (
            file.suffix in SOURCES_OF_EXTENSIONS
            # It lists what is about to go; nothing will be installed over this environment or taken out of it.
            or place.match("*.dist-info/RECORD")
            or not {"testing", "tests"}.isdisjoint(place.parts)
            or (_within(file, site, NEVER_CHOSEN) and file not in chosen_late)
            or (zones_of_the_base and site / "tzdata" / "zoneinfo" in file.parents)
        ):
            yield file


if __name__ == "__main__":
    slim(Path(sysconfig.get_path("purelib")))
