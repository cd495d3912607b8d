"""What the assertions share. They run in an environment that has the package they are about; see `run.py`."""

from __future__ import annotations

import sys
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
