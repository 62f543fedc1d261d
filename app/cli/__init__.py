"""The command line `neuronetz-gateway`: one module per noun.

Heavy imports live inside the commands, so that `--help` answers at once.
"""

import sys

INTERRUPTED = 130  # what a shell reports for Ctrl-C: 128 + SIGINT


def main() -> None:
    """Run the command line and exit with its code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    try:
        from app.cli.commands import run

        code = run()
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)
