"""A table of what was tried, printed at the end of a run, and written to a file if somebody wants to keep it."""

import json
import os
import platform
from pathlib import Path

import pytest

RESULTS = "SIMGYM_ATTACK_RESULTS"
"""Environment variable that names the file."""


@pytest.fixture
def tried(record_property):
    """Notes an attack: its name, how many inputs or faults there were, and what came of them."""
    return lambda name, number, outcome: record_property("attack", [name, number, outcome])


def pytest_terminal_summary(terminalreporter):
    # properties of a test's report reach the process that prints, also where other processes run the tests
    rows = [
        row
        for report in terminalreporter.stats.get("passed", [])
        for key, row in getattr(report, "user_properties", ())
        if key == "attack"
    ]
    if not rows:
        return
    width = max(len(name) for name, *_ in rows)
    terminalreporter.section("attacks")
    for name, number, outcome in rows:
        terminalreporter.write_line(f"{name:<{width}}  {number:>7,}  {outcome}")
    failed = len(terminalreporter.stats.get("failed", [])) + len(terminalreporter.stats.get("error", []))
    total = sum(number for _, number, _ in rows)
    terminalreporter.write_line(f"{total:,} inputs and faults in {len(rows)} attacks survived; {failed} tests failed")
    if path := os.environ.get(RESULTS):
        machine = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
        attacks = [{"attack": name, "inputs": number, "outcome": outcome} for name, number, outcome in rows]
        result = {"machine": machine, "inputs": total, "failed": failed, "attacks": attacks}
        Path(path).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
