"""Name and password of the role that app and worker log in with, as the address they use tells them."""

import re
from typing import Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit

NAME: Final = "gateway_app"
"""What the role is called where the operator does not say so."""

_SCHEMES: Final = frozenset({"postgresql", "postgres", "postgresql+asyncpg"})


class AppRole(NamedTuple):
    """Name and password of the role."""

    name: str
    password: str

    def __repr__(self) -> str:
        return f"AppRole({self.name!r})"

    @classmethod
    def parse(cls, url: str) -> "AppRole":
        """Read them from the address that app and worker use.

        Raises
        ------
        ValueError
            It is no such address; the text says what is wanted, without the address.
        """
        parts = urlsplit(url)
        role = cls(unquote(parts.username or ""), unquote(parts.password or ""))
        if parts.scheme not in _SCHEMES or not role.name or not role.password:
            raise ValueError(f"must be an address like postgresql://{NAME}:password@host:5432/name")
        if not re.fullmatch(r"[!-~]+", role.password):
            raise ValueError("must have a password of printable ASCII characters without blanks")
        return role

    def address(self, owner_url: str) -> str:
        """Return the address at which this role logs in to the database that an owner's address names."""
        parts = urlsplit(owner_url)
        place = parts.netloc.rpartition("@")[2]
        return parts._replace(
            netloc=f"{quote(self.name, safe='')}:{quote(self.password, safe='')}@{place}"
        ).geturl()
