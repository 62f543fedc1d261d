"""The first admin key before there is a database: its digest in a line of text that `migrate` reads.

The line proves nothing without the pepper, and the key cannot be worked out from it.
"""

import re
from typing import Final

import msgspec

from domain.keys import MintedKey, PepperRing

_LINE: Final = re.compile(r"(nnga_[0-9A-Za-z]{8}) ([a-z0-9][a-z0-9_-]{0,31}) ([0-9a-f]{64})")


class FirstKey(msgspec.Struct, frozen=True):
    """What is stored of an admin key that was minted elsewhere."""

    prefix: str
    pepper_id: str
    digest: bytes

    @classmethod
    def of(cls, minted: MintedKey, peppers: PepperRing) -> "FirstKey":
        """Return what is stored of a key just minted."""
        pepper_id, digest = peppers.mint_digest(minted.reveal())
        return cls(minted.prefix, pepper_id, digest)

    @classmethod
    def parse(cls, line: str) -> "FirstKey":
        """Read what `line` wrote.

        Raises
        ------
        ValueError
            It is something else; the message does not repeat it.
        """
        parts = _LINE.fullmatch(line.strip())
        if parts is None:
            raise ValueError("it must be the line that `neuronetz-gateway init` wrote")
        return cls(parts[1], parts[2], bytes.fromhex(parts[3]))

    def line(self) -> str:
        """Return the text to keep."""
        return f"{self.prefix} {self.pepper_id} {self.digest.hex()}"

    def __repr__(self) -> str:
        return f"FirstKey({self.prefix}_***)"
