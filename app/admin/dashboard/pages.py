"""What a browser is shown: three pages of ours, and SAQ's scripts and style sheet from its package."""

import gzip
from functools import cache
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

from saq.web.common import STATIC_PATH

from app.admin.dashboard.paths import HOME, LOGIN, LOGOUT, ROOT, STYLE

Headers = tuple[tuple[bytes, bytes], ...]

# No script or style but our own files; images are those that stand in the style sheet itself.
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    b" form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS: Final[Headers] = (
    (b"content-security-policy", _POLICY),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

HTML: Final = b"text/html; charset=utf-8"
_TYPES: Final = {".js": b"text/javascript; charset=utf-8", ".css": b"text/css; charset=utf-8"}
_OURS: Final = Path(__file__).with_name("static")
_FILES: Final = {
    "app.js": STATIC_PATH,
    "snabbdom.js": STATIC_PATH,
    "pico.min.css": STATIC_PATH,
    "dashboard.js": _OURS,
}


class Page(NamedTuple):
    """A whole answer to a browser."""

    status: int
    headers: Headers
    body: bytes = b""


def _html(title: str, body: str) -> bytes:
    return f"""<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <link rel="icon" href="data:,">
    <link rel="stylesheet" href="{STYLE}">
    <title>{title}</title>
  </head>
  <body>
{body}
  </body>
</html>
""".encode()


_DASHBOARD: Final = _html(
    "Jobs",
    f"""    <header class="container">
      <nav>
        <ul><li><strong>neuronetz-gateway</strong></li></ul>
        <ul><li><a id="logout" role="button" class="outline" href="{LOGOUT}">Log out</a></li></ul>
      </nav>
      <p id="notice" role="status"></p>
      <h1>Our jobs</h1>
      <table>
        <thead><tr><th>Job</th><th>Last run</th><th>Status</th><th></th></tr></thead>
        <tbody id="jobs"></tbody>
      </table>
    </header>
    <div id="saq"><div id="app"></div></div>
    <script src="{ROOT}/static/snabbdom.js"></script>
    <script src="{ROOT}/static/dashboard.js"></script>
    <script src="{ROOT}/static/app.js"></script>""",
)


def dashboard_page() -> bytes:
    """Return the page of jobs. It holds nothing but references; all data comes through the API."""
    return _DASHBOARD


def login_page(trouble: str = "") -> bytes:
    """Return the form for an admin key, with what went wrong the last time."""
    told = f'\n      <p id="trouble" role="alert">{escape(trouble)}</p>' if trouble else ""
    return _html(
        "Log in",
        f"""    <main class="container">
      <h1>Jobs of the gateway</h1>{told}
      <form method="post" action="{LOGIN}">
        <label for="key">Admin key</label>
        <input id="key" name="key" type="password" autocomplete="off" required autofocus>
        <button type="submit">Log in</button>
      </form>
    </main>""",
    )


def trouble_page(title: str, detail: str, request_id: str) -> bytes:
    """Return a page that says why there is no other."""
    return _html(
        escape(title),
        f"""    <main class="container">
      <h1>{escape(title)}</h1>
      <p id="trouble" role="alert">{escape(detail)}</p>
      <p><small>Request {escape(request_id)}</small></p>
      <p><a href="{HOME}">Try again</a></p>
    </main>""",
    )


def asset(name: str, *, accepts_gzip: bool) -> Page | None:
    """Return one of the files that the pages name, None if there is no such file."""
    folder = _FILES.get(name)
    if folder is None:
        return None
    plain, packed = _read(folder / name)
    headers: Headers = ((b"content-type", _TYPES[Path(name).suffix]), (b"vary", b"accept-encoding"))
    if accepts_gzip:
        return Page(200, (*headers, (b"content-encoding", b"gzip")), packed)
    return Page(200, headers, plain)


@cache
def _read(path: Path) -> tuple[bytes, bytes]:
    """Return a file as it is and compressed; SAQ ships some of its files compressed only."""
    compressed = path.with_name(path.name + ".gz")
    if compressed.exists():
        packed = compressed.read_bytes()
        return gzip.decompress(packed), packed
    plain = path.read_bytes()
    return plain, gzip.compress(plain, mtime=0)
