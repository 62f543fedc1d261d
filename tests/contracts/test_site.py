"""The documentation as a site: every link leads somewhere, and nothing comes from elsewhere."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import ROOT

_LOADED = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `just site` does, and give its folder."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("MkDocs is not installed: uv sync --group site")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)),
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_of_the_documentation_is_in_the_site(site: Path) -> None:
    pages = [page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")]
    missing = [str(page) for page in pages if page.parts[0] != "sdk" and not (site / page).exists()]

    assert [page for page in missing if page != "evidence/README.html"] == []
    assert (site / "evidence/index.html").exists()


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = [page.read_text() for page in site.rglob("*.html")]

    assert [found for page in pages for found in _LOADED.findall(page) if "rel=canonical" not in found] == []


def test_diagrams_stay_text(site: Path) -> None:
    # The theme's script would fetch the program that draws them from elsewhere as soon as it met one.
    assert not any('class="mermaid"' in page.read_text() for page in site.rglob("*.html"))
