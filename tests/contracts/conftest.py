"""What the contracts share: a simulated user and a judge that are rules, so that no contract needs a model.

Each test module needs the package that it is about and runs in an environment of its own; elsewhere it is skipped.
"""

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
