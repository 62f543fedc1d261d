"""The options that all commands about a gateway share."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """Which gateway is meant, and who reads the answer."""

    json: Annotated[bool, Parameter(help="Print one line of JSON, for machines.")] = False
    state_dir: Annotated[
        Path | None,
        Parameter(help="Act on the `up` of this state directory, whatever DATABASE_URL says."),
    ] = None

    def command(self, words: str) -> str:
        """Return a command to type next, about the same gateway."""
        where = "" if self.state_dir is None else f" --state-dir {shlex.quote(str(self.state_dir))}"
        return f"neuronetz-gateway {words}{where}"


COMMON: Final = Common()
