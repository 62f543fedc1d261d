"""`init`: the secrets of a new gateway and of its stores, and its first admin key."""

import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from cyclopts import Parameter

from app.cli.failure import CommandFailed, DatabaseTrouble, InputRefused
from app.cli.migrate import FIRST_KEY_NAME
from app.cli.output import say, show_json
from app.cli.people import actor
from app.cli.place import load, names_database, open_database, reason
from db.app_role import NAME as APP_ROLE

if TYPE_CHECKING:
    from db.settings import DatabaseSettings
    from domain.first_key import FirstKey

PEPPER_FILE: Final = "key_pepper"
METRICS_FILE: Final = "metrics_token"
DIGEST_FILE: Final = "admin_key_digest"
POSTGRES_FILE: Final = "postgres_password"
VALKEY_FILE: Final = "valkey_password"
DATABASE_URL_FILE: Final = "database_url"
APP_DATABASE_URL_FILE: Final = "app_database_url"
REDIS_URL_FILE: Final = "redis_url"
STORE_FILES: Final = (POSTGRES_FILE, VALKEY_FILE, DATABASE_URL_FILE, APP_DATABASE_URL_FILE, REDIS_URL_FILE)
DEFAULT_DIRECTORY: Final = Path("secrets")

_PEPPER_ID: Final = "p1"
_TOKEN_BYTES: Final = 32
# The directory keeps everybody else out. Within it, each container reads what is mounted into it as a user of its own.
_DIRECTORY_MODE: Final = 0o700
_FILE_MODE: Final = 0o644
_POSTGRES: Final = "neuronetz-postgres:5432"
_VALKEY: Final = "neuronetz-redis:6379"
_VARIABLES: Final = {
    PEPPER_FILE: "GATEWAY_KEY_PEPPER_FILE",
    METRICS_FILE: "GATEWAY_METRICS_TOKEN_FILE",
    DIGEST_FILE: "GATEWAY_ADMIN_KEY_DIGEST_FILE",
}


class Initialised(msgspec.Struct, frozen=True):
    """What `init --json` prints.

    `files` is by variable; `store_files` are the passwords of the stores in compose.yml and the addresses made of
    them; `admin_key_in` is `database` or `file`.
    """

    admin_key: str
    prefix: str
    admin_key_in: str
    files: dict[str, str]
    store_files: list[str]

    def __repr__(self) -> str:
        return f"Initialised(prefix={self.prefix!r})"


async def init(
    *,
    directory: Path = DEFAULT_DIRECTORY,
    json: Annotated[bool, Parameter(help="Print one line of JSON, for machines.")] = False,
) -> None:
    """Make the secrets of a new gateway and its first admin key.

    Writes the key pepper and the metrics token as files in a directory that only you can open. The admin key is
    shown, this once: alone on standard output. If DATABASE_URL leads to a migrated database, the key is added
    there; otherwise its digest becomes a third file, and `migrate` adds it. Without DATABASE_URL, passwords for
    the Postgres and the Valkey of compose.yml and their addresses are written too. `up` needs none of this.

    Example: `neuronetz-gateway init --directory /etc/neuronetz-gateway/secrets`

    Parameters
    ----------
    directory
        Where the files go: a new directory, or one that is closed to others. No file that exists is overwritten.
    """
    from domain.first_key import FirstKey
    from domain.keys import PepperRing, mint, mint_pepper
    from domain.values import Role

    _refuse_second_pepper(os.environ, directory)
    _refuse_existing(directory)
    database = await _usable_database(os.environ)
    pepper, minted = mint_pepper(_PEPPER_ID), mint(Role.ADMIN)
    first = FirstKey.of(minted, PepperRing.parse(pepper))
    contents = {PEPPER_FILE: pepper, METRICS_FILE: secrets.token_urlsafe(_TOKEN_BYTES)}
    if database is None:
        contents[DIGEST_FILE] = first.line()
    if not names_database(os.environ):
        contents |= _for_stores()
    with _written(directory, contents) as files:
        if database is not None:
            await _add(first, database)
    _show(
        Initialised(
            minted.reveal(),
            minted.prefix,
            "file" if database is None else "database",
            {_VARIABLES[file.name]: str(file.absolute()) for file in files if file.name in _VARIABLES},
            [str(file.absolute()) for file in files if file.name in STORE_FILES],
        ),
        as_json=json,
    )


