"""API keys: how they are spelled, minted, checked without I/O, and turned into digests.

`nng_<public id>_<secret>_<checksum>` belongs to a tenant, `nnga_...` to an admin. The head up to the public
id is the prefix: stored, shown and logged. The whole text is never stored; what is stored is its HMAC-SHA256
under a pepper that lives outside the database, so a stolen dump cannot be searched for keys.
"""

import base64
import binascii
import hashlib
import re
import secrets
import zlib
from collections.abc import Sequence
from typing import Final

import msgspec

from domain.values import Role

PUBLIC_ID_CHARS: Final = 8
SECRET_CHARS: Final = 30  # 178 bits in base 62; the promise is 160
CHECKSUM_CHARS: Final = 6  # holds a whole CRC-32, so every single wrong character is noticed
MIN_PEPPER_BYTES: Final = 32

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_HEADS: Final = {Role.INFERENCE: "nng", Role.ADMIN: "nnga"}
_ROLES: Final = {head.encode(): role for role, head in _HEADS.items()}
_SHAPE: Final = re.compile(
    rb"(nnga?)_[0-9A-Za-z]{%d}_[0-9A-Za-z]{%d}_([0-9A-Za-z]{%d})"
    % (PUBLIC_ID_CHARS, SECRET_CHARS, CHECKSUM_CHARS)
)
_PEPPER_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_BLOCK_BYTES: Final = 64  # SHA-256's block: the width of an HMAC key


class MintedKey(msgspec.Struct, frozen=True):
    """A new key. `reveal` is the only way to its text, which exists nowhere else."""

    _text: str
    prefix: str
    role: Role

    def reveal(self) -> str:
        """Return the whole key, to be shown once."""
        return self._text

    def __repr__(self) -> str:
        return f"MintedKey({self.prefix}_***)"


class ParsedKey(msgspec.Struct, frozen=True):
    """A presented key that is well formed; whether anybody owns it is not known yet."""

    text: bytes
    prefix: str
    role: Role

    def __repr__(self) -> str:
        return f"ParsedKey({self.prefix}_***)"


def mint(role: Role) -> MintedKey:
    """Make a new key from the operating system's randomness."""
    prefix = f"{_HEADS[role]}_{_random(PUBLIC_ID_CHARS)}"
    body = f"{prefix}_{_random(SECRET_CHARS)}"
    return MintedKey(f"{body}_{_checksum(body.encode()).decode()}", prefix, role)


def parse(text: str | bytes) -> ParsedKey | None:
    """Return the key if its spelling and checksum are right, else None. Junk ends here, before any I/O."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    shape = _SHAPE.fullmatch(raw)
    if shape is None:
        return None
    head, checksum = shape.groups()
    if _checksum(raw[: -CHECKSUM_CHARS - 1]) != checksum:
        return None
    return ParsedKey(raw, raw[: len(head) + 1 + PUBLIC_ID_CHARS].decode("ascii"), _ROLES[head])


class PepperRing:
    """The peppers in force, newest first: the first mints, each of them may prove a key.

    Parameters
    ----------
    peppers
        Pairs of pepper id and pepper bytes.
    """

    __slots__ = ("_ids", "_states")

    def __init__(self, peppers: Sequence[tuple[str, bytes]]) -> None:
        if not peppers:
            raise ValueError("at least one pepper is needed")
        self._ids = tuple(pepper_id for pepper_id, _ in peppers)
        self._states = tuple(_keyed(pepper) for _, pepper in peppers)

    @classmethod
    def parse(cls, value: str) -> "PepperRing":
        """Read `id:base64[,id:base64]`.

        Raises
        ------
        ValueError
            One sentence that says which entry is wrong and how; it never repeats a pepper.
        """
        peppers: dict[str, bytes] = {}
        for position, entry in enumerate(value.split(","), start=1):
            pepper_id, colon, encoded = entry.strip().partition(":")
            where = f"entry {position} of the key pepper"
            if not colon:
                raise ValueError(f"{where} must be written id:base64")
            if not _PEPPER_ID.fullmatch(pepper_id):
                raise ValueError(f"{where} needs an id of 1 to 32 characters from a-z, 0-9, - and _")
            if pepper_id in peppers:
                raise ValueError(f"{where} repeats an id; every pepper needs its own")
            peppers[pepper_id] = _decoded(encoded, where)
        return cls(tuple(peppers.items()))

    @property
    def minting_id(self) -> str:
        """The id of the pepper that new digests are made with."""
        return self._ids[0]

    def mint_digest(self, text: str | bytes) -> tuple[str, bytes]:
        """Return the id of the minting pepper and the digest of a key under it."""
        return self._ids[0], self.digests(text)[0]

    def digests(self, text: str | bytes) -> tuple[bytes, ...]:
        """Return the 32-byte digest of a key under each pepper, in the ring's order."""
        raw = text if isinstance(text, bytes) else text.encode()
        made = []
        for keyed_inner, keyed_outer in self._states:
            inner = keyed_inner.copy()
            inner.update(raw)
            outer = keyed_outer.copy()
            outer.update(inner.digest())
            made.append(outer.digest())
        return tuple(made)

    def __repr__(self) -> str:
        return f"PepperRing({', '.join(self._ids)})"


def mint_pepper(pepper_id: str) -> str:
    """Return a new ring entry, `id:base64`, with 32 random bytes."""
    return f"{pepper_id}:{base64.b64encode(secrets.token_bytes(MIN_PEPPER_BYTES)).decode()}"


def _random(count: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(count))


def _checksum(body: bytes) -> bytes:
    rest = zlib.crc32(body)
    chars = bytearray(CHECKSUM_CHARS)
    for place in range(CHECKSUM_CHARS - 1, -1, -1):
        rest, digit = divmod(rest, 62)
        chars[place] = _ALPHABET_BYTES[digit]
    return bytes(chars)


def _decoded(encoded: str, where: str) -> bytes:
    try:
        pepper = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        # The cause would quote the pepper, so it is left out.
        raise ValueError(f"{where} is not valid base64") from None
    if len(pepper) < MIN_PEPPER_BYTES:
        raise ValueError(f"{where} has {len(pepper)} bytes; it needs at least {MIN_PEPPER_BYTES}")
    return pepper


def _keyed(pepper: bytes) -> tuple["hashlib._Hash", "hashlib._Hash"]:
    """Return HMAC-SHA256's inner and outer state after the key (RFC 2104).

    Copying two states costs half of what `hmac.new` does, on a path every request takes.
    """
    key = hashlib.sha256(pepper).digest() if len(pepper) > _BLOCK_BYTES else pepper
    key = key.ljust(_BLOCK_BYTES, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))
    return inner, outer


_ALPHABET_BYTES: Final = _ALPHABET.encode()
