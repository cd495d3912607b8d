"""What the contracts share: a simulated user and a judge that are rules, so that no contract needs a model.

Each test module needs the package that it is about and runs in an environment of its own; elsewhere it is skipped.
"""

from __future__ import annotations

from typing import Any

import pytest

from simgym.judges.base import Judgement


class LengthJudge:
    """A tenth for every message; no judgement if the assistant has said `unjudgeable`."""

    def judge(self, scenarios, conversations, *, seeds):
        return [
            Judgement(None, fault="unparsable: no number")
            if any("unjudgeable" in text for text in conversation.said_by("assistant"))
            else Judgement(min(1.0, len(conversation.messages) / 10), reasons=("length",))
            for conversation in conversations
        ]

    def fingerprint(self):
        return {"judge": "length"}


@pytest.fixture
def settings() -> dict[str, Any]:
    """Arguments of an environment whose user says a number that the seed decides."""
    return {"model": "scripted:seed", "judge": LengthJudge(), "max_turns": 3}


ENV_ID = "UserSim-RolePlay-v0"
"""The user writes an opening of its own, so that even the first turn depends on the seed."""


@pytest.fixture
def env_id() -> str:
    return ENV_ID
