"""`jobs`: what the worker does by itself, how it went, and doing it now or again."""

from typing import TYPE_CHECKING

from cyclopts import App

from app.cli.control import control_plane
from app.cli.failure import FAILED, InputRefused
from app.cli.options import COMMON, Common
from app.cli.output import NOTHING, Table, count_of, moment, progress, say, show_json, show_table

if TYPE_CHECKING:
    from app.cli.fleet_lines import JobLine

app = App(
    name="jobs",
    help="""Show the worker's jobs, run one now, or again after a failure.

Example: `neuronetz-gateway jobs list`
""",
)


@app.command(name="list")
async def list_(*, common: Common = COMMON) -> None:
    """List the jobs with their last run and their next, and what waits in the queue.

    The worker's log has the whole of a failure.

    Example: `neuronetz-gateway jobs list --json`
    """
    async with control_plane(common) as control:
        found = await control.fleet.jobs()
    if common.json:
        show_json(found)
        return
    headings = ("job", "state", "last run (UTC)", "outcome", "took", "next run (UTC)")
    show_table(Table(headings, [_row(each) for each in found.jobs]))
    print(f"{count_of(found.workers, 'worker')}, {found.queued:,} waiting, {found.active:,} running.")
    if not found.workers:
        say("No worker runs, so nothing of this is done.")


@app.command
async def run(name: str, /, *, wait: bool = False, common: Common = COMMON) -> int:
    """Have a job run now, ahead of its time. Each may run as often as one likes.

    Example: `neuronetz-gateway jobs run usage.roll_up --wait`

    Parameters
    ----------
    name
        The job as `jobs list` names it.
    wait
        Return when it has ended; exit with 1 unless it did what it should.
    """
    return await _order(name, common, again=False, waits=wait)


@app.command
async def retry(name: str, /, *, wait: bool = False, common: Common = COMMON) -> int:
    """Have a job run again whose last run failed or was aborted; exit with 1 if it was not.

    Example: `neuronetz-gateway jobs retry usage.prune --wait`

    Parameters
    ----------
    name
        The job as `jobs list` names it.
    wait
        Return when it has ended; exit with 1 unless it did what it should.
    """
    return await _order(name, common, again=True, waits=wait)


async def _order(name: str, common: Common, *, again: bool, waits: bool) -> int:
    from domain.jobs import EVERY_JOB

    order = next((each for each in EVERY_JOB if each.name == name), None)
    if order is None:
        raise InputRefused(
            f"There is no job {name!r}; there are {', '.join(each.name for each in EVERY_JOB)}."
        )
    async with control_plane(common) as control:
        with progress(f"running {name}"):
            ended = await control.fleet.order_job(order, again=again, waits=waits)
    if common.json:
        show_json({"job": name, "run": ended})
    elif ended is None:
        print(f"{name} is ordered; `{common.command('jobs list')}` tells how it went.")
    else:
        print(f"{name}: {ended.outcome}{'' if ended.error is None else f', {ended.error}'}.")
    return FAILED if ended is not None and ended.failed else 0


def _row(each: "JobLine") -> tuple[str, ...]:
    last = each.last_run
    if last is None:
        return each.name, each.state, NOTHING, NOTHING, NOTHING, moment(each.next_run_at)
    outcome = last.outcome if last.error is None else f"{last.outcome} ({last.error})"
    took = f"{(last.ended_at - last.started_at).total_seconds():,.2f} s"
    return each.name, each.state, moment(last.ended_at), outcome, took, moment(each.next_run_at)
