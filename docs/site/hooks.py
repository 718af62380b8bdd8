"""What MkDocs does not find in docs/: the README and its neighbours as pages, and an API page for every folder."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import tour
from plain_docstrings import plain

# pages of the site that stand elsewhere in the repository
ELSEWHERE = {
    "index.md": "README.md",
    "findings.md": "findings/README.md",
    **{name: name for name in ("QUALITY.md", "BENCHMARKS.md", "LOG.md", "CHANGELOG.md")},
}
LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)#]+)")


def moved(text: str, source: str) -> str:
    """The page `source` with links to the repository's files turned into links to the site's pages."""
    pages = {file: page for page, file in ELSEWHERE.items()}

    def link(match: re.Match) -> str:
        target = (tour.ROOT / source).parent.joinpath(match[2]).resolve().relative_to(tour.ROOT).as_posix()
        return match[1] + pages.get(target, target.removeprefix("docs/"))

    return LINK.sub(link, text)


def api_pages() -> dict[str, str]:
    """Markdown of each API page by its place: a folder with its modules, in the tour's order."""
    pages = {}
    for room in tour.ROOMS:
        for folder, modules in tour.folders(tour.ROOT, room):
            name = ".".join(folder.relative_to(tour.ROOT).parts)
            about = "\n".join(tour.docstring(folder / "__init__.py"))
            entries = "\n\n".join(f"::: {name}.{module.stem}" for module in modules)
            pages[f"api/{name}.md"] = f"# {name}\n\n{about}\n\n{entries}\n"
    return pages


def on_config(config: Any) -> Any:
    """The API reference stands last in the navigation."""
    config.nav.append({"Reference": [{page[4:-3]: page} for page in api_pages()]})
    return config


def on_files(files: Files, config: Any) -> Files:
    for page, source in ELSEWHERE.items():
        text = moved((tour.ROOT / source).read_text(encoding="utf-8"), source)
        files.append(File.generated(config, page, content=text))
    for page, text in api_pages().items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Pages of docs/ link to the repository's files as GitHub shows them; the tour's lines are docstrings."""
    if page.file.generated_by:
        return markdown
    if page.file.src_uri == "tour.md":
        lines = markdown.split("\n")
        markdown = "\n".join(plain(line) if line.startswith("- ") else line for line in lines)
    return moved(markdown, f"docs/{page.file.src_uri}")
