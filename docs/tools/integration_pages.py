"""The site's page for each integration, cut out of `docs/integrations.md`.

The file stays whole, for GitHub and for the contract tests that run its blocks. On the site a section that says what to
install becomes a page, with its row of the table of masks and seeds below it; the rest stays as the overview. TRL and
stable-baselines3 have their ten lines in the tutorial on training, from where their pages take them.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "integrations.md"
TUTORIAL = PAGE.parent / "tutorials" / "train.md"
TAKEN = {"trl": ("TRL", "grpo-with-trl"), "stable-baselines3": ("stable-baselines3", "ppo-with-stable-baselines3")}
"""Title and anchor of a section of the tutorial, by the name of the page."""
_ROW = re.compile(
    r"^\| \[[^\]]*\]\([^#)]*#(?P<slug>[^)]+)\) \| (?P<loss>.*?) \| (?P<seed>.*?) \| (?P<missing>.*?) \|$", re.M
)


def slug_of(title: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def block_of(section: str) -> str:
    """The Python block of the section whose heading begins so."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {section}", 1)[1].split("\n## ", 1)[0]
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return block


def sections(text: str) -> dict[str, str]:
    """The sections of the file that become pages, with their headings, by slug."""
    return {slug: part for slug, part in _parts(text).items() if "\n### Install" in part}


def _parts(text: str) -> dict[str, str]:
    return {slug_of(part.partition("\n")[0]): part for part in re.split(r"^## ", text, flags=re.M)[1:]}


def integration_pages() -> dict[str, str]:
    """Contents by path within `docs/`; links are still those of the whole file."""
    text = PAGE.read_text(encoding="utf-8")
    rows: dict[str, re.Match[str]] = {}
    for row in _ROW.finditer(text):
        rows.setdefault(row["slug"], row)
    pages = {slug: f"# {part.replace('### ', '## ')}{_masked(rows[slug])}" for slug, part in sections(text).items()}
    tutorial = _parts(TUTORIAL.read_text(encoding="utf-8"))
    for slug, (title, anchor) in TAKEN.items():
        part = re.sub(r"\]\((?![a-z]+:|#)([^)]+)\)", _from_above, tutorial[anchor].partition("\n")[2].strip())
        install = "## Install\n\n`pip install 'simgym[train]'`."
        pages[slug] = f"# {title}\n\n{install}\n\n## Ten lines\n\n{part}\n\n{_masked(rows[anchor])}"
    return {f"integrations/{slug}.md": page for slug, page in sorted(pages.items())}


def _from_above(link: re.Match[str]) -> str:
    return f"]({posixpath.normpath(f'tutorials/{link[1]}')})"


def _masked(row: re.Match[str]) -> str:
    return (
        "## Masked and seeded\n\n"
        f"* What the loss sees: {row['loss']}.\n"
        f"* What decides the user: {row['seed']}.\n"
        f"* A conversation without a judgement: {row['missing']}.\n"
    )


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
