"""What the stages of a request work with: built once per process, passed explicitly."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Final, NamedTuple
from uuid import UUID

from app.gateway.body import Bodies
from app.gateway.call import Call
from app.gateway.catalogue import Catalogue
from app.gateway.client_address import ClientAddress, TrustedProxies
from app.gateway.cooldown import Cooldown
from app.gateway.exchanges import CutReason, Exchanges, Subject
from app.gateway.journal.ledger import LedgerState
from app.gateway.key_uses import KeyUses
from app.gateway.limiter import Limiter
from app.gateway.lists import Listing
from app.gateway.loads import Loads
from app.gateway.places import Places
from app.gateway.show import Shows
from app.metrics import Metrics
from db.redis.limit_standing import LimitStanding
from domain.account import EvalRates
from domain.authenticate import authenticate, usable
from domain.keys import PepperRing
from domain.model_names import CanonicalName, ModelRights
from domain.model_table import BackendCondition
from domain.policies import ModelPolicies, Policy
from domain.ports import KeyStore, Ledger, Upstream
from domain.route import ModelIndex
from domain.usage import Settlement
from domain.values import Principal, Role

MAX_COMPILED_RIGHTS: Final = 100_000
METRICS_INTERVAL_S: Final = 1.0


class _Compiled(NamedTuple):
    """What is worked out of a principal once, and again whenever the principal was read again."""

    principal: Principal
    rights: ModelRights
    policies: ModelPolicies | None


class Gateway:
    """The collaborators of the relay, and the three look-ups every route shares."""

    def __init__(
        self,
        *,
        keys: KeyStore,
        peppers: PepperRing,
        key_uses: KeyUses,
        limiter: Limiter,
        standing: LimitStanding,
        image_tokens: int,
        proxies: TrustedProxies,
        catalogue: Catalogue,
        upstreams: Mapping[str, Upstream],
        cooldown: Cooldown,
        places: Places,
        ledger: Ledger,
        exchanges: Exchanges,
        metrics: Metrics,
        request_poll: Callable[[], None],
        bodies: Bodies,
        default_output_cap: int,
        ledger_state: Callable[[], LedgerState],
    ) -> None:
        self.catalogue = catalogue
        self.upstreams = upstreams
        self.cooldown = cooldown
        self.places = places
        self.ledger = ledger
        self.exchanges = exchanges
        self.metrics = metrics
        self.request_poll = request_poll
        self.bodies = bodies
        self.rates = EvalRates()
        self.loads = Loads()
        self._ledger_state = ledger_state
        self._keys = keys
        self._peppers = peppers
        self.limiter = limiter
        self.standing = standing
        self.shows = Shows(upstreams=upstreams, cooling=cooldown.cooling, request_poll=request_poll)
        self.image_tokens = image_tokens
        self._key_uses = key_uses
        self._proxies = proxies
        self._compiled: dict[UUID, _Compiled] = {}
        self._default_output_cap = default_output_cap
        self._default_policy = Policy({}, default_output_cap=default_output_cap)
        self._listing: tuple[ModelIndex, Listing] | None = None

    async def principal(self, call: Call) -> Principal:
        """Return the tenant principal of a call (stage 1).

        Raises
        ------
        Unauthenticated, Unavailable
            As `domain.authenticate.authenticate` says.
        """
        key = call.key()
        call.key_digests = self._peppers.digests(key)
        principal = await authenticate(
            key,
            digests=call.key_digests,
            role=Role.INFERENCE,
            keys=self._keys,
            now=datetime.now(UTC),
            client_address=lambda: self.client_address(call),
            in_path=call.key_in_path,
        )
        self._key_uses.note(principal.key_id)
        return principal

    def is_current(self, principal: Principal, call: Call) -> bool:
        """Tell whether a principal is still what memory holds: nothing was revoked while a body arrived."""
        return self._keys.remembered(call.key_digests[0]) is principal

    def client_address(self, call: Call) -> ClientAddress | None:
        """Return whose address a call really comes from, as far as trusted proxies tell."""
        return self._proxies.client_address(call.peer, call.forwarded_for)

    async def objection(self, subject: Subject) -> CutReason | None:
        """Ask again, of the caches and Postgres, why a running exchange would be refused now; None if it would not.

        Raises
        ------
        Unavailable
            Nobody can be asked.
        """
        principal = await self._keys.find_by_digest(subject.digests)
        now = datetime.now(UTC)
        if principal is None or not usable(
            principal,
            role=Role.INFERENCE,
            now=now,
            client_address=subject.client_address,
            in_path=subject.in_path,
        ):
            return CutReason.REVOKED
        return None if self.rights(principal).permit(subject.model) else CutReason.FORBIDDEN

    def rights(self, principal: Principal) -> ModelRights:
        """Return which models the principal may use."""
        return self._compile(principal).rights

    def policy(self, principal: Principal, model: CanonicalName) -> Policy:
        """Return what the principal's requests to one model may ask for."""
        policies = self._compile(principal).policies
        return self._default_policy if policies is None else policies.of(model)

    def _compile(self, principal: Principal) -> _Compiled:
        known = self._compiled.get(principal.key_id)
        if known is not None and known.principal is principal:
            return known
        if len(self._compiled) >= MAX_COMPILED_RIGHTS:
            self._compiled.clear()
        policies = principal.option_policies
        compiled = self._compiled[principal.key_id] = _Compiled(
            principal,
            ModelRights(principal.tenant_rights, principal.key_rights),
            None
            if policies is None
            else ModelPolicies(policies, default_output_cap=self._default_output_cap),
        )
        return compiled

    def listing(self) -> Listing:
        """Return the merged lists of the current snapshot.

        Raises
        ------
        Unavailable
            There is none yet: an empty list would be a lie.
        """
        index = self.catalogue.known()
        if self._listing is None or self._listing[0] is not index:
            self._listing = (index, Listing(index))
        return self._listing[1]

    def count_tokens(self, settled: Settlement) -> None:
        """Add a settled request's tokens to the metrics."""
        source = "estimated" if settled.estimated else "measured"
        self.metrics.add(self.metrics.tokens, ("in", source), settled.tokens_in)
        self.metrics.add(self.metrics.tokens, ("out", source), settled.tokens_out)

    def count_attempt(self, backend: str, result: str) -> None:
        """Count how one attempt at a backend went."""
        self.metrics.add(self.metrics.attempts, (backend, result))

    def count_failover(self, backend: str) -> None:
        """Count that a request moved on from `backend`."""
        self.metrics.add(self.metrics.failovers, (backend,))

    async def keep_metrics(self) -> None:
        """Bring all figures up to date every second, for ever, for scrapes that another process answers."""
        while True:
            await asyncio.sleep(METRICS_INTERVAL_S)
            self.refresh_metrics()
            self.metrics.flush()

    def refresh_metrics(self) -> None:
        """Bring the figures up to date that are read rather than counted."""
        ledger = self._ledger_state()
        self.metrics.in_flight.set(len(self.exchanges))
        self.metrics.buffered.set(self.bodies.buffered_bytes)
        self.metrics.limits_shared.set(self.limiter.shared_tenants)
        self.metrics.live_processes.set(self.limiter.processes)
        self.places.refresh_metrics()
        self.metrics.journal_open.set(ledger.open_records)
        self.metrics.journal_unconfirmed.set(ledger.unconfirmed_records)
        self.metrics.model_table_age.set(self.catalogue.age_s())
        for state in self.catalogue.index.backends:
            self.metrics.backend_up.labels(state.name).set(state.condition is BackendCondition.OK)
            self.metrics.backend_drained.labels(state.name).set(state.drained)


def first_of_month(moment: datetime) -> date:
    """Return the accounting period of a moment: the first day of its month in UTC."""
    return date(moment.year, moment.month, 1)
