"""Every refusal and failure of the gateway.

GatewayError
|-- Unauthenticated            no usable key: one answer for every reason
|-- ModelForbidden             absent, not granted or cloud model: one answer for every reason
|-- RouteForbidden             one of Ollama's management routes
|-- UnknownPath, MethodNotAllowed
|-- BadRequest                 the request's own fault, before anything was sent upstream
|   |-- BodyTooLarge, BodyTooSlow, UnsupportedEncoding
|   |-- BrokenFraming          where the request ends is in doubt: its connection carries no other
|-- RejectedUpstream           the backend found the request itself at fault
|-- LimitExceeded              a limit or quota has no room for the request
|-- PromptTooLarge             no limit ever has room for the request
|-- NoCandidate                nothing could be tried, every backend was busy, or no place came free
|-- UpstreamExhausted          every attempt failed
|-- AnswerGivenUp              a working backend ended its answer in the middle
|-- Unavailable                our own trouble: journal full, key store or model table out of reach, draining
UpstreamFailed                 one failed attempt; never leaves the relay
LedgerFull                     the journal has no room; the HTTP layer answers Unavailable

`app/problems.py` is the only place that knows their HTTP status and wording per API family.
"""

from enum import IntEnum

from domain.limits import Refused


class GatewayError(Exception):
    """Base of everything that may be answered to a client."""


class Unauthenticated(GatewayError):  # noqa: N818 - reads as what happened
    """The caller proved no usable key. Deliberately carries no reason."""


class ModelForbidden(GatewayError):  # noqa: N818
    """The model is absent, not granted, or leaves the machine. Deliberately carries no reason."""


class RouteForbidden(GatewayError):  # noqa: N818
    """The path is one of Ollama's management routes."""


class UnknownPath(GatewayError):  # noqa: N818
    """No such path."""


class MethodNotAllowed(GatewayError):  # noqa: N818
    """The path exists for other methods: `allow` lists them."""

    def __init__(self, allow: str) -> None:
        super().__init__(allow)
        self.allow = allow


class BadRequest(GatewayError):  # noqa: N818
    """The request itself is at fault. `message` is ours and safe to show."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BodyTooLarge(BadRequest):
    """The body exceeds the limit of its route."""


class BodyTooSlow(BadRequest):
    """The body did not arrive in time."""


class UnsupportedEncoding(BadRequest):
    """The body is compressed in a way we do not decode."""


class BrokenFraming(BadRequest):
    """Where the request ends is in doubt, so its connection must not carry another one."""


class RejectedUpstream(GatewayError):  # noqa: N818
    """A backend refused the request as the client's own mistake. `message` is ours, never upstream text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class LimitExceeded(GatewayError):  # noqa: N818
    """A limit of the tenant or of the key has no room for the request now; nothing was reserved."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.refused.kind.value)
        self.refused = refused


class PromptTooLarge(GatewayError):  # noqa: N818
    """The prompt may need more tokens than one of the token limits is as a whole. Both count tokens."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(tokens, limit)
        self.tokens = tokens
        self.limit = limit


class NoCandidate(GatewayError):  # noqa: N818
    """No backend could be tried, all were busy, or no place came free in time."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


class UpstreamExhausted(GatewayError):  # noqa: N818
    """Every attempt failed before the first byte."""


class AnswerGivenUp(GatewayError):  # noqa: N818
    """A backend that works ended its answer in the middle, as Ollama does when a model repeats itself for too long.

    Nothing of it was relayed. `tokens` is what stood in it, roughly: it is charged, and no other backend is asked.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self.tokens = tokens


class Unavailable(GatewayError):  # noqa: N818
    """Our own trouble; the same request may work a little later. `reason` is a constant for the log."""

    def __init__(self, reason: str, retry_after_s: int = 5) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class Sent(IntEnum):
    """How far an attempt got."""

    NOTHING = 0
    REQUEST = 1
    HEAD_RECEIVED = 2


class UpstreamFailed(Exception):  # noqa: N818
    """One failed attempt at one backend.

    `kind` is a constant such as `connect_refused`, `first_byte_timeout`, `closed`, `protocol`, `oversize`.
    `detail` is bounded text of the backend for operator logs; a tenant never sees it.
    """

    def __init__(self, kind: str, sent: Sent, detail: str = "") -> None:
        super().__init__(kind)
        self.kind = kind
        self.sent = sent
        self.detail = detail


class LedgerFull(Exception):  # noqa: N818
    """The journal cannot take another open record."""
