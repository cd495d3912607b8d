"""Write the diagram of `docs/architecture.md` from the import contract in `pyproject.toml`.

    python docs/tools/diagram.py            # exit code 1 and no change with --check, if it is not current

The contract is what `lint-imports` enforces; a diagram made of it cannot be out of date without a test noticing.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- diagram: made by docs/tools/diagram.py -->", "<!-- end of diagram -->"


def layers() -> list[list[str]]:
    """The layers from top to bottom, each with its modules."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    contract = next(contract for contract in contracts if contract["type"] == "layers")
    return [[module.strip() for module in layer.split("|")] for layer in contract["layers"]]


def diagram() -> str:
    """A flowchart in Mermaid: a box a layer, an arrow to the layer below."""
    lines = ["```mermaid", "flowchart TB"]
    for number, modules in enumerate(layers()):
        lines.append(f'  L{number}["{" · ".join(modules)}"]')
    lines += [f"  L{number} --> L{number + 1}" for number in range(len(layers()) - 1)]
    return "\n".join([*lines, "```"])


def with_diagram(page: str) -> str:
    """The page with the current diagram between its marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{diagram()}\n{END}{after}"


def main() -> None:
    """Write, or check."""
    page = PAGE.read_text(encoding="utf-8")
    current = with_diagram(page)
    if "--check" in sys.argv[1:]:
        raise SystemExit(int(page != current))
    PAGE.write_text(current, encoding="utf-8")


if __name__ == "__main__":
    main()
