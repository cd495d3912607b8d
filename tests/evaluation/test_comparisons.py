from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from simgym.conversation import INTENT_PREFIX, Conversation, Scenario
from simgym.errors import ConfigurationError
from simgym.evaluation import Comparisons, Matrix, compare_cells
from simgym.transcripts import Transcript
from simgym.typed_json import from_json

COLUMNS = ("UserSim-RolePlay-v0", "UserSim-Persona-v0", "UserSim-FineTuned-v0")


def held(number, column, reward):
    return Transcript(
        env_id=column,
        scenario=Scenario(f"s{number}", f"{INTENT_PREFIX}rest", opening="hi"),
        seed=number,
        conversation=Conversation().add("user", "hi").add("assistant", "ho"),
        end_reason="turn_limit" if reward is not None else "judge_fault",
        reward=reward,
        fault=None if reward is not None else "unparsable: x",
    )


def made(gains, scenarios=40):
    """A matrix in which rows gain so much over the first, by column."""
    rng = np.random.default_rng(0)
    difficulty = rng.uniform(0.2, 0.6, scenarios)
    transcripts = {
        (row, column): [
            held(number, column, float(difficulty[number] + gain + rng.normal(0, 0.02))) for number in range(scenarios)
        ]
        for row, gains_S in gains.items()
        for column, gain in zip(COLUMNS, gains_S, strict=True)
    }
    return Matrix((), transcripts, {})


GAINS = {"initial": (0, 0, 0), "at home": (0.2, 0.05, 0.05), "everywhere": (0.1, 0.1, 0.1)}


def test_changes_gap_and_ranks_are_found_and_survive_json():
    compared = compare_cells(made(GAINS), trained_on={"at home": COLUMNS[0], "everywhere": COLUMNS[2]}, seed=3)
    assert compared.reference == "initial"
    assert [(difference.assistant, difference.simulator) for difference in compared.differences] == [
        (row, column) for row in ("at home", "everywhere") for column in COLUMNS
    ]
    for difference in compared.differences:
        expected = 100 * dict(zip(COLUMNS, GAINS[difference.assistant], strict=True))[difference.simulator]
        assert difference.estimate.value == pytest.approx(expected, abs=2)
        assert difference.estimate.low < difference.estimate.value < difference.estimate.high
        assert difference.p_adjusted < 0.01
        assert 0 < difference.detectable < 3
    assert compared.gaps["at home"].value == pytest.approx(15, abs=1.5)
    assert compared.gaps["everywhere"].value == pytest.approx(0, abs=1.5)
    assert compared.gap.value == pytest.approx(7.5, abs=1.5)
    assert sum(compared.best.values()) == pytest.approx(1)
    assert from_json(Comparisons, json.loads(json.dumps(asdict(compared))), "comparisons") == compared


def test_a_conversation_that_failed_in_one_cell_leaves_the_pair_out():
    matrix = made(GAINS)
    key = ("at home", COLUMNS[1])
    broken = [held(number, COLUMNS[1], None) for number in range(30)]
    matrix = replace(matrix, transcripts={**matrix.transcripts, key: broken + list(matrix.transcripts[key][30:])})
    difference = compare_cells(matrix).difference(*key)
    assert difference.estimate.n == 10
    pairs = zip(matrix.transcripts[key][30:], matrix.transcripts["initial", COLUMNS[1]][30:], strict=True)
    assert difference.estimate.value == pytest.approx(
        np.mean([100 * (later.reward - initial.reward) for later, initial in pairs])
    )
    nothing = {**matrix.transcripts, key: [held(number, COLUMNS[1], None) for number in range(40)]}
    difference = compare_cells(replace(matrix, transcripts=nothing)).difference(*key)
    assert difference.estimate.value is difference.p_adjusted is difference.detectable is None


def test_one_row_has_nothing_to_be_compared_with_and_wrong_names_are_refused():
    matrix = made(GAINS)
    assert compare_cells(made({"initial": (0, 0, 0)})) is None
    assert compare_cells(matrix, reference="everywhere").difference("initial", COLUMNS[0]).estimate.value < 0
    with pytest.raises(ConfigurationError, match="no assistant 'nobody'"):
        compare_cells(matrix, reference="nobody")
    with pytest.raises(ConfigurationError, match="no environment 'x'"):
        compare_cells(matrix, trained_on={"at home": "x"})
