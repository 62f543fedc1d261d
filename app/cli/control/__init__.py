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
    url = address_meant(common)
    if url is not None:
        from app.cli.control.remote import remote_control_plane

        async with remote_control_plane(url, common.admin_key_file) as remote:
            yield remote
        return
    from app.cli.control.database import database_control_plane

    async with database_control_plane(common, waits=waits) as local:
        yield local


def address_meant(common: Common) -> str | None:
    """Return the address of the gateway that the options mean, None for the one of this machine.

    Raises
    ------
    InputRefused
        A key is given that goes with no address, or a gateway of this machine beside one elsewhere.
    """
    if common.url is not None and common.state_dir is not None:
        raise InputRefused(
            "--url means a gateway elsewhere, --state-dir one of this machine: give one of them."
        )
    if common.url is None and common.admin_key_file is not None:
        raise InputRefused(
            "--admin-key-file goes with --url; without it the database is asked, which needs no key."
        )
    return common.url
