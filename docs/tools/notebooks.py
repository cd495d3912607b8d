"""Notebooks of tutorials, made from their pages and executed.

    python docs/tools/notebooks.py              # makes docs/notebooks/*.ipynb and runs them; nbclient and ipykernel
    python docs/tools/notebooks.py --text       # a page's new text into its notebook, if the code is still the same
    python docs/tools/notebooks.py --check      # exit code 1 if a notebook's cells are not those of its page

Text becomes a Markdown cell, a Python block a cell of code; a last line `print(value)` becomes `value`, so that the
notebook shows it in its own way. What cells print on stderr (warnings of other packages, with paths of the machine) is
not kept. `notebook_pages` shows the stored outputs on the site.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from blocks import FENCED

DOCS = Path(__file__).resolve().parents[1]
FOLDER = DOCS / "notebooks"
PAGES = {name: DOCS / "tutorials" / f"{name}.md" for name in ("evaluate", "train", "plug-in", "scale")}
"""By the name of the notebook."""
_INSTALL = {
    "evaluate": "pip install 'simgym[local]'",
    "train": "pip install 'simgym[train]'",
    "plug-in": "pip install simgym",
    "scale": "pip install simgym",
}


def cells_of(name: str) -> list[dict[str, Any]]:
    """The cells of a notebook without outputs, as they stand in its file."""
    page = PAGES[name]
    text = page.read_text(encoding="utf-8")
    texts, end = [], 0
    for match in FENCED.finditer(text):
        texts += [("markdown", text[end : match.start()]), ("code", shown_by_itself(match["code"]))]
        end = match.end()
    texts.append(("markdown", text[end:]))
    title, _, rest = texts[0][1].partition("\n")
    source = f"[{page.name}](../tutorials/{page.name})"
    note = f"*{source} as a notebook, with the outputs that it had. It needs `{_INSTALL[name]}`.*"
    texts[0] = ("markdown", f"{title}\n\n{note}\n{rest}")
    kept = [(kind, with_links(text).strip() if kind == "markdown" else text.rstrip()) for kind, text in texts]
    return [
        {
            "cell_type": kind,
            "id": f"cell-{number}",
            "metadata": {},
            "source": source.splitlines(keepends=True),
            **({"execution_count": None, "outputs": []} if kind == "code" else {}),
        }
        for number, (kind, source) in enumerate((kind, source) for kind, source in kept if source)
    ]


def shown_by_itself(code: str) -> str:
    """The code with `value` for a `print(value)` at its end."""
    lines, last = code.rstrip().splitlines(), ast.parse(code).body[-1]
    if isinstance(last, ast.Expr) and isinstance(last.value, ast.Call) and ast.unparse(last.value.func) == "print":
        arguments, text = last.value.args, ast.JoinedStr | ast.Constant
        if len(arguments) == 1 and not last.value.keywords and not isinstance(arguments[0], text):
            value = ast.get_source_segment(code, arguments[0])
            return "\n".join([*lines[: last.lineno - 1], value or ""])
    return code


def with_links(text: str) -> str:
    """A page's text as it is right in the folder of the notebooks."""
    return re.sub(r"\]\((?=[\w-]+\.md)", "](../tutorials/", text)


def execute(name: str) -> dict[str, Any]:
    """The notebook with its outputs."""
    import nbclient
    import nbformat

    notebook = nbformat.reads(json.dumps({**_SHELL, "cells": cells_of(name)}), as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        nbclient.NotebookClient(notebook, timeout=1800, record_timing=False, resources=place).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    plain: dict[str, Any] = {**json.loads(nbformat.writes(notebook)), "metadata": _SHELL["metadata"]}
    if traces := {str(place) for place in (Path.home(), Path(sys.prefix), folder) if str(place) in json.dumps(plain)}:
        raise SystemExit(f"{name}.ipynb would tell of {', '.join(sorted(traces))}.")
    return plain


_SHELL: dict[str, Any] = {
    "metadata": {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    },
    "nbformat": 4,
    "nbformat_minor": 5,
}


def is_current(name: str) -> bool:
    """Whether the cells in the file are those of the page, and code has been run."""
    stored = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    ran = all(cell["execution_count"] for cell in stored if cell["cell_type"] == "code")
    same = [(cell["cell_type"], "".join(cell["source"])) for cell in stored]
    return ran and same == [(cell["cell_type"], "".join(cell["source"])) for cell in cells_of(name)]


def with_new_text(name: str) -> dict[str, Any]:
    """The notebook in the file with the text of its page now; its outputs are those of the same code."""
    stored = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = cells_of(name)
    ran = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    code = [number for number, cell in enumerate(cells) if cell["cell_type"] == "code"]
    if [cell["source"] for cell in ran] != [cells[number]["source"] for number in code]:
        raise SystemExit(f"The code of {name}.ipynb is not that of its page: run it again.")
    for number, cell in zip(code, ran, strict=True):
        cells[number] = {**cell, "id": cells[number]["id"]}
    return {**stored, "cells": cells}


def main() -> None:
    """Make them, or check."""
    make = with_new_text if "--text" in sys.argv[1:] else execute
    if "--check" in sys.argv[1:]:
        raise SystemExit(int(not all(map(is_current, PAGES))))
    FOLDER.mkdir(exist_ok=True)
    for name in [word for word in sys.argv[1:] if word in PAGES] or PAGES:
        text = json.dumps(make(name), indent=1, ensure_ascii=False)
        (FOLDER / f"{name}.ipynb").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
