"""Ordering jobs ahead of their time, in the name of an operator: for the API and for the dashboard."""

from app.admin.administration import Administration
from app.admin.asking_redis import asking_redis
from app.admin.errors import JobBusy, JobUnknown
from app.admin.logins import Caller
from domain.jobs import EVERY_JOB, JobOrder


def known_job(name: str) -> JobOrder:
    """Return the job of that name.

    Raises
    ------
    JobUnknown
        There is none.
    """
    for order in EVERY_JOB:
        if order.name == name:
            return order
    raise JobUnknown


async def order_job(admin: Administration, caller: Caller, order: JobOrder, *, action: str) -> None:
    """Order a job and note who did. The event is there before the order, and gone if nothing came of it.

    Raises
    ------
    JobBusy
        It waits or runs already.
    RedisAway
        Nobody can be asked.
    """
    async with admin.database.unit_of_work(caller.actor) as work:
        await work.audit.append(action, f"job:{order.name}")
        async with asking_redis():
            taken = await admin.queue.order(order)
        if not taken:
            raise JobBusy(f"{order.name} waits or runs already, or was aborted a moment ago.")
