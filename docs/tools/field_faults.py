"""The table of faults from the field in docs/field-faults.md: each kind, the tests that hold it, and who reported it.

python docs/tools/field_faults.py            # runs the tests, counts their inputs, writes the table; minutes
python docs/tools/field_faults.py FILE ...   # the same for some files of tests
python docs/tools/field_faults.py --check    # runs nothing; exit code 1 if the table is stale or a file is not there
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
KINDS = Path(__file__).with_suffix(".yaml")
RECORD = ROOT / "benchmarks" / "results" / "field_faults.json"
PAGE = ROOT / "docs" / "field-faults.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


@dataclass(frozen=True, kw_only=True)
class FieldFault:
    """A kind of fault that people have reported."""

    kind: str
    """What goes wrong."""
    right: str
    """What simgym does instead."""
    tests: list[str]
    """Files of tests."""
    sources: str
    """Public reports: projects and numbers."""


FAULTS = [FieldFault(**entry) for entry in yaml.safe_load(KINDS.read_text(encoding="utf-8"))]
"""In the order of the table."""


class Counter:
    """A plug-in of pytest that counts passed tests and the inputs that hypothesis tried."""

    def __init__(self) -> None:
        self.passed = self.inputs = 0
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count what a test says of itself."""
        if report.failed:
            self.failed.append(report.nodeid)
        self.passed += report.when == "call" and report.passed
        # hypothesis adds its statistics to the report of the teardown
        tried = re.findall(r"(\d+) passing\b", report.__dict__.get("_hypothesis_stats") or "")
        self.inputs += sum(map(int, tried))


def run(files: list[str]) -> None:
    """Run the tests of some files, one file after the other, and write down the counts of each."""
    import pytest

    known = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    for file in files:
        counter = Counter()
        pytest.main(["-q", "-p", "no:cacheprovider", file], plugins=[counter])
        if counter.failed:
            sys.exit(f"These tests failed, so nothing is written of {file}: {counter.failed}")
        known[file] = {"tests": counter.passed, "inputs": counter.inputs}
        record = {name: known[name] for name in test_files() if name in known}
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def test_files() -> list[str]:
    """All files of the table, each once."""
    return list(dict.fromkeys(file for fault in FAULTS for file in fault.tests))


def table() -> str:
    """The faults as a Markdown table."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    lines = ["| kind | what is right | tests | generated inputs | held by | reported by |", "|---|---|---|---|---|---|"]
    for fault in FAULTS:
        files = ", ".join(f"[`{Path(file).name}`](../{file})" for file in fault.tests)
        counts = _counts([record.get(file, {}) for file in fault.tests])
        lines.append(f"| {fault.kind} | {fault.right} | {counts} | {files} | {fault.sources} |")
    lines.append(f"| together | | {_counts(list(record.values()))} | | |")
    return "\n".join(lines)


def _counts(rows: list[dict[str, int]]) -> str:
    tests, inputs = (sum(row.get(name, 0) for row in rows) for name in ("tests", "inputs"))
    return f"{tests} | {f'{inputs:,}' if inputs else ''}"


def main() -> int:
    """Write, or check."""
    if missing := [file for file in test_files() if not (ROOT / file).is_file()]:
        print(f"Not there: {missing}")
        return 1
    if "--check" not in sys.argv:
        run(sys.argv[1:] or test_files())
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    written = f"{head}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"
    if "--check" in sys.argv:
        return int(written != page)
    PAGE.write_text(written, encoding="utf-8")
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
