"""`backends`: the Ollama servers as they are at the moment, and taking one out of service."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cyclopts import App

from app.cli.control import control_plane
from app.cli.failure import FAILED, CommandFailed, InputRefused, sentence
from app.cli.options import COMMON, Common
from app.cli.output import NOTHING, Table, count_of, say, show_json, show_table

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from app.cli.control.port import Changed
    from app.cli.fleet_lines import BackendLine

app = App(
    name="backends",
    help="""Show the live state of the Ollama servers, and take one out of service.

Example: `neuronetz-gateway backends list`
""",
)


@app.command(name="list")
async def list_(*, common: Common = COMMON) -> None:
    """List backends in the order in which they are used, with what they do at the moment.

    `requests` are those of all app processes; `left out by` counts the processes that avoid a backend for seconds
    because a request just failed there.

    Example: `neuronetz-gateway backends list --json`
    """
    async with control_plane(common) as control:
        backends = await control.fleet.backends()
    if common.json:
        show_json({"backends": backends})
        return
    headings = ("backend", "state", "version", "polled", "models", "loaded", "requests", "left out by")
    now = datetime.now(UTC)
    show_table(Table(headings, [_row(each, now) for each in backends], numbers=frozenset({4, 6, 7})))
    for each in backends:
        if each.drain is not None:
            say(
                f"{each.name} was drained by {each.drain.by} at {each.drain.at:%Y-%m-%d %H:%M} UTC: {each.drain.reason}"
            )


@app.command
async def drain(name: str, /, *, reason: str, wait: bool = False, common: Common = COMMON) -> int:
    """Take a backend out of service: it gets no new requests, and those that run finish.

    It stays so, whatever restarts meanwhile, until it is let back in.

    Example: `neuronetz-gateway backends drain gpu-2 --reason "gets a new card"`

    Parameters
    ----------
    name
        Its name in the settings.
    reason
        For whoever finds it drained.
    wait
        Return when every app process acts upon it; exit with 1 if one does not after 5 seconds.
    """
    if not reason.strip():
        raise InputRefused("--reason needs some words: whoever finds it drained wants to know why.")
    async with control_plane(common) as control:
        changed = await _decided(control.fleet.drain(name, reason.strip(), waits=wait), common)
    return _show(changed, "drained", waited=wait, common=common)


@app.command
async def undrain(name: str, /, *, wait: bool = False, common: Common = COMMON) -> int:
    """Let a drained backend back in.

    Example: `neuronetz-gateway backends undrain gpu-2`

    Parameters
    ----------
    name
        Its name in the settings.
    wait
        Return when every app process acts upon it; exit with 1 if one does not after 5 seconds.
    """
    async with control_plane(common) as control:
        changed = await _decided(control.fleet.undrain(name, waits=wait), common)
    return _show(changed, "back in service", waited=wait, common=common)


async def _decided(deciding: "Awaitable[Changed[BackendLine]]", common: Common) -> "Changed[BackendLine]":
    from domain.drains import BackendUnknown
    from domain.tenants import ControlError

    try:
        return await deciding
    except BackendUnknown as refusal:
        listed = common.command("backends list")
        raise CommandFailed(f"{sentence(refusal)[:-1]}; `{listed}` shows those there are.") from None
    except ControlError as refusal:
        raise InputRefused(sentence(refusal)) from None


def _show(changed: "Changed[BackendLine]", state: str, *, waited: bool, common: Common) -> int:
    before, after = changed
    code = FAILED if waited and after.effective is not True else 0
    if common.json:
        show_json({"backend": after, "changed": before.drain != after.drain})
        return code
    if before.drain == after.drain:
        print(f"Backend {after.name} was {state} before; nothing changed.")
    else:
        print(f"Backend {after.name} is {state}.")
    if waited and after.effective:
        print("Every app process acts upon it.")
    elif waited:
        print("Not every app process has confirmed it; each looks again within seconds.")
    elif after.drain is not None and after.in_flight:
        print(f"It still has {count_of(after.in_flight, 'request')}, which may finish.")
    return code


def _row(each: "BackendLine", now: datetime) -> tuple[str, ...]:
    state = each.condition if each.error is None else f"{each.condition} ({each.error})"
    if each.drain is not None:
        state += ", drained"
    return (
        each.name,
        state,
        each.version or NOTHING,
        NOTHING
        if each.polled_at is None
        else f"{max(0, round((now - each.polled_at).total_seconds())):,} s ago",
        f"{len(each.models):,}",
        ", ".join(each.loaded) or NOTHING,
        _of(each.in_flight, each.max_in_flight),
        NOTHING if each.cooling_in is None else f"{each.cooling_in:,}",
    )


def _of(number: int | None, most: int | None) -> str:
    """Return how many requests there are; the bound is for each model, so it says no more than that there is one."""
    if number is None:
        return NOTHING
    return f"{number:,}" if most is None else f"{number:,} ({most:,} per model)"
