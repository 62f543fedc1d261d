"""What there is to read below `/docs`: two viewers, what they are made of, and the document they show."""

import hashlib
from collections.abc import Iterator
from importlib.resources import files
from typing import Final

import msgspec

DOCS: Final = "/docs"
DOCUMENT: Final = f"{DOCS}/openapi.json"

_DIGEST_CHARS: Final = 32
_HTML: Final = b"text/html; charset=utf-8"
_JAVASCRIPT: Final = b"text/javascript; charset=utf-8"
_CSS: Final = b"text/css; charset=utf-8"
_JSON: Final = b"application/json"
_FILES: Final = (
    (DOCS, "scalar.html", _HTML),
    (f"{DOCS}/swagger", "swagger.html", _HTML),
    (f"{DOCS}/static/scalar-start.js", "scalar-start.js", _JAVASCRIPT),
    (f"{DOCS}/static/scalar.js", "scalar.js.gz", _JAVASCRIPT),
    (f"{DOCS}/static/swagger-start.js", "swagger-start.js", _JAVASCRIPT),
    (f"{DOCS}/static/swagger-ui.css", "swagger-ui.css.gz", _CSS),
    (f"{DOCS}/static/swagger-ui.js", "swagger-ui.js.gz", _JAVASCRIPT),
)
"""Path, file, media type. Foreign files are kept compressed, and every browser takes them so."""


class Page(msgspec.Struct, frozen=True):
    """One thing to read. `etag` names its content; `zipped` tells that `body` is compressed with gzip."""

    media_type: bytes
    body: bytes
    etag: bytes
    zipped: bool = False


def static_pages() -> Iterator[tuple[str, Page]]:
    """Yield the path and the content of everything that stands in a file."""
    folder = files("app.docs_pages") / "static"
    for path, name, media_type in _FILES:
        yield path, _page(media_type, (folder / name).read_bytes(), zipped=name.endswith(".gz"))


def document_page(document: str) -> Page:
    """Return the OpenAPI document as it is served."""
    return _page(_JSON, document.encode())


def _page(media_type: bytes, body: bytes, *, zipped: bool = False) -> Page:
    digest = hashlib.sha256(body).hexdigest()[:_DIGEST_CHARS]
    return Page(media_type, body, b'"%b"' % digest.encode(), zipped)
