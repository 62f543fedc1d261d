"""An export takes no more memory for many rows than for few: neither the command, nor the process that it asks."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
import pytest

from app.embedded.environment import neutral_environment
from app.embedded.process import children_of
from tests.support.admin import Desk
from tests.support.counts import count
from tests.support.gateway import Gateway

FEW: Final = count(1_000, 10_000)
MANY: Final = count(20_000, 1_000_000)
PIECE_BYTES: Final = 65_536
HEADROOM_KIB: Final = 32 * 1024
FEW_ID, MANY_ID = UUID(int=0xFE), UUID(int=0xAA)
FEW_SLUG, MANY_SLUG = "exports-few", "exports-many"

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
    for tenant, slug, head, rows in (
        (FEW_ID, FEW_SLUG, "0767a000", FEW),
        (MANY_ID, MANY_SLUG, "0767b000", MANY),
    ):
        await sql.execute("INSERT INTO tenants (id, slug, name) VALUES ($1, $2, $2)", tenant, slug)
        await sql.execute(SEED, tenant, f"{head}-0000-7000-8000-", rows)
    await sql.execute("VACUUM ANALYZE usage_records")
    yield
    await sql.execute("DELETE FROM usage_records WHERE period = '2031-03-01'")
    await sql.close()


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("way", ["here", "there"])
async def test_a_command_that_exports_many_rows_stays_as_small_as_for_few(
    gateway: Gateway, admin_key: str, way: str
) -> None:
    environ = neutral_environment(os.environ) | {"DATABASE_URL": gateway.database_url}
    words = ["usage", "--export", "-", "--until", "2032-01-01"]
    if way == "there":
        environ = neutral_environment(os.environ) | {"GATEWAY_ADMIN_KEY": admin_key}
        words += ["--url", gateway.url]
    peaks = []
    for slug, rows in ((FEW_SLUG, FEW), (MANY_SLUG, MANY)):
        began = time.monotonic()
        ended = await asyncio.to_thread(run_measured, (*words, "--tenant", slug), environ)
        peaks.append(ended.peak_kib)
        told(f"command, {way}: {rows} rows", peaks[-1], began)

        assert (ended.code, ended.lines, ended.said) == (0, rows, f"{rows:,} rows.\n")

    assert peaks[1] - peaks[0] <= HEADROOM_KIB


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


class Ended(NamedTuple):
    """How a command ended: its code, the lines it printed, what it said beside them, and its peak memory."""

    code: int
    lines: int
    said: str
    peak_kib: int


def run_measured(words: Sequence[str], environ: Mapping[str, str]) -> Ended:
    """Run a command in a process of its own, take what it prints as it comes, and measure it with each piece.

    What the system says of a process that has ended counts the program that started it, too, so nobody waits for that.
    """
    lines = peak = 0
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            (sys.executable, "-m", "app", *words), env=environ, stdout=subprocess.PIPE, stderr=errors
        ) as program,
    ):
        assert program.stdout is not None
        while piece := os.read(program.stdout.fileno(), PIECE_BYTES):
            lines += piece.count(b"\n")
            peak = max(peak, peak_kib(program.pid))
        code = program.wait()
        errors.seek(0)
        return Ended(code, lines, errors.read(), peak)


def told(what: str, peak: int, began: float) -> None:
    """Tell whoever runs it with `-s` what the evidence should say."""
    sys.stdout.write(f"{what}: peak {peak} KiB, {time.monotonic() - began:.1f} s\n")


def forget_peak(pid: int) -> None:
    """Let the peak of a process's memory begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_kib(pid: int) -> int:
    """Return the most memory that a process has had resident since its peak was forgotten."""
    status = Path(f"/proc/{pid}/status").read_text()
    _, known, rest = status.partition("VmHWM:")
    return int(rest.split()[0]) if known else 0  # nothing is known of one that has just ended
