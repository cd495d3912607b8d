"""The site's page for each integration, cut out of `docs/integrations.md`.

The file stays whole, for GitHub and for the contract tests that run its blocks. On the site a section that says what to
install becomes a page, with its row of the table of masks and seeds below it; the rest stays as the overview.
"""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "integrations.md"
_ROW = re.compile(r"^\| \[[^\]]*\]\(#(?P<slug>[^)]+)\) \| (?P<loss>.*?) \| (?P<seed>.*?) \| (?P<missing>.*?) \|$", re.M)


def slug_of(title: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def sections(text: str) -> dict[str, str]:
    """The sections of the file that become pages, with their headings, by slug."""
    parts = {slug_of(part.partition("\n")[0]): part for part in re.split(r"^## ", text, flags=re.M)[1:]}
    return {slug: part for slug, part in parts.items() if "`pip install" in part}


def integration_pages() -> dict[str, str]:
    """Contents by path within `docs/`; links are still those of the whole file."""
    text = PAGE.read_text(encoding="utf-8")
    rows = {row["slug"]: row for row in _ROW.finditer(text)}
    pages = {}
    for slug, part in sections(text).items():
        page = f"# {part}"
        if row := rows.get(slug):
            page += (
                "## Masked and seeded\n\n"
                f"* What the loss sees: {row['loss']}.\n"
                f"* What decides the user: {row['seed']}.\n"
                f"* A conversation without a judgement: {row['missing']}.\n"
            )
        pages[f"integrations/{slug}.md"] = page
    return pages


def overview(text: str) -> str:
    """The page without the sections that have one of their own."""
    cut = sections(text)
    for part in cut.values():
        text = text.replace(f"## {part}", "")
    return re.sub(r"\]\(#([^)]+)\)", lambda link: f"](integrations/{link[1]}.md)" if link[1] in cut else link[0], text)


def moved(path: str, anchor: str) -> str:
    """Where a link to a section of the file leads on the site, from the folder of the file."""
    if path.endswith("integrations.md") and anchor[1:] in sections(PAGE.read_text(encoding="utf-8")):
        return f"{path.removesuffix('.md')}/{anchor[1:]}.md"
    return f"{path}{anchor}"
