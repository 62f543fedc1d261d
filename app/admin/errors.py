"""What only the admin surface refuses. `app/admin/problems.py` knows how each is told.

AdminError
|-- InvalidFields              fields or parameters that cannot be, each with its reason
|-- CrossSite                  a browser was made to send this by another site's page
|-- CsrfTokenMissing           nothing shows that our own page sent this
|-- PreconditionFailed         the resource is not any more what the caller has seen
|-- WrongMediaType             a body that is not JSON
|-- GrantTaken                 the holder has the grant already
|-- RuleUnknown                no policy rule stands there
|-- IdempotencyKeyReused       the key named another creation before
|-- CreatedBefore              a creation sent again whose answer cannot be told again
|-- TooManyLogins              too many keys of this address were wrong
|-- JobUnknown                 no such job
|-- JobBusy                    the job is not in a state for this
|-- RedisAway                  jobs and sessions cannot be asked about
"""

from collections.abc import Iterable

import msgspec
from msgspec import UNSET, UnsetType


class FieldError(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing wrong with a request.

    `pointer` (a JSON pointer as a URI fragment) names a field of the body, `parameter` one of the URL.
    """

    detail: str
    pointer: str | UnsetType = UNSET
    parameter: str | UnsetType = UNSET


class AdminError(Exception):
    """Base of the admin surface's own refusals."""


class InvalidFields(AdminError):  # noqa: N818 - reads as what happened
    """The request holds what cannot be."""

    def __init__(self, errors: Iterable[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__(self.errors)

    @classmethod
    def field(cls, pointer: str, detail: str) -> "InvalidFields":
        """Say what is wrong with one field of the body."""
        return cls([FieldError(detail, pointer=pointer)])

    @classmethod
    def parameter(cls, name: str, detail: str) -> "InvalidFields":
        """Say what is wrong with one parameter of the URL."""
        return cls([FieldError(detail, parameter=name)])


class CrossSite(AdminError):  # noqa: N818
    """A page of another site made a browser send this."""


class PreconditionFailed(AdminError):  # noqa: N818
    """`If-Match` names a state that is over."""


class WrongMediaType(AdminError):  # noqa: N818
    """The body is declared to be something else than JSON, or nothing."""


class GrantTaken(AdminError):  # noqa: N818
    """The tenant or key holds this very grant already."""

    def __init__(self, pattern: str) -> None:
        super().__init__(pattern)
        self.pattern = pattern


class RuleUnknown(AdminError):  # noqa: N818
    """No rule of an option policy stands at this level for this field."""


class IdempotencyKeyReused(AdminError):  # noqa: N818
    """The idempotency key came with another request before."""


class CreatedBefore(AdminError):  # noqa: N818
    """The same request has created it before, at `location`, and its answer held a secret."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.location = location


class TooManyLogins(AdminError):  # noqa: N818
    """The caller's address has presented too many wrong keys."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


class CsrfTokenMissing(AdminError):  # noqa: N818
    """A session's cookie came without the token that only our own page can send."""


class JobUnknown(AdminError):  # noqa: N818
    """No job has this name or key."""


class JobBusy(AdminError):  # noqa: N818
    """The job is not in a state for what was asked; `why` is a sentence."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class RedisAway(AdminError):  # noqa: N818
    """Redis, which keeps jobs and sessions, cannot be asked."""
