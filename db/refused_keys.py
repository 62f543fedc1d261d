"""Why a key was refused: looked up afterwards, for the audit log alone. The caller is never told."""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.tenants import KeyStatus, RefusedKey
from domain.values import KeyId, Role

_FIND: Final = text("""
    SELECT id, role, status, expires_at, ARRAY(SELECT n::text FROM unnest(allowed_networks) AS n) AS networks
    FROM api_keys WHERE digest = ANY(CAST(:digests AS bytea[])) LIMIT 1
""")


class RefusedKeys:
    """Reads keys by digest whatever has become of them. Tenants' requests never come here."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def find_by_digest(self, digests: tuple[bytes, ...]) -> RefusedKey | None:
        """Return the key with one of these digests, revoked, expired or of a tenant as it may be."""
        async with self._engine.connect() as connection:
            row = (await connection.execute(_FIND, {"digests": digests})).first()
        return None if row is None else _refused(row)


def _refused(row: Row[Any]) -> RefusedKey:
    expires_at: datetime | None = row.expires_at
    return RefusedKey(KeyId(row.id), Role(row.role), KeyStatus(row.status), expires_at, tuple(row.networks))
