from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_the_import_contract_holds():
    pytest.importorskip("importlinter", reason="import-linter is in the dev extra")
    outcome = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_no_module_is_longer_than_500_lines():
    long = {path.name: n for path in (ROOT / "simgym").rglob("*.py") if (n := len(path.read_text().splitlines())) > 500}
    assert not long
