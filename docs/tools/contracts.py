"""The table of contracts in docs/integrations.md, from what the contract tests recorded.

SIMGYM_RECORD_CONTRACTS=1 python -m pytest -m contract tests/contracts
python docs/tools/contracts.py            # writes the table; --check: exit code 1 if it is stale
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "simgym" / "integrations" / "contracts.json"
PAGE = ROOT / "docs" / "integrations.md"
BEGIN, END = "<!-- contracts: begin -->", "<!-- contracts: end -->"


def table() -> str:
    """The recorded contracts as a Markdown table."""
    lines = ["| target | version | what is asserted | seconds |", "|---|---|---|---|"]
    for row in json.loads(RECORD.read_text(encoding="utf-8")):
        asserted = row["asserted"] if isinstance(row["asserted"], str) else "; ".join(row["asserted"])
        lines.append(f"| {row['target']} | {row['version']} | {asserted} | {row['seconds']} |")
    return "\n".join(lines)


def render(page: str) -> str:
    """The page with the table between its marks replaced."""
    head, _, rest = page.partition(BEGIN)
    _, mark, tail = rest.partition(END)
    if not mark:
        raise SystemExit(f"{PAGE} lacks the marks {BEGIN} and {END}.")
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    if "--check" in sys.argv[1:]:
        sys.exit(render(page) != page)
    PAGE.write_text(render(page), encoding="utf-8")
