"""Runs of earlier versions can be continued: renaming something in the code does not change what is hashed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simgym.evaluation.plan import Plan
from simgym.judges.loading import load_judge
from simgym.simulators.loading import load_simulator

EARLIER = json.loads((Path(__file__).parents[1] / "earlier_files" / "fingerprints.json").read_text())
RUBRIC = {"judge": "rubric", "model": "scripted:x"}
OPTIONS = {
    "ensemble": {"judges": [RUBRIC, {"judge": "relevance", "model": "scripted:x"}]},
    "per_turn": {"judge": RUBRIC},
}


@pytest.mark.parametrize("name", EARLIER["judges"])
def test_a_judge_has_the_fingerprint_that_it_had(name):
    model = None if name in OPTIONS else "scripted:x"
    assert load_judge(name, model, OPTIONS.get(name)).fingerprint() == EARLIER["judges"][name]


@pytest.mark.parametrize("name", EARLIER["simulators"])
def test_a_simulator_has_the_fingerprint_that_it_had(name):
    assert load_simulator(name, "scripted:x").fingerprint() == EARLIER["simulators"][name]


def test_a_plan_has_the_hash_that_it_had():
    plan = Plan(
        seed=1,
        max_turns=2,
        judge=EARLIER["judges"]["rubric"],
        assistants={},
        simulators=EARLIER["simulators"],
        scenarios={"s0": "abc"},
    )
    assert plan.hash == EARLIER["plan_hash"]
