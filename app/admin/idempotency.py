"""Idempotency keys: a creation that is asked for twice, because its answer was lost, happens once."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec
from litestar import MediaType, Response
from litestar.params import HeaderParameter

from app.admin import etags
from app.admin.errors import CreatedBefore, IdempotencyKeyReused
from app.admin.logins import Caller
from app.admin.wording import WORD
from db.creations import Creation
from db.postgres import UnitOfWork

A = TypeVar("A", bound=msgspec.Struct)

MAX_KEY_CHARS: Final = 255

IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        min_length=1,
        max_length=MAX_KEY_CHARS,
        pattern=WORD,
        description="Names this creation, so that sending it again does not repeat it. Best a random UUID.",
    ),
]


class Created(msgspec.Struct, Generic[A], frozen=True):
    """What a request has created: the answer, and where it is from now on.

    `told_once`: the answer holds a secret. Otherwise it is what is read there, and so carries an ETag.
    """

    answer: A
    location: str
    told_once: bool = False

    def response(self) -> Response[A]:
        """Return the answer to whoever asked first."""
        headers = {"location": self.location}
        if not self.told_once:
            headers["etag"] = etags.etag_of(self.answer)
        return Response(self.answer, headers=headers)


class Once(msgspec.Struct, frozen=True):
    """One request to create something: who asks, under which idempotency key, where, and for what."""

    caller: Caller
    idempotency_key: str | None
    path: str
    wanted: msgspec.Struct

    async def create(self, work: UnitOfWork, create: Callable[[], Awaitable[Created[A]]]) -> Response[Any]:
        """Create it and answer, or answer as the first time.

        Raises
        ------
        IdempotencyKeyReused
            The first time something else was wanted.
        CreatedBefore
            The answer of the first time cannot be given again.
        """
        if self.idempotency_key is None:
            return (await create()).response()
        asker = self.caller.principal.key_id
        fingerprint = self._fingerprint()
        earlier = await work.creations.claim(asker, self.idempotency_key, fingerprint)
        if earlier is not None:
            return _again(earlier, fingerprint)
        made = await create()
        await work.creations.complete(
            asker,
            self.idempotency_key,
            location=made.location,
            answer=None if made.told_once else msgspec.json.encode(made.answer).decode(),
        )
        return made.response()

    def _fingerprint(self) -> bytes:
        return hashlib.sha256(msgspec.json.encode((self.path, self.wanted))).digest()


def _again(earlier: Creation, fingerprint: bytes) -> Response[Any]:
    if earlier.fingerprint != fingerprint:
        raise IdempotencyKeyReused
    if earlier.answer is None:
        raise CreatedBefore(earlier.location)
    answer = msgspec.Raw(earlier.answer.encode())
    headers = {"location": earlier.location, "etag": etags.etag_of(answer)}
    return Response(answer, headers=headers, media_type=MediaType.JSON)
