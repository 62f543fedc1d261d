"""The ways in which a key ends or loses its model: by our own code, and by whoever writes SQL."""

from collections.abc import Awaitable, Callable
from typing import Final

from tests.support.gateway import Key
from tests.support.site import Site

Way = Callable[[Site, Key], Awaitable[None]]


async def by_repository(site: Site, key: Key) -> None:
    """Revoke it as the command line does."""
    await site.gateway.revoke(key)


async def by_sql(site: Site, key: Key) -> None:
    """Revoke it by hand."""
    await site.sql.execute("UPDATE api_keys SET status = 'revoked' WHERE id = $1", key.key_id)


async def by_deletion(site: Site, key: Key) -> None:
    """Delete its row."""
    await site.sql.execute("DELETE FROM api_keys WHERE id = $1", key.key_id)


async def by_expiry(site: Site, key: Key) -> None:
    """Let it expire now."""
    await site.sql.execute("UPDATE api_keys SET expires_at = now() WHERE id = $1", key.key_id)


async def by_networks(site: Site, key: Key) -> None:
    """Let it be used from elsewhere only."""
    await site.sql.execute("UPDATE api_keys SET allowed_networks = '{10.9.9.9/32}' WHERE id = $1", key.key_id)


async def by_suspension(site: Site, key: Key) -> None:
    """Suspend its tenant."""
    await site.sql.execute("UPDATE tenants SET status = 'suspended' WHERE id = $1", key.tenant_id)


async def by_grant(site: Site, key: Key) -> None:
    """Take its model away; needs a key that was granted models by name."""
    await site.sql.execute("DELETE FROM model_grants WHERE tenant_id = $1", key.tenant_id)


REFUSED_WITH: Final[dict[Way, int]] = {
    by_repository: 401,
    by_sql: 401,
    by_deletion: 401,
    by_suspension: 401,
    by_grant: 403,
}
"""The ways that are tried in great numbers, and the status that the key's requests get afterwards."""