def _for_stores() -> dict[str, str]:
    """Return new passwords and the addresses made of them, in letters that no configuration file has to quote."""
    postgres, app, valkey = (secrets.token_hex(_TOKEN_BYTES) for _ in range(3))
    return {
        POSTGRES_FILE: postgres,
        VALKEY_FILE: valkey,
        DATABASE_URL_FILE: f"postgresql://gateway:{postgres}@{_POSTGRES}/gateway",
        APP_DATABASE_URL_FILE: f"postgresql://{APP_ROLE}:{app}@{_POSTGRES}/gateway",
        REDIS_URL_FILE: f"redis://:{valkey}@{_VALKEY}/0",
    }


def _refuse_second_pepper(environ: Mapping[str, str], directory: Path) -> None:
    """Leave a gateway that has a pepper alone: with a second one, its keys would be worth nothing."""
    file = environ.get("GATEWAY_KEY_PEPPER_FILE", "").strip()
    if environ.get("GATEWAY_KEY_PEPPER", "").strip() or (file and Path(file).exists()):
        raise CommandFailed(
            "GATEWAY_KEY_PEPPER is set: this gateway has its secrets already. To make those of another one,"
            f" unset it; nothing was written to {directory}."
        )


def _refuse_existing(directory: Path) -> None:
    try:
        there = [name for name in (*_VARIABLES, *STORE_FILES) if (directory / name).exists()]
        is_open = directory.is_dir() and stat.S_IMODE(directory.stat().st_mode) & ~_DIRECTORY_MODE
    except OSError as trouble:
        raise CommandFailed(f"{directory} cannot be looked into: {reason(trouble)}.") from trouble
    if there:
        raise CommandFailed(
            f"{directory} holds {' and '.join(there)} already, which are never overwritten;"
            " choose another --directory."
        )
    if is_open:
        raise CommandFailed(f"{directory} is open to other users; close it first: `chmod 700 {directory}`.")


async def _usable_database(environ: Mapping[str, str]) -> "DatabaseSettings | None":
    """Return where the first key can be stored right away, None if nowhere yet."""
    from db.settings import DatabaseSettings

    if not names_database(environ):
        return None
    try:
        settings = load(DatabaseSettings, environ)
        async with open_database(settings) as database, database.unit_of_work(actor()) as work:
            if not await work.keys(None).list():
                return settings
    except (InputRefused, DatabaseTrouble) as why:
        say(str(why), "So the admin key's digest becomes a file, and `neuronetz-gateway migrate` adds it.")
        return None
    raise CommandFailed(
        "The database has admin keys already, made with another pepper; find that one instead of making a new."
    )


async def _add(first: "FirstKey", settings: "DatabaseSettings") -> None:
    async with open_database(settings) as database, database.unit_of_work(actor()) as work:
        await work.keys(None).add_minted(first, name=FIRST_KEY_NAME)


@contextmanager
def _written(directory: Path, contents: Mapping[str, str]) -> Iterator[list[Path]]:
    """Write secret files; take them away again if the block fails, so that the next try finds none."""
    files: list[Path] = []
    try:
        directory.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        for name, content in contents.items():
            files.append(_write_new(directory / name, content))
        yield files
    except BaseException as trouble:
        for file in files:
            file.unlink(missing_ok=True)
        if isinstance(trouble, OSError):
            raise CommandFailed(f"{directory} cannot be written to: {reason(trouble)}.") from trouble
        raise


def _write_new(file: Path, content: str) -> Path:
    with file.open("x", encoding="ascii") as target:
        os.fchmod(target.fileno(), _FILE_MODE)
        target.write(f"{content}\n")
        target.flush()
        os.fsync(target.fileno())
    return file


def _show(done: Initialised, *, as_json: bool) -> None:
    if as_json:
        show_json(done)
        return
    say("Secret files, in a directory that only you can open; the gateway finds them by these variables:")
    say(*(f"  {variable}={file}" for variable, file in done.files.items()))
    if done.store_files:
        say("For the stores of compose.yml, which finds all of these by itself:")
        say(*(f"  {file}" for file in done.store_files))
    say("Keep the pepper safe and backed up: without it every key is worth nothing.", "")
    stored = "is in the database" if done.admin_key_in == "database" else "is added by the next `migrate`"
    say(f"The first admin key; it is not shown again. It {stored}:")
    print(done.admin_key)
