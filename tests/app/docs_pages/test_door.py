"""The documentation as a browser gets it: whole, from here alone, and only where a setting wants it."""

import gzip
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from litestar.types import ASGIApp

from app.docs_pages.pages import static_pages
from app.main import create_app
from app.settings import load_app_settings
from domain.keys import mint_pepper
from tests.support.asgi import ask
from tests.support.repository import ROOT, text_of

ENVIRON = {
    "DATABASE_URL": "postgresql://u:p@127.0.0.1:1/none",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "GATEWAY_KEY_PEPPER": mint_pepper("p1"),
    "GATEWAY_JOURNAL_DIR": "/nonexistent/journal",
}
STATIC = Path("app/docs_pages/static")
PAGES = ["/docs", "/docs/swagger"]
EVERYTHING = [path for path, _ in static_pages()]


def app_with(**settings: str) -> ASGIApp:
    """Build the application; its lifespan never starts, so nothing stands behind it."""
    return create_app(load_app_settings(ENVIRON | settings))


@pytest.fixture(scope="module")
def app() -> ASGIApp:
    return app_with(GATEWAY_DOCS_PUBLIC="true")


class Sources(HTMLParser):
    """What a page loads or links to, and what it says in place."""

    def __init__(self) -> None:
        super().__init__()
        self.named: list[str] = []
        self.inline: list[str] = []
        self._tag = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.named += [value or "" for name, value in attrs if name in {"src", "href"}]
        self.inline += [name for name, _ in attrs if name.startswith("on") or name == "style"]

    def handle_data(self, data: str) -> None:
        if self._tag in {"script", "style"} and data.strip():
            self.inline.append(data)


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_names_only_what_the_gateway_serves(app: ASGIApp, path: str) -> None:
    answer = await ask(app, "GET", path.encode())
    sources = Sources()
    sources.feed(answer.body.decode())

    assert (answer.status, answer.header(b"content-type")) == (200, b"text/html; charset=utf-8")
    assert "//" not in answer.body.decode()
    assert sources.inline == []
    assert set(sources.named) <= {*EVERYTHING, "/docs/openapi.json", "data:,"}
    assert any(each.endswith(".js") for each in sources.named)


@pytest.mark.parametrize("path", [*EVERYTHING, "/docs/openapi.json"])
async def test_a_browser_may_do_little_with_what_it_gets(app: ASGIApp, path: str) -> None:
    answer = await ask(app, "GET", path.encode())
    policy = dict(
        each.strip().split(" ", 1)
        for each in (answer.header(b"content-security-policy") or b"").decode().split(";")
    )

    assert answer.status == 200
    assert answer.header(b"x-content-type-options") == b"nosniff"
    assert answer.header(b"referrer-policy") == b"no-referrer"
    assert answer.header(b"cross-origin-resource-policy") == b"same-origin"
    assert answer.header(b"server") == b"neuronetz-gateway"
    assert answer.header(b"x-request-id") is not None
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert "http" not in " ".join(policy.values())


@pytest.mark.parametrize("path", EVERYTHING)
async def test_what_a_browser_has_already_is_not_sent_again(app: ASGIApp, path: str) -> None:
    first = await ask(app, "GET", path.encode())
    etag = first.header(b"etag")
    assert etag is not None

    again = await ask(app, "GET", path.encode(), [(b"if-none-match", b'"other", W/' + etag)])
    other = await ask(app, "GET", path.encode(), [(b"if-none-match", b'"other"')])

    assert first.header(b"cache-control") == b"private, no-cache"
    assert (again.status, again.body, again.header(b"etag")) == (304, b"", etag)
    assert (other.status, other.body) == (200, first.body)


async def test_the_document_is_the_one_in_the_repository(app: ASGIApp) -> None:
    answer = await ask(app, "GET", b"/docs/openapi.json")

    assert (answer.status, answer.header(b"content-type")) == (200, b"application/json")
    assert answer.body.decode() == text_of("docs/openapi.json")


async def test_head_tells_the_length_and_sends_nothing(app: ASGIApp) -> None:
    whole = await ask(app, "GET", b"/docs")

    answer = await ask(app, "HEAD", b"/docs")

    assert (answer.status, answer.body) == (200, b"")
    assert answer.header(b"content-length") == str(len(whole.body)).encode()


async def test_nothing_can_be_sent_to_it(app: ASGIApp) -> None:
    answer = await ask(app, "POST", b"/docs/swagger", body=b"{}")

    assert (answer.status, answer.header(b"allow")) == (405, b"GET, HEAD")


@pytest.mark.parametrize(
    "path",
    [
        *(b"/docs/", b"//docs", b"/%64ocs", b"/docs/swagger/", b"/docs//swagger", b"/docs/s%77agger"),
        *(b"/docs/static", b"/docs/static/", b"/docs/static/SHA256SUMS", b"/docs/static/scalar.js.gz"),
        *(b"/docs/static/../openapi.json", b"/docs/static/..%2f..%2fdoor.py", b"/docs/nothing", b"/docsx"),
    ],
)
async def test_no_other_spelling_and_no_other_file_is_there(app: ASGIApp, path: bytes) -> None:
    assert (await ask(app, "GET", path)).status == 404


@pytest.mark.parametrize("path", [*PAGES, "/docs/openapi.json", "/docs/static/scalar.js"])
async def test_a_process_without_the_surface_has_nothing_there(path: str) -> None:
    app = app_with(GATEWAY_SURFACES="tenant,admin,ops", GATEWAY_DOCS_PUBLIC="true")

    assert (await ask(app, "GET", path.encode())).status == 404


def test_foreign_files_are_the_ones_whose_sums_are_noted() -> None:
    lines = (line.split() for line in text_of(STATIC / "SHA256SUMS").splitlines())
    sums = {name: digest for digest, name in lines}
    packed = {path.name.removesuffix(".gz"): path for path in (ROOT / STATIC).glob("*.gz")}

    assert packed.keys() == sums.keys()
    assert sums == {
        name: hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest() for name, path in packed.items()
    }


def test_foreign_files_have_the_versions_that_would_be_fetched() -> None:
    wanted = dict(re.findall(r"(SCALAR|SWAGGER_UI)=([\d.]+)", text_of("docs/pages/vendor")))
    files = dict(static_pages())
    scalar = gzip.decompress(files["/docs/static/scalar.js"].body).decode()
    swagger_ui = gzip.decompress(files["/docs/static/swagger-ui.js"].body).decode()

    assert f"@scalar/api-reference {wanted['SCALAR']}\n" in scalar
    assert wanted["SWAGGER_UI"] in swagger_ui
