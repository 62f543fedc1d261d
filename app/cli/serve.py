"""The long-running processes in the foreground: `serve` and `worker`."""

import os
import sys


def serve() -> int:
    """Serve the gateway's HTTP interface until SIGTERM or Ctrl-C.

    Settings come from the environment; `.env.sample` documents them.

    Example: `DATABASE_URL=... REDIS_URL=... GATEWAY_KEY_PEPPER=... neuronetz-gateway serve`
    """
    from app.server import serve as serve_until_stopped
    from app.settings import load_app_settings
    from db.parent_watch import exit_with_parent
    from db.settings import SettingsError

    try:
        settings = load_app_settings(os.environ)
    except SettingsError as refusal:
        print(f"neuronetz-gateway serve: {refusal}", file=sys.stderr)
        return 2
    if settings.exit_with_parent:
        exit_with_parent()
    serve_until_stopped(settings)
    return 0


def worker() -> int:
    """Run the job worker until SIGTERM or Ctrl-C.

    Example: `DATABASE_URL=... REDIS_URL=... neuronetz-gateway worker`
    """
    os.execv(sys.executable, [sys.executable, "-m", "worker"])  # noqa: S606 - becomes the worker process  # nosec B606
