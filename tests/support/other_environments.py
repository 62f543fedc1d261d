"""Install the clients that the suite runs outside its own environment: `python -m tests.support.other_environments`.

Exits with 75 if the machine does not let it install all of them.
"""

import sys
from typing import Final

from tests.support.langchain import install_langchain
from tests.support.node import install_clients, install_sdk_tools
from tests.support.scenes import CannotRun

_CANNOT: Final = 75


def main() -> int:
    """Install what can be, say what cannot, and return the exit code."""
    code = 0
    for install in (install_clients, install_sdk_tools, install_langchain):
        try:
            install()
        except CannotRun as reason:
            sys.stdout.write(f"{reason}\n")
            code = _CANNOT
    return code


if __name__ == "__main__":
    sys.exit(main())
