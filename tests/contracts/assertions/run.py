"""Run the assertions about one package here and say, as JSON in the last line, which of them held.

python run.py check_gem.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest


class Names:
    """Collects the names of tests that passed; they are sentences."""

    def __init__(self) -> None:
        self.passed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            name = report.nodeid.split("::")[-1].split("[")[0].removeprefix("test_").replace("_", " ")
            self.passed += [name] if name not in self.passed else []


names = Names()
here = Path(__file__).parent
options = ["-q", "-p", "no:cacheprovider", "-o", "python_files=check_*.py", f"--confcutdir={here}"]
code = pytest.main([*options, str(here / sys.argv[1])], plugins=[names])
print(json.dumps({"asserted": names.passed}))
sys.exit(code)
