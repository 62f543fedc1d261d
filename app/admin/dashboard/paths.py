"""Where the dashboard's parts are."""

from typing import Final

ROOT: Final = "/admin/queues"
HOME: Final = ROOT + "/"
"""What SAQ's page calls its first view. No other path of ours ends with a slash."""
LOGIN: Final = ROOT + "/login"
LOGOUT: Final = ROOT + "/logout"
STYLE: Final = ROOT + "/static/pico.min.css"
"""All that the login page needs."""


def is_dashboard(path: str) -> bool:
    """Tell whether a path is the dashboard's or below it."""
    return path == ROOT or path.startswith(HOME)
