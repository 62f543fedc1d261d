"""Builders of asks around the present, and a tenant that Redis already knows."""

import struct
import time
from collections.abc import Iterable, Mapping
from typing import cast
from uuid import UUID, uuid4

from db.redis.limit_recounts import LimitRecounts
from db.redis.limits import LimitStore
from db.redis.multiplex import MultiplexedRedis
from domain.limits import Admitted, Ask, LimitKind, PeriodBounds, Refused, Spent
from domain.recounts import Recount
from domain.values import KeyId, Limits, RequestId, TenantId

DAY_S = 86_400
UNLIMITED = Limits()
STANDING = struct.Struct("<5d")
"""A scope's standing in Redis; the last number is how many of its requests run."""
_TOO_MUCH = 10**12


def bounds(now: int, length: int, *, since: int) -> PeriodBounds:
    """Return periods of a length, the current one of which began so many seconds ago."""
    start = now - since
    return PeriodBounds(start - length, start, start + length, start + 2 * length)


class Customer:
    """One tenant with one key, and the periods it counts in."""

    def __init__(
        self, *, now: int | None = None, tenant: Limits = UNLIMITED, key: Limits = UNLIMITED
    ) -> None:
        now = now or int(time.time())
        self.tenant_id = TenantId(uuid4())
        self.key_id = KeyId(uuid4())
        self.tenant = tenant
        self.key = key
        self.day = bounds(now, DAY_S, since=3600)
        self.month = bounds(now, 30 * DAY_S, since=2 * DAY_S)

    def ask(self, tokens: int = 0, *, request_id: UUID | None = None) -> Ask:
        """Return what a new request asks."""
        return Ask(
            request_id=RequestId(request_id or uuid4()),
            tenant_id=self.tenant_id,
            key_id=self.key_id,
            tenant_limits=self.tenant,
            key_limits=self.key,
            tokens=tokens,
            day=self.day,
            month=self.month,
        )

    def spent(self, tokens: int = 0) -> tuple[Spent, ...]:
        """Return that the tenant and its key have spent so many tokens in the current day and month."""
        return tuple(
            Spent(kind, period.current, period.next, key_id, tokens)
            for kind, period in (
                (LimitKind.TOKENS_PER_DAY, self.day),
                (LimitKind.TOKENS_PER_MONTH, self.month),
            )
            for key_id in (None, self.key_id)
        )


async def begin(store: LimitStore, tenant_id: TenantId, sums: Iterable[Spent] = ()) -> bool:
    """Tell Redis what a tenant has spent, where nothing runs that it does not know."""
    recounts = LimitRecounts(store.redis, process_id="test")
    await recounts.mark(tenant_id, "test")
    return await recounts.begin(tenant_id, "test", Recount(sums=tuple(sums)))


async def customer(
    store: LimitStore, *, tenant: Limits | None = None, key: Limits | None = None, spent: int = 0
) -> Customer:
    """Return a tenant whom Redis knows."""
    made = Customer(tenant=tenant or Limits(), key=key or Limits())
    assert await begin(store, made.tenant_id, made.spent(spent))
    return made


async def memory(redis: MultiplexedRedis, of: Customer) -> dict[bytes, object]:
    """Return all that Redis keeps of a tenant."""
    keys = await redis.call("KEYS", f"nng:{{t:{of.tenant_id}}}*")
    assert isinstance(keys, list)
    return {key: await redis.call("DUMP", key) for key in sorted(keys)}


async def remaining(store: LimitStore, customer: Customer) -> dict[tuple[str, LimitKind], int]:
    """Return what is left of each limit by asking for too much, which changes nothing; needs a token limit."""
    answer = await store.take(customer.ask(_TOO_MUCH))
    assert isinstance(answer, Refused)
    return {(state.scope, state.kind): state.remaining for state in answer.states}


async def admitted(store: LimitStore, ask: Ask) -> Admitted:
    """Take what must be admitted."""
    answer = await store.take(ask)
    assert isinstance(answer, Admitted), answer
    return answer


async def refused(store: LimitStore, ask: Ask) -> Refused:
    """Take what must be refused."""
    answer = await store.take(ask)
    assert isinstance(answer, Refused), answer
    return answer


def running_requests(hgetall: Mapping[bytes | str, bytes | str]) -> dict[bytes, int]:
    """Return how many requests run by scope, of a tenant's standings in Redis; those with none are left out."""
    standings = cast("Mapping[bytes, bytes]", hgetall)  # from a client that returns bytes
    running = {scope: int(STANDING.unpack(one)[-1]) for scope, one in standings.items() if scope != b"epoch"}
    return {scope: number for scope, number in running.items() if number}


async def age_reservations(redis: MultiplexedRedis, of: Customer, seconds: int) -> None:
    """Make every reservation that much older."""
    script = """
    local open = redis.call('HGETALL', KEYS[1])
    for i = 1, #open, 2 do
      local held = cmsgpack.unpack(open[i + 1])
      held.at = held.at - tonumber(ARGV[1])
      redis.call('HSET', KEYS[1], open[i], cmsgpack.pack(held))
    end
    """
    await redis.call("EVAL", script, 1, f"nng:{{t:{of.tenant_id}}}:open", seconds)
