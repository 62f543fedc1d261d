"""The command line `neuronetz-gateway`: one module per noun.

Heavy imports live inside the commands, so that `--help` answers at once.
"""

from cyclopts import App

from app.cli.serve import serve, worker
from app.cli.up import up

app = App(name="neuronetz-gateway", help="One HTTPS address in front of several Ollama servers.")
app.command(up)
app.command(serve)
app.command(worker)


def main() -> None:
    """Run the command line and exit with its code."""
    app()
