"""`usage --export`: the rows of the ledger as a file, which can be gone on with where it broke off."""

from contextlib import aclosing
from datetime import datetime
from pathlib import Path

from app.cli.control import control_plane
from app.cli.control.port import ExportWanted
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
        The file or the ledger cannot be used; rows that are written stay, and can be gone on with.
    """
    async with control_plane(common) as control:
        owner = None if tenant is None else await find_tenant(control, tenant, common)
        with target(file, resume=resume, cursor=cursor) as out:
            wanted = ExportWanted(layout_of(file), since, until, owner, out.cursor)
            async with aclosing(control.usage.export(wanted)) as pieces:
                with progress("exporting") as show:
                    async for piece in pieces:
                        out.write(piece)
                        show(f"exporting, {count_of(out.rows, 'row')} so far")
    if file == STANDARD_OUTPUT:
        say(f"{count_of(out.rows, 'row')}.")
    elif common.json:
        show_json({"file": str(file), "rows": out.rows})
    else:
        print(f"{count_of(out.rows, 'row')} written to {file}.")
