"""The options that all commands about a gateway share."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Local:
    """Which gateway of this machine is meant, and who reads the answer."""

    json: Annotated[bool, Parameter(help="Print one line of JSON, for machines.")] = False
    state_dir: Annotated[
        Path | None,
        Parameter(help="Act on the `up` of this state directory, whatever DATABASE_URL says."),
    ] = None

    def command(self, words: str) -> str:
        """Return a command to type next, about the same gateway."""
        where = "" if self.state_dir is None else f" --state-dir {shlex.quote(str(self.state_dir))}"
        return f"neuronetz-gateway {words}{where}"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common(Local):
    """Which gateway is meant, this machine's or one elsewhere, and who reads the answer."""

    url: Annotated[
        str | None,
        Parameter(
            help="Act on the gateway at this address by its admin API, with the admin key in GATEWAY_ADMIN_KEY."
        ),
    ] = None
    admin_key_file: Annotated[
        Path | None, Parameter(help="File that holds the admin key, instead of GATEWAY_ADMIN_KEY.")
    ] = None

    def command(self, words: str) -> str:
        """Return a command to type next, about the same gateway."""
        if self.url is None:
            return Local.command(self, words)
        where = f" --url {shlex.quote(self.url)}"
        if self.admin_key_file is not None:
            where += f" --admin-key-file {shlex.quote(str(self.admin_key_file))}"
        return f"neuronetz-gateway {words}{where}"


LOCAL: Final = Local()
COMMON: Final = Common()
