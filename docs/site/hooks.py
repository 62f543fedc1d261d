"""What the site adds to the pages in docs/: those of the repository's root, and lists of folders that pages link to.

Links in pages are those of the repository, so that they work where it is read; here they are turned into the site's.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
}
FILES: Final = {
    name: f"files/{name.lstrip('.')}.txt"
    for name in (".env.sample", "LICENSE", "Containerfile", "compose.yml")
}
FOLDERS: Final = {"docs/decisions": ("decisions/index.md", "Decisions")}

_PLACES: Final = PAGES | FILES | {folder: uri for folder, (uri, _) in FOLDERS.items()}
_SOURCES: Final = {uri: name for name, uri in PAGES.items()}
_FENCE_OR_LINK: Final = re.compile(r"^```.*?^```|(?<=\]\()([^)\s#:]+)(?=[#)])", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside docs/."""
    for name, uri in (PAGES | FILES).items():
        files.append(File.generated(config, uri, content=(ROOT / name).read_text(encoding="utf-8")))
    for folder, (uri, title) in FOLDERS.items():
        content = "\n".join([f"# {title}", "", *_entries(ROOT / folder)])
        files.append(File.generated(config, uri, content=content))
    return files


def _entries(folder: Path) -> Iterator[str]:
    for page in sorted(folder.glob("*.md")):
        title = page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        yield f"- [{title}]({page.name})"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - MkDocs names them
    """Turn links between places of the repository into links of the site."""
    uri = page.file.src_uri
    if uri in {of_folder for of_folder, _ in FOLDERS.values()}:
        return markdown
    source = _SOURCES.get(uri, f"docs/{uri}")

    def placed(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        place = _PLACES.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(place, posixpath.dirname(uri) or ".")

    return _FENCE_OR_LINK.sub(placed, markdown)
