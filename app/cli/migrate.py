"""`migrate`: bring the database to this release."""

from typing import TYPE_CHECKING

from app.cli.failure import CommandFailed
from app.cli.options import LOCAL, Local
from app.cli.output import progress, say, show_json
from app.cli.people import actor
from app.cli.place import database_troubles, environment, load, open_database

if TYPE_CHECKING:
    from app.cli.settings import MigrateSettings

FIRST_KEY_NAME = "first key"


async def migrate(*, check: bool = False, common: Local = LOCAL) -> int:
    """Bring the database's tables to this release.

    Several replicas may run it at once. While no admin key exists, the one whose digest `init` wrote
    (GATEWAY_ADMIN_KEY_DIGEST) is added. The role of GATEWAY_APP_DATABASE_URL, with which app and worker log in, is
    made or brought up to date: it reads and writes rows, and cannot change tables.

    Example: `neuronetz-gateway migrate --check` changes nothing and exits with 1 if something is to be done.

    Parameters
    ----------
    check
        Only say how the database differs from this release.
    """
    from app.cli.settings import MigrateSettings

    settings = load(MigrateSettings, environment(common))
    return await (_check if check else _upgrade)(settings, common)


async def _check(settings: "MigrateSettings", common: Local) -> int:
    from db import migrate as migrations

    url = settings.direct_url()
    with database_troubles(url):
        found = await migrations.current(url.get_secret_value())
        differences = await migrations.check(url.get_secret_value())
    if common.json:
        show_json({"revision": found, "release": migrations.head(), "differences": differences})
    elif differences:
        print("The database differs from this release:")
        for difference in differences:
            print(f"  {difference}")
        if found != migrations.head():
            say("To change that:", f"  {common.command('migrate')}")
    else:
        print(f"The database is at this release (revision {found}).")
    return 1 if differences else 0


async def _upgrade(settings: "MigrateSettings", common: Local) -> int:
    from db import migrate as migrations
    from db.app_rights import AppRoleRefused

    url = settings.direct_url()
    try:
        with database_troubles(url), progress("migrating the database"):
            before = await migrations.current(url.get_secret_value())
            revision = await migrations.upgrade(url.get_secret_value(), app_role=settings.app_role())
    except migrations.MigrationRefused as refusal:
        raise CommandFailed(f"The database was left alone: {refusal}.") from None
    except AppRoleRefused as refusal:
        raise CommandFailed(str(refusal)) from None
    added = await _add_first_key(settings)
    if common.json:
        show_json({"revision": revision, "changed": before != revision, "admin_key_added": added})
        return 0
    print(f"The database is at revision {revision}{'' if before != revision else ', as it was before'}.")
    if added is not None:
        print(f"The admin key {added} is added.")
    return 0


async def _add_first_key(settings: "MigrateSettings") -> str | None:
    """Add the admin key that `init` announced, unless there is one; return its prefix if it was added."""
    from domain.first_key import FirstKey

    if settings.admin_key_digest is None:
        return None
    first = FirstKey.parse(settings.admin_key_digest.get_secret_value())
    async with open_database(settings) as database, database.unit_of_work(actor()) as work:
        keys = work.keys(None)
        if await keys.list() or not await keys.add_minted(first, name=FIRST_KEY_NAME):
            return None
    return first.prefix
