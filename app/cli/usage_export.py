"""`usage --export`: the rows of the ledger as a file, which can be gone on with where it broke off."""

from contextlib import aclosing
from datetime import datetime
from pathlib import Path

from app.cli.control import control_plane
from app.cli.control.port import ExportWanted
from app.cli.failure import CommandFailed
from app.cli.options import Common
from app.cli.output import count_of, progress, say, show_json
from app.cli.people import find_tenant
from app.cli.usage_file import STANDARD_OUTPUT, layout_of, target


async def export(
    file: Path,
    *,
    since: datetime | None,
    until: datetime,
    tenant: str | None,
    resume: bool,
    cursor: str | None,
    common: Common,
) -> None:
    """Write rows to a file as they come, oldest first.

    Raises
    ------
    CommandFailed
        The file or the ledger cannot be used; what is written stays, and can be resumed.
    """
    written = 0
    async with control_plane(common) as control:
        owner = None if tenant is None else await find_tenant(control, tenant, common)
        with target(file, resume=resume) as (out, last):
            wanted = ExportWanted(layout_of(file), since, until, owner, cursor or last)
            try:
                async with aclosing(control.usage.export(wanted)) as pieces:
                    with progress("exporting") as show:
                        async for piece in pieces:
                            out.write(piece)
                            written += piece.count(b"\n")
                            show(f"exporting, {count_of(written, 'line')} so far")
            except CommandFailed as failure:
                if file != STANDARD_OUTPUT:
                    say(f"{count_of(written, 'line')} are in {file}; --resume goes on after them.")
                raise failure from None
    has_heading = layout_of(file) == "csv" and wanted.cursor is None
    rows = written - has_heading
    if file == STANDARD_OUTPUT:
        say(f"{count_of(rows, 'row')}.")
    elif common.json:
        show_json({"file": str(file), "rows": rows})
    else:
        print(f"{count_of(rows, 'row')} written to {file}.")
