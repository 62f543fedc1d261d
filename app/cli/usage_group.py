"""`usage` and what can be done with the ledger: the report is the command itself, everything else a word behind it."""

from cyclopts import App

from app.cli.usage import usage
from app.cli.usage_rebuild import rebuild
from app.cli.usage_reconcile import reconcile

app = App(name="usage", usage="Usage: neuronetz-gateway usage [COMMAND] [OPTIONS]")
app.default(usage)
for command in (rebuild, reconcile):
    app.command(command)
