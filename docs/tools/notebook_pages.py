"""The site's pages of notebooks: cells and their stored outputs, as Markdown; nothing is run and nothing is fetched."""

from __future__ import annotations

import json
import re
from typing import Any

from notebooks import FOLDER


def notebook_pages() -> dict[str, str]:
    """Contents by path within `docs/`."""
    return {f"notebooks/{path.stem}.md": page_of(json.loads(path.read_text(encoding="utf-8"))) for path in NOTEBOOKS}


NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def page_of(notebook: dict[str, Any]) -> str:
    """The notebook as a page."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [shown(output) for output in cell.get("outputs", [])]
    return "\n\n".join(part for part in parts if part)


def shown(output: dict[str, Any]) -> str:
    """An output: HTML as it is, text as text."""
    data = output.get("data", {})
    if page := "".join(data.get("text/html", "")):
        page = re.sub(r' (?:border|class)="[^"]*"|<style.*?</style>', "", page, flags=re.S)  # the site's own look
        return f'<div class="notebook-output">\n{page}\n</div>'
    text = "".join(output.get("text") or data.get("text/plain") or "").rstrip()
    return f"```text\n{text}\n```" if text else ""
