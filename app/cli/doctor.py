"""`doctor`: what is wrong with a gateway that nobody has noticed yet."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from app.cli.failure import FAILED, CommandFailed
from app.cli.model_table import read_model_table
from app.cli.options import LOCAL, Local
from app.cli.output import count_of, progress, say, show_json
from app.cli.place import database_troubles, environment, open_database, redis_troubles

if TYPE_CHECKING:
    from app.doctor.examination import Check, Examination
    from app.doctor.findings import Finding, FindingKind
    from db.settings import EnvSettings
    from domain.model_table import ModelTable

    Resolve = Callable[[str], Awaitable[Iterable[str]]]

_REDIS_TIMEOUT_MS: Final = 2000
_LOADS_SPAN: Final = timedelta(hours=24)
_LOADS_SAID: Final = "24 hours"


async def doctor(*, common: Local = LOCAL) -> int:
    """Look for what is wrong with a gateway: settings, stores, clocks, backends, models, grants.

    Each finding says what was found, why it matters and what to do. Run it where the gateway runs, with its settings.
    It changes nothing, and exits with 1 if it finds an error; warnings and notes alone are 0.

    Example: `neuronetz-gateway doctor --json`
    """
    from app.doctor.stores import utc_now
    from app.gateway.client_address import resolve_name

    environ = environment(common)
    with progress("looking"):
        found = await examine(environ, now=utc_now, resolve=resolve_name)
    if common.json:
        show_json(
            {
                "ok": not found.failed,
                "findings": [_plain(each) for each in found.findings],
                "checked": found.done,
                "not_checked": [{"check": check, "why": why} for check, why in found.skipped.items()],
            }
        )
    else:
        _show(found)
    return FAILED if found.failed else 0


async def examine(
    environ: Mapping[str, str], *, now: Callable[[], datetime], resolve: "Resolve"
) -> "Examination":
    """Make every check that can be made.

    Parameters
    ----------
    environ
        The settings of the gateway.
    now
        This machine's clock.
    resolve
        Returns the addresses of a host name, or raises `OSError`.
    """
    from app.doctor.examination import Examination

    found = Examination()
    await _look_at_settings(found, environ, resolve)
    table = await _look_at_redis(found, environ, now)
    await _look_at_database(found, environ, now, table)
    return found


async def _look_at_settings(found: "Examination", environ: Mapping[str, str], resolve: "Resolve") -> None:
    from app.doctor import settings as checks
    from app.doctor.examination import Check
    from app.doctor.findings import FindingKind
    from app.settings import AppSettings, load_app_settings, with_journal_dir
    from db.settings import settings_errors

    wrong = settings_errors(AppSettings, with_journal_dir(environ))
    if wrong:
        found.add(Check.SETTINGS, (_error(FindingKind.SETTINGS_INVALID, "settings", each) for each in wrong))
        found.skip("The settings are not usable as a whole.", Check.PROXIES)
        return
    settings = load_app_settings(environ)
    named = bool(environ.get("GATEWAY_TRUSTED_PROXIES", "").strip())
    stores = (
        ("DATABASE_URL", settings.database_url.get_secret_value(), "Postgres"),
        ("REDIS_URL", settings.redis_url.get_secret_value(), "Redis"),
    )
    found.add(
        Check.SETTINGS,
        checks.of_pepper(settings.key_pepper.get_secret_value()),
        *(checks.of_store_password(name, url, store=store) for name, url, store in stores),
        *(checks.of_store_encryption(name, url, store=store) for name, url, store in stores),
        checks.of_backend_encryption(settings.backends()),
        checks.of_surface(settings, behind_proxy=named),
        checks.of_metrics(settings),
    )
    found.add(
        Check.PROXIES,
        checks.of_proxy_networks(settings.trusted_proxies),
        await checks.of_proxy_names(settings.trusted_proxies, named=named, resolve=resolve),
    )


async def _look_at_redis(
    found: "Examination", environ: Mapping[str, str], now: Callable[[], datetime]
) -> "ModelTable | None":
    """Look at Redis and at what the model table in it says; return the table."""
    from app.doctor import fleet, stores
    from app.doctor.examination import Check
    from app.doctor.findings import FindingKind
    from db.redis.connection import connect_hot
    from db.redis.server_look import eviction_policy, server_time
    from db.settings import RedisSettings

    settings = _usable(RedisSettings, environ)
    if settings is None:
        found.skip("REDIS_URL cannot be used.", Check.REDIS, Check.BACKENDS, Check.MODELS)
        return None
    table = None
    with _noted(found, Check.REDIS, FindingKind.REDIS_UNUSABLE, "Redis", Check.BACKENDS, Check.MODELS):
        async with connect_hot(settings.redis_url, timeout_ms=_REDIS_TIMEOUT_MS) as redis:
            with redis_troubles(settings.redis_url):
                policy = await eviction_policy(redis)
                reading = await stores.read_clock(lambda: server_time(redis), now=now)
        found.add(Check.REDIS, stores.of_eviction(policy), stores.of_clock("Redis", reading))
        with _noted(found, Check.BACKENDS, FindingKind.TABLE_MISSING, "the model table", Check.MODELS):
            table, _ = await read_model_table(settings)
            found.add(Check.BACKENDS, fleet.of_table(table, now=now()), *_of_backends(table, environ))
            if table is None:
                found.skip("There is no model table.", Check.MODELS)
            else:
                found.add(Check.MODELS, fleet.of_digests(table))
    return table


def _of_backends(table: "ModelTable | None", environ: Mapping[str, str]) -> "Iterator[Iterable[Finding]]":
    from app.doctor import fleet
    from db.settings import BackendSettings
    from domain.backends import config_digest

    if table is None:
        return
    yield fleet.of_backends(table)
    yield fleet.of_versions(table)
    settings = _usable(BackendSettings, environ)
    if settings is not None:
        configured = {backend.name: config_digest(backend) for backend in settings.backends()}
        yield fleet.of_configuration(table, configured)


async def _look_at_database(
    found: "Examination",
    environ: Mapping[str, str],
    now: Callable[[], datetime],
    table: "ModelTable | None",
) -> None:
    from app.doctor import fleet, stores
    from app.doctor.examination import Check
    from app.doctor.findings import FindingKind
    from db import migrate
    from db.doctor_look import DoctorLook
    from db.settings import DatabaseSettings

    settings = _usable(DatabaseSettings, environ)
    if settings is None:
        found.skip("DATABASE_URL cannot be used.", Check.DATABASE, Check.GRANTS, Check.LOADS)
        return
    with _noted(found, Check.DATABASE, FindingKind.DATABASE_UNUSABLE, "Postgres", Check.GRANTS, Check.LOADS):
        url = settings.direct_url()
        with database_troubles(url):
            revision = await migrate.current(url.get_secret_value())
        async with open_database(settings) as database:
            look = DoctorLook(database.engine)
            reading = await stores.read_clock(look.clock, now=now)
            found.add(
                Check.DATABASE,
                stores.of_revision(revision, migrate.head()),
                stores.of_clock("Postgres", reading),
            )
            if revision != migrate.head():
                found.skip("The tables are not those of this release.", Check.GRANTS, Check.LOADS)
                return
            found.add(
                Check.LOADS,
                fleet.of_cold_loads(await look.cold_loads(now() - _LOADS_SPAN), span=_LOADS_SAID),
            )
            if table is None:
                found.skip("Without a model table nobody knows what is hosted.", Check.GRANTS)
            else:
                found.add(Check.GRANTS, fleet.of_grants(table, await look.grants()))


@contextmanager
def _noted(
    found: "Examination", check: "Check", kind: "FindingKind", store: str, *depending: "Check"
) -> Iterator[None]:
    """Turn a store that cannot be used into a finding, and what depends on it into checks that were not made."""
    try:
        yield
    except CommandFailed as trouble:
        found.add(check, (_error(kind, store, str(trouble)),))
        left = [each for each in depending if each not in found.done]
        found.skip(f"{store} cannot be used.", *left)


def _usable(kind: "type[EnvSettings]", environ: Mapping[str, str]) -> Any:
    """Return the settings of one kind, None where they are wrong: that is told elsewhere."""
    from db.settings import SettingsError, load_settings

    try:
        return load_settings(kind, environ)
    except SettingsError:
        return None


def _error(kind: "FindingKind", where: str, what: str) -> "Finding":
    from app.doctor.findings import Finding, Level

    return Finding(kind, Level.ERROR, where, what)


def _plain(finding: "Finding") -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "level": finding.level,
        "where": finding.where,
        "what": finding.what,
        "why": finding.explanation.why,
        "remedy": finding.explanation.remedy,
    }


def _show(found: "Examination") -> None:
    say(f"Looked at: {', '.join(found.done)}.")
    for check, why in found.skipped.items():
        say(f"Not looked at: {check}. {why}")
    if not found.findings:
        print("Nothing is wrong.")
        return
    for number, each in enumerate(found.findings):
        if number:
            print()
        print(f"{each.level.upper()}  {each.what}  [{each.kind}]")
        print(f"  Why: {each.explanation.why}")
        print(f"  Do:  {each.explanation.remedy}")
    print()
    levels = [each.level for each in found.findings]
    print(", ".join(count_of(levels.count(level), level.value) for level in dict.fromkeys(levels)) + ".")
