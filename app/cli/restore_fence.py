"""`restore-fence`: what to run after the database was restored from a backup."""

import time
from typing import TYPE_CHECKING

from app.cli.confirmed import exit_code, told, wait_for_confirmation
from app.cli.failure import CommandFailed
from app.cli.options import LOCAL, Local
from app.cli.output import say, show_json
from app.cli.people import actor
from app.cli.place import environment, load, open_database, reason, redis_troubles

if TYPE_CHECKING:
    from db.restore_fence import FenceReport

_TIMEOUT_MS = 10_000


async def restore_fence(*, common: Local = LOCAL) -> int:
    """Fence off what a restored backup brings back: revoked keys, and caches that know a later past.

    Run it after each restore, before the gateway serves again. It repeats the revocations that
    GATEWAY_REVOCATION_MIRROR remembers, lets the sequence of revocations go on above every number that anybody
    has seen, and has every process drop its caches. To run it again does no harm.

    Example: `neuronetz-gateway restore-fence`
    """
    from app.cli.settings import RestoreFenceSettings
    from db.redis.connection import connect_hot
    from db.restore_fence import raise_restore_fence
    from db.revocation_mirror import RevocationMirror

    settings = load(RestoreFenceSettings, environment(common))
    path = settings.revocation_mirror
    if path is not None and not path.exists():
        raise CommandFailed(
            f"There is no mirror at {path}: bring it back, or unset GATEWAY_REVOCATION_MIRROR."
        )
    async with (
        open_database(settings) as database,
        connect_hot(settings.redis_url, timeout_ms=_TIMEOUT_MS) as redis,
    ):
        with redis_troubles(settings.redis_url):
            try:
                report = await raise_restore_fence(
                    database, redis, None if path is None else RevocationMirror(path), actor=actor()
                )
            except OSError as exc:
                if exc.filename != str(path):
                    raise
                raise CommandFailed(f"The mirror at {path} cannot be used: {reason(exc)}.") from None
    found = await wait_for_confirmation(report.seq, since=time.monotonic(), redis_url=settings.redis_url)
    if common.json:
        show_json({"fence": report, "confirmation": found})
        return exit_code(found)
    _show(report, mirrored=path is not None)
    print(told(found))
    return exit_code(found)


def _show(report: "FenceReport", *, mirrored: bool) -> None:
    print(f"The sequence of revocations goes on from {report.seq}; it stood at {report.newest_before}.")
    if not mirrored:
        say(
            "Without GATEWAY_REVOCATION_MIRROR nobody knows what was revoked after the backup: look through the keys."
        )
    elif not report.highest_in_mirror:
        say(
            "The mirror remembers nothing. If anything was ever revoked, bring the right one back and run this again."
        )
    for done, subjects in (("Revoked again", report.keys), ("Suspended again", report.tenants)):
        if subjects:
            print(f"{done}: {', '.join(subjects)}.")
    if mirrored and not report.keys and not report.tenants:
        print("No key and no tenant had to be revoked again.")
    if report.changed:
        print(
            f"Changed after the backup in another way, look at their grants and limits: {', '.join(report.changed)}."
        )
