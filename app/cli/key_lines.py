"""How the commands about keys write them, and what may be typed: references, moments, networks."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from app.cli.failure import InputRefused, sentence
from app.cli.output import Table, moment

if TYPE_CHECKING:
    from domain.tenants import KeySummary, Network

REVOKED_WITHIN_S: Final = 2
ANYWHERE: Final = "anywhere"
NEVER: Final = "never"
NOT_IN_PATHS: Final = "Only a tenant's key may stand in a path, not an admin key."

_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")
_SPAN: Final = re.compile(r"([1-9]\d{0,4})([mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}
_PREFIX: Final = re.compile(r"nnga?_[0-9A-Za-z]{8}")
_HEADINGS: Final = (
    "prefix",
    "name",
    "owner",
    "status",
    "created",
    "expires (UTC)",
    "last used (UTC)",
    "from",
)


class KeyLine(msgspec.Struct, frozen=True):
    """A key as these commands print it; `tenant` None means an admin key. Never with its text.

    `rotated_from` is the id of the key that it replaces.
    """

    id: str
    prefix: str
    name: str
    tenant: str | None
    role: str
    status: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    allowed_networks: tuple[str, ...]
    path_allowed: bool
    rotated_from: str | None


class NewKey(msgspec.Struct, frozen=True):
    """A key just created. `key` is its whole text, which exists nowhere else."""

    key: str
    summary: KeyLine

    def __repr__(self) -> str:
        return f"NewKey({self.summary.prefix}_***)"


def key_line(key: "KeySummary", tenant: str | None) -> KeyLine:
    """Return a key as it is printed; `tenant` is its owner's slug."""
    return KeyLine(
        id=str(key.id),
        prefix=key.prefix,
        name=key.name,
        tenant=tenant,
        role=key.role.value,
        status=_status(key),
        created_at=key.created_at,
        expires_at=key.expires_at,
        last_used_at=key.last_used_at,
        allowed_networks=key.allowed_networks,
        path_allowed=key.path_allowed,
        rotated_from=None if key.rotated_from is None else str(key.rotated_from),
    )


def key_table(lines: Iterable[KeyLine]) -> Table:
    """Return keys as a table."""
    return Table(_HEADINGS, [_cells(line) for line in lines])


def _cells(line: KeyLine) -> tuple[str, ...]:
    return (
        line.prefix,
        line.name,
        line.tenant or "(admin)",
        line.status,
        f"{line.created_at.astimezone(UTC):%Y-%m-%d}",
        moment(line.expires_at),
        moment(line.last_used_at),
        (", ".join(line.allowed_networks) or ANYWHERE) + (", in paths too" if line.path_allowed else ""),
    )


def _status(key: "KeySummary") -> str:
    from domain.tenants import KeyStatus

    over = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    return "expired" if over and key.status is KeyStatus.ACTIVE else key.status.value


def shown_reference(text: str) -> str:
    """Return what may be repeated of a key's name: a whole key that was pasted is cut to its prefix.

    Raises
    ------
    InputRefused
        It is neither a prefix nor an id.
    """
    from uuid import UUID

    prefix = _PREFIX.match(text)
    if prefix is not None:
        return prefix[0]
    try:
        return str(UUID(text))
    except ValueError:
        # Not repeated: it might be a damaged key.
        raise InputRefused(
            "A key is named by its prefix, `nng_` and eight characters, or by its id; `keys list` shows them."
        ) from None


def revoked_everywhere() -> str:
    """Return what a revocation does, as far as it is promised."""
    return f"It stops working everywhere within {REVOKED_WITHIN_S} seconds, and its running streams are cut."


def name_meant(text: str) -> str:
    """Return a key's name.

    Raises
    ------
    InputRefused
        It is blank, too long or breaks the line.
    """
    if not text.strip():
        raise InputRefused("A key needs a name, so that it can be told from others.")
    from domain.tenants import NameMissing, checked_name

    try:
        return checked_name(text)
    except NameMissing as refusal:
        raise InputRefused(sentence(refusal)) from None


def expiry_meant(text: str) -> datetime | None:
    """Return the moment a key ends, None for `never`.

    Raises
    ------
    InputRefused
        It is no moment, or over.
    """
    if text == NEVER:
        return None
    try:
        at = datetime.fromisoformat(text)
        if _DAY.fullmatch(text):
            at += timedelta(days=1)
    except (ValueError, OverflowError):
        raise InputRefused(
            f"{text!r} is no date; write it as 2027-06-30 or 2027-06-30T12:00, or say never."
        ) from None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    if at <= datetime.now(UTC):
        raise InputRefused(f"{text} is over; a key must expire in the future.")
    return at


def networks_meant(texts: Sequence[str]) -> "tuple[Network, ...]":
    """Return the networks that callers may come from, none for `anywhere`.

    Raises
    ------
    InputRefused
        One of them is no network, or `anywhere` stands beside others.
    """
    if ANYWHERE not in texts:
        return tuple(map(_network, texts))
    if len(texts) > 1:
        raise InputRefused(f"{ANYWHERE} leaves nothing to add: give it alone.")
    return ()


def overlap_meant(text: str) -> timedelta:
    """Return how long `24h` is; `0` is no time at all.

    Raises
    ------
    InputRefused
        It is no length of time, or too long.
    """
    from domain.rotations import OverlapInvalid, checked_overlap

    if text == "0":
        return timedelta(0)
    span = _SPAN.fullmatch(text)
    if span is None:
        raise InputRefused(f"{text!r} is no length of time; write 7d, 24h, 30m, or 0 for none.")
    try:
        return checked_overlap(timedelta(**{_UNITS[span[2]]: int(span[1])}))
    except OverlapInvalid as refusal:
        raise InputRefused(sentence(refusal)) from None


def _network(text: str) -> "Network":
    from ipaddress import ip_network

    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        meant = ip_network(text, strict=False)
    except ValueError:
        raise InputRefused(f"{text!r} is no network such as 10.0.0.0/8.") from None
    raise InputRefused(
        f"{text!r} is an address within a network (it has host bits): write {meant} for all of it."
    )
