"""A program that exports a tenant's usage to nowhere and prints how many lines that were, and its peak memory in KiB.

python -m tests.support.exporter DATABASE_URL TENANT_ID
"""

import asyncio
import resource
import sys
from datetime import UTC, datetime
from uuid import UUID

from app.usage_export import ExportFormat, export
from db.postgres import create_engine
from db.usage_rows import LedgerRows
from domain.usage_rows import UsageFilter
from domain.values import TenantId


async def main(url: str, tenant: str) -> None:
    """Export everything the tenant ever used."""
    engine = create_engine(url, application_name="exporter", pool_size=1, statement_timeout_s=30)
    wanted = UsageFilter(
        datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC), TenantId(UUID(tenant))
    )
    lines = 0
    async for piece in export(LedgerRows(engine), wanted, form=ExportFormat.NDJSON):
        lines += piece.count(b"\n")
    await engine.dispose()
    sys.stdout.write(f"{lines} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
