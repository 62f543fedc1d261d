"""Who calls the admin surface: the product's one way to prove a key, slowed for guessers, with every failure noted."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from app.admin.errors import TooManyLogins
from app.admin.failed_logins import UNKNOWN_ACTOR, FailedLogin, FailedLogins, Reason
from app.admin.login_budget import LoginBudget
from app.gateway.call import Call
from app.gateway.client_address import ClientAddress, TrustedProxies
from app.gateway.key_uses import KeyUses
from domain.authenticate import authenticate, usable
from domain.errors import Unauthenticated
from domain.keys import PepperRing, parse
from domain.ports import KeyStore
from domain.tenants import Actor
from domain.values import Principal, Role

_PROOF_BYTES: Final = 16
_NO_KEY: Final = b""


class Caller(msgspec.Struct, frozen=True):
    """An operator who has proven an admin key. `actor` is how the audit log names the request's changes."""

    principal: Principal
    actor: Actor


class Logins:
    """Turns the key that a request presents into its caller."""

    def __init__(
        self,
        *,
        keys: KeyStore,
        peppers: PepperRing,
        key_uses: KeyUses,
        proxies: TrustedProxies,
        budget: LoginBudget,
        failed: FailedLogins,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._keys: Final = keys
        self._peppers: Final = peppers
        self._key_uses: Final = key_uses
        self._proxies: Final = proxies
        self._budget: Final = budget
        self._failed: Final = failed
        self._now: Final = now

    async def caller(self, call: Call) -> Caller:
        """Return who calls.

        Raises
        ------
        Unauthenticated
            No admin key that works now and from there: no difference.
        TooManyLogins
            The address has presented too many wrong keys; this one was not looked at.
        Unavailable
            Nobody can be asked about the key.
        """
        if not call.presents_anything:
            # Nothing was tried, so nothing failed.
            raise Unauthenticated
        address = self._proxies.client_address(call.peer, call.forwarded_for)
        try:
            key = call.key()
        except Unauthenticated:
            key = _NO_KEY
        digests = self._peppers.digests(key)
        try:
            async with self._budget.one_try(address, digests[0][:_PROOF_BYTES]):
                principal = await self._proven(key, digests, address)
        except (Unauthenticated, TooManyLogins) as refusal:
            self._failed.note(self._failure(call, key, digests, address, refusal))
            raise
        return self._as_caller(principal, call, address)

    async def still(self, call: Call, digests: tuple[bytes, ...], *, prefix: str) -> Caller:
        """Return whom a key stands for now that was proven before, by its digests.

        Asked as for a running exchange: the key is looked up again, and has to be usable now and from there. No
        budget counts, as nobody can guess here.

        Raises
        ------
        Unauthenticated
            It would not be let in any more; that is noted as a failed login of `prefix`.
        Unavailable
            Nobody can be asked about the key.
        """
        address = self._proxies.client_address(call.peer, call.forwarded_for)
        principal = self._keys.remembered(digests[0]) or await self._keys.find_by_digest(digests)
        now = self._now()
        if principal is None or not usable(
            principal, role=Role.ADMIN, now=now, client_address=lambda: address
        ):
            self._failed.note(FailedLogin(prefix, address, call.request_id, now, digests=digests))
            raise Unauthenticated
        return self._as_caller(principal, call, address)

    def _as_caller(self, principal: Principal, call: Call, address: ClientAddress | None) -> Caller:
        self._key_uses.note(principal.key_id)
        told = None if address is None else str(address)
        return Caller(principal, Actor(principal.key_prefix, call.request_id, told))

    async def _proven(
        self, key: bytes, digests: tuple[bytes, ...], address: ClientAddress | None
    ) -> Principal:
        return await authenticate(
            key,
            digests=digests,
            role=Role.ADMIN,
            keys=self._keys,
            now=self._now(),
            client_address=lambda: address,
        )

    def _failure(
        self,
        call: Call,
        key: bytes,
        digests: tuple[bytes, ...],
        address: ClientAddress | None,
        refusal: Exception,
    ) -> FailedLogin:
        parsed = parse(key)
        reason: Reason | None = None
        if isinstance(refusal, TooManyLogins):
            reason = Reason.SLOWED
        elif parsed is None:
            reason = Reason.MALFORMED
        return FailedLogin(
            actor=UNKNOWN_ACTOR if parsed is None else parsed.prefix,
            address=address,
            request_id=call.request_id,
            at=self._now(),
            reason=reason,
            digests=digests if reason is None else (),
        )
