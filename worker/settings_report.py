"""`python -m worker.settings_report`: what the worker's settings are worth, for `neuronetz-gateway config`.

App and worker share no code above `db`, so the command line asks a process. It starts nothing else of the worker.
"""

import os
import sys
from collections.abc import Mapping

import msgspec

from db.settings import documented_variables, settings_errors
from db.settings_shown import shown_settings
from worker.settings import WorkerSettings, load_worker_settings


def settings_report(environ: Mapping[str, str]) -> str:
    """Return one line of JSON: what is wrong with the settings, else what they are, and which variables there are."""
    errors = settings_errors(WorkerSettings, environ)
    shown = () if errors else shown_settings(load_worker_settings(environ))
    names = [name for name, _ in documented_variables(WorkerSettings)]
    return msgspec.json.encode({"errors": errors, "settings": shown, "variables": names}).decode()


if __name__ == "__main__":
    sys.stdout.write(f"{settings_report(os.environ)}\n")
