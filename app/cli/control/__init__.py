"""What commands work with: the control plane of one gateway, whether it is asked in the database or by its admin API.

START READING at `port.py`: the one interface. `database.py` and `remote.py` are its two implementations, and which of
them a command gets is decided here, by its options.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.cli.control.port import ControlPlane
from app.cli.failure import InputRefused
from app.cli.options import Common


@asynccontextmanager
async def control_plane(common: Common, *, waits: bool = False) -> AsyncIterator[ControlPlane]:
    """Give the control plane that the options mean.

    Parameters
    ----------
    waits
        Whether `confirm` will be called: what it needs is looked for before anything is changed.

    Raises
    ------
    CommandFailed
        It cannot be reached, or the block failed because it refused.
    """
    if common.url is not None:
        from app.cli.control.remote import remote_control_plane

        async with remote_control_plane(common.url, common.admin_key_file) as remote:
            yield remote
        return
    if common.admin_key_file is not None:
        raise InputRefused(
            "--admin-key-file goes with --url; without it the database is asked, which needs no key."
        )
    from app.cli.control.database import database_control_plane

    async with database_control_plane(common, waits=waits) as local:
        yield local
