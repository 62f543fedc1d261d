"""Where a command acts: the stores named in the environment, or those of an `up` that runs on this machine."""

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from app.cli.failure import CommandFailed, DatabaseTrouble, InputRefused
from app.cli.options import Local

if TYPE_CHECKING:
    from pydantic import SecretStr

    from db.postgres import Database
    from db.settings import DatabaseSettings, EnvSettings

    T = TypeVar("T", bound=EnvSettings)

REPORT_TIMEOUT_S = 60.0
"""A person waits longer for a report than a request may wait for a statement."""

_NOT_MIGRATED = ("42P01", "42703", "42704", "42883")  # no such table, column, type, function
_REFUSED_LOGIN = ("28000", "28P01")
_SENTENCES = {
    **dict.fromkeys(
        _NOT_MIGRATED, "The database at {} lacks tables of this release: run `neuronetz-gateway migrate`."
    ),
    **dict.fromkeys(_REFUSED_LOGIN, "Postgres at {} refused the user name or the password of DATABASE_URL."),
    "3D000": "Postgres at {} has no database of the name in DATABASE_URL.",
    "42501": (
        "Postgres at {} does not let the role of DATABASE_URL do that: run it with the address of the tables' owner,"
        " or `neuronetz-gateway migrate` with that address, which gives the role its rights."
    ),
    "57014": "Postgres at {} did not answer in time.",
}
"""What Postgres says by SQLSTATE, as a sentence about the server at an address."""


def names_database(environ: Mapping[str, str]) -> bool:
    """Return whether the environment says where Postgres is."""
    return any(environ.get(name, "").strip() for name in ("DATABASE_URL", "DATABASE_URL_FILE"))


def find_running(state_dir: Path | None) -> Mapping[str, str] | None:
    """Return the settings of the `up` that runs on a state directory (None: the default one), if one does."""
    from app.embedded.running import running_environment
    from app.settings import default_state_dir

    return running_environment(state_dir or default_state_dir(os.environ))


def environment(common: Local) -> Mapping[str, str]:
    """Return the settings a command works with.

    Raises
    ------
    CommandFailed
        Neither does the environment name a database nor does an `up` run.
    """
    if common.state_dir is None and names_database(os.environ):
        return os.environ
    running = find_running(common.state_dir)
    if running is not None:
        return running
    if common.state_dir is not None:
        raise CommandFailed(
            f"No gateway runs on {common.state_dir}: start it with `{common.command('up')}`,"
            " or leave --state-dir out."
        )
    raise CommandFailed(
        "DATABASE_URL is not set and no gateway runs here: start one with `neuronetz-gateway up`, name its"
        " directory with --state-dir, or set DATABASE_URL."
    )


def load(kind: "type[T]", environ: Mapping[str, str]) -> "T":
    """Return the settings of one kind.

    Raises
    ------
    InputRefused
        A value is missing or wrong.
    """
    from db.settings import SettingsError, load_settings

    try:
        return load_settings(kind, environ)
    except SettingsError as refusal:
        raise InputRefused(str(refusal)) from None


def gateway_url(environ: Mapping[str, str]) -> str:
    """Return where the gateway of these settings listens, as far as they tell."""
    host, port = environ.get("GATEWAY_HOST", "").strip(), environ.get("GATEWAY_PORT", "").strip()
    return f"http://{host or '127.0.0.1'}:{port or '8000'}"


@asynccontextmanager
async def open_database(settings: "DatabaseSettings") -> AsyncIterator["Database"]:
    """Give the database, and turn its troubles into sentences.

    Raises
    ------
    DatabaseTrouble
        It cannot be reached, refuses, or lacks the tables of this release.
    """
    from db.postgres import Database, create_engine

    engine = create_engine(
        settings.database_url.get_secret_value(),
        application_name="neuronetz-gateway cli",
        pool_size=None,
        statement_timeout_s=REPORT_TIMEOUT_S,
    )
    database = Database(engine)
    try:
        with database_troubles(settings.database_url):
            yield database
    finally:
        await database.aclose()


@contextmanager
def database_troubles(url: "SecretStr") -> Iterator[None]:
    """Turn what Postgres and the way to it can do to a block into one sentence.

    Raises
    ------
    DatabaseTrouble
        The block failed for such a reason.
    """
    import asyncpg
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError) as exc:
        # The cause is dropped: a driver's message may quote the address with its password.
        raise DatabaseTrouble(_database_sentence(exc, url)) from None


def _database_sentence(trouble: Exception, url: "SecretStr") -> str:
    where = store_address(url.get_secret_value())
    cause = getattr(trouble, "orig", None) or trouble
    state = getattr(cause, "sqlstate", None)
    if state in _SENTENCES:
        return _SENTENCES[state].format(where)
    if isinstance(cause, TimeoutError):
        return f"Postgres at {where} did not answer in time."
    if isinstance(cause, OSError):
        return f"Postgres at {where} cannot be reached: {reason(cause)}."
    return f"Postgres at {where} failed ({type(cause).__name__}{f' {state}' if state else ''})."


@contextmanager
def redis_troubles(url: "SecretStr") -> Iterator[None]:
    """Turn what Redis and the way to it can do to a block into one sentence.

    Raises
    ------
    CommandFailed
        The block failed for such a reason.
    """
    from redis.exceptions import AuthenticationError, RedisError
    from redis.exceptions import TimeoutError as RedisTimeout

    where = store_address(url.get_secret_value())
    try:
        yield
    except AuthenticationError:
        raise CommandFailed(f"Redis at {where} refused the password of REDIS_URL.") from None
    except RedisTimeout:
        raise CommandFailed(f"Redis at {where} did not answer in time.") from None
    except RedisError as exc:
        cause = exc.__cause__ or exc.__context__
        why = reason(cause) if isinstance(cause, OSError) else type(exc).__name__
        raise CommandFailed(f"Redis at {where} cannot be used: {why}.") from None


def store_address(url: str) -> str:
    """Return host and port of a store's address, or those of its Sentinels: what may be shown of it."""
    try:
        parts = urlsplit(url)
        if parts.scheme.endswith("+sentinel"):
            return f"the primary that {parts.netloc.rpartition('@')[2]} know"
        host, port = parts.hostname or parts.path or "its address", parts.port
    except ValueError:
        return "its address"
    return host if port is None else f"{host}:{port}"


def reason(trouble: OSError) -> str:
    """Return why a connection failed, in the operating system's words."""
    if isinstance(trouble, ConnectionRefusedError):
        return "connection refused"
    return (trouble.strerror or "connection failed").lower()
