"""A role flip is a speaker who claims to be the assistant, not a turn that holds such words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgym.simulators.role_flips import find_role_flip

_FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "role_flip_turns.json"
TURNS = json.loads(_FILE.read_text(encoding="utf-8"))
PLANTED, HONEST = TURNS["planted"], TURNS["honest"]


@pytest.mark.parametrize("text", PLANTED)
def test_a_claim_to_be_the_assistant_is_a_flip(text):
    assert find_role_flip(text) is not None
    assert find_role_flip(f"That is a good question. {text}") is not None or text.startswith(("AI:", "Assistant:"))


@pytest.mark.parametrize("text", HONEST)
def test_a_request_that_holds_such_words_is_honest(text):
    assert find_role_flip(text) is None
    assert find_role_flip(f"Hello, I have a task for you. {text}") is None


@given(st.sampled_from(PLANTED))
def test_what_is_quoted_or_to_be_written_is_not_the_users_own(claim):
    for frame in (
        'Why does it say "{}" every time?',
        "Translate into Danish: {}",
        "Write a play in which a robot says: {}",
    ):
        assert find_role_flip(frame.format(claim.replace('"', ""))) is None


def test_people_are_not_taken_for_assistants(data_of_others):
    """At most 1 in 1,000 of the user turns of people in a log."""
    turns = [
        turn["content"]
        for line in data_of_others("human_ai_dev.jsonl").read_text(encoding="utf-8").split("\n")
        if line
        for turn in json.loads(line)["conversation"]
        if turn["role"] == "user"
    ]
    flagged = [flip for flip in map(find_role_flip, turns) if flip is not None]
    print(f"{len(flagged)} of {len(turns)} turns of people are flagged")
    assert len(flagged) <= len(turns) / 1000
