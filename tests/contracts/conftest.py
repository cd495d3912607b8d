"""What the contracts share: a simulated user and a judge that are rules, so that no contract needs a model.

Each test module needs the package that it is about and runs in an environment of its own; elsewhere it is skipped.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # length_judge


@pytest.fixture
def settings() -> dict[str, Any]:
    """Arguments of an environment whose user says a number that the seed decides."""
    return {"model": "scripted:seed", "judge": "py:length_judge:LengthJudge", "max_turns": 3}


@pytest.fixture
def env_id() -> str:
    """The user writes an opening of its own, so that even the first turn depends on the seed."""
    return "UserSim-RolePlay-v0"


@pytest.fixture
def documented(tmp_path: Path) -> Callable[[str], str]:
    """A function that runs the Python block of a section of docs/integrations.md and returns the last line printed."""

    def run(section: str) -> str:
        page = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
        text = page.split(f"\n## {section}", 1)[1].split("\n## ", 1)[0]
        (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        outcome = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True)
        assert outcome.returncode == 0, f"{block}\n{outcome.stderr[-3000:]}"
        return outcome.stdout.strip().splitlines()[-1]

    return run
