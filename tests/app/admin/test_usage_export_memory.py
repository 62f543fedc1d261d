"""An export takes no more memory for many rows than for few: at the database's own interface, and over HTTP."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from uuid import UUID

import asyncpg
import pytest

from app.embedded.process import children_of
from tests.support.admin import Desk
from tests.support.counts import count
from tests.support.gateway import Gateway

FEW: Final = count(1_000, 10_000)
MANY: Final = count(20_000, 1_000_000)
HEADROOM_KIB: Final = 32 * 1024
FEW_ID, MANY_ID = UUID(int=0xFE), UUID(int=0xAA)

SEED: Final = """
    INSERT INTO usage_records
    SELECT '2031-03-01', ($2 || lpad(to_hex(n), 12, '0'))::uuid, $1, $1, 'llama3.2:latest', repeat('a', 64), 'openai',
        '/v1/chat/completions', 'gpu-1', 1, '{gpu-1}', 'completed', 100, n % 500, NULL, false, 10, 20, 30, 40, 50, 60,
        timestamptz '2031-03-02' + n * interval '1 second', timestamptz '2031-03-02' + n * interval '1 second',
        'request-' || n
    FROM generate_series(1, $3::int) AS n
"""


@pytest.fixture(scope="module")
async def seeded(gateway: Gateway) -> AsyncIterator[None]:
    """Write the rows of two tenants."""
    sql = await asyncpg.connect(gateway.database_url)
    await sql.execute("SELECT make_usage_partition('2031-03-01')")
    for tenant, head, rows in ((FEW_ID, "0767a000", FEW), (MANY_ID, "0767b000", MANY)):
        await sql.execute(SEED, tenant, f"{head}-0000-7000-8000-", rows)
    await sql.execute("VACUUM ANALYZE usage_records")
    yield
    await sql.execute("DELETE FROM usage_records WHERE period = '2031-03-01'")
    await sql.close()


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("seeded")
async def test_a_program_that_exports_many_rows_stays_as_small_as_for_few(gateway: Gateway) -> None:
    found = {}
    for tenant in (FEW_ID, MANY_ID):
        began = time.monotonic()
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.exporter", gateway.database_url, str(tenant)),
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await program.communicate()
        lines, peak = map(int, said.split())
        found[lines] = peak
        told(f"program: {lines} rows", peak, began)

    assert [*found] == [FEW, MANY]
    assert found[MANY] - found[FEW] <= HEADROOM_KIB


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("form", ["ndjson", "csv"])
async def test_a_process_that_is_asked_for_many_rows_stays_as_small_as_for_few(
    desk: Desk, gateway: Gateway, form: str
) -> None:
    (worker,) = children_of(gateway.app.pid)
    peaks = []
    for tenant, rows in ((FEW_ID, FEW), (MANY_ID, MANY)):
        forget_peak(worker)
        began = time.monotonic()
        lines = size = 0
        path = f"/admin/v1/usage/export?format={form}&tenant={tenant}&until=2032-01-01T00:00:00Z"
        async with desk.client.stream("GET", path) as reply:
            async for piece in reply.aiter_bytes():
                lines += piece.count(b"\n")
                size += len(piece)
        peaks.append(peak_kib(worker))
        told(f"{form}: {rows} rows, {size / 1e6:.0f} MB", peaks[-1], began)

        assert lines == rows + (form == "csv")

    assert peaks[1] - peaks[0] <= HEADROOM_KIB


def told(what: str, peak: int, began: float) -> None:
    """Tell whoever runs it with `-s` what the evidence should say."""
    sys.stdout.write(f"{what}: peak {peak} KiB, {time.monotonic() - began:.1f} s\n")


def forget_peak(pid: int) -> None:
    """Let the peak of a process's memory begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_kib(pid: int) -> int:
    """Return the most memory that a process has had resident since its peak was forgotten."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
