from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from simgym.conversation import INTENT_PREFIX, Conversation, Scenario
from simgym.errors import ConfigurationError
from simgym.evaluation import Contrast, Matrix, compare_cells, reward_contrasts, win_contrasts
from simgym.transcripts import Transcript
from simgym.typed_json import from_json

COLUMN = "UserSim-Replay-v0"


def matrix_of(rewards):
    """One column; rewards by row, None for a conversation that does not count."""
    return Matrix(
        (),
        {
            (row, COLUMN): [
                Transcript(
                    env_id=COLUMN,
                    scenario=Scenario(f"s{number}", f"{INTENT_PREFIX}rest", opening="hi"),
                    seed=number,
                    conversation=Conversation().add("user", "hi").add("assistant", "ho"),
                    end_reason="turn_limit" if reward is not None else "judge_fault",
                    reward=reward,
                    fault=None if reward is not None else "unparsable: x",
                )
                for number, reward in enumerate(of_row)
            ]
            for row, of_row in rewards.items()
        },
        {},
    )


def test_wins_ties_and_losses_over_the_conversations_that_count_in_both():
    first = [0.9, 0.5, 0.1, 0.9, None, 0.9] * 5
    second = [0.1, 0.5, 0.9, 0.2, 0.1, None] * 5
    matrix = matrix_of({"one": first, "other": second})
    (won,) = win_contrasts(matrix, [("one", "other")], COLUMN, seed=1)
    assert won.estimate.value == pytest.approx(100 * (1 + 0.5 + 0 + 1) / 4)
    assert won.estimate.n == 20
    assert 0 <= won.estimate.low < won.estimate.value < won.estimate.high <= 100
    (lost,) = win_contrasts(matrix, [("other", "one")], COLUMN, seed=1)
    assert lost.estimate.value == pytest.approx(100 - won.estimate.value)
    (gain,) = reward_contrasts(matrix, [("one", "other")], COLUMN, seed=1)
    assert gain.estimate.value == pytest.approx(100 * (0.8 + 0 - 0.8 + 0.7) / 4)
    assert from_json(Contrast, json.loads(json.dumps(asdict(gain))), "contrast") == gain


def test_training_seeds_of_a_method_widen_its_interval_by_what_they_differ_in():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.3, 0.6, 40)
    rows = {
        "initial": base,
        "lucky": base + 0.2 + rng.normal(0, 0.01, 40),
        "unlucky": base + rng.normal(0, 0.01, 40),
    }
    matrix = matrix_of({row: values.tolist() for row, values in rows.items()})
    methods = {"lucky": "method", "unlucky": "method"}
    (alone,) = reward_contrasts(matrix, [("lucky", "initial")], COLUMN, seed=1)
    (contrast,) = reward_contrasts(matrix, [("method", "initial")], COLUMN, seed=1, methods=methods)
    assert contrast.estimate.value == pytest.approx(10, abs=1)
    assert alone.estimate.half_width < 1
    assert contrast.estimate.half_width > 8
    assert "2 training seeds" in contrast.estimate.method
    (won,) = win_contrasts(matrix, [("method", "initial")], COLUMN, seed=1, methods=methods)
    assert won.estimate.value == pytest.approx(75, abs=10)
    assert contrast.p_value > 0.3  # two training seeds are one degree of freedom
    (lost,) = win_contrasts(matrix, [("initial", "method")], COLUMN, seed=1, methods=methods)
    assert lost.estimate.value == pytest.approx(100 - won.estimate.value)
    assert lost.estimate.half_width == pytest.approx(won.estimate.half_width, rel=0.1)
    assert lost.estimate.half_width > 20
    compared = compare_cells(matrix, methods=methods, seed=1)
    (difference,) = compared.differences
    assert difference.assistant == "method"
    assert difference.estimate.value == pytest.approx(contrast.estimate.value)


def test_winning_every_one_of_five_conversations_proves_little():
    matrix = matrix_of({"one": [0.9] * 5, "other": [0.1] * 5})
    (won,) = win_contrasts(matrix, [("one", "other")], COLUMN, seed=1)
    assert won.estimate.value == 100
    assert won.estimate.low < 60
    assert won.p_value == pytest.approx(2 / 2**5)
    (gain,) = reward_contrasts(matrix, [("one", "other")], COLUMN, seed=1)
    assert gain.p_value is None  # all the same: no error to divide by


def test_p_values_are_corrected_for_all_pairs_that_are_asked_about():
    rng = np.random.default_rng(1)
    rows = {name: rng.uniform(0.3, 0.6, 30).tolist() for name in ("a", "b", "c")}
    matrix = matrix_of(rows)
    (alone,) = reward_contrasts(matrix, [("a", "b")], COLUMN, seed=1)
    contrasts = reward_contrasts(matrix, [("a", "b"), ("a", "c"), ("b", "c")], COLUMN, seed=1)
    assert contrasts[0].estimate == alone.estimate
    assert contrasts[0].p_adjusted >= alone.p_adjusted


@pytest.mark.parametrize(("pair", "column"), [(("a", "nobody"), COLUMN), (("a", "b"), "UserSim-Nobody-v0")])
def test_who_is_not_in_the_matrix_cannot_be_asked_about(pair, column):
    with pytest.raises(ConfigurationError, match=r"[nN]obody"):
        win_contrasts(matrix_of({"a": [0.1, 0.2], "b": [0.2, 0.1]}), [pair], column, seed=1)


def test_a_difference_has_the_same_interval_as_a_contrast_as_in_the_matrix():
    rng = np.random.default_rng(2)
    rows = {name: rng.uniform(0.3, 0.6, 30).tolist() for name in ("initial", "a 1", "a 2", "b 1", "b 2")}
    matrix = matrix_of(rows)
    for methods in ({}, {"a 1": "a", "a 2": "a", "b 1": "b", "b 2": "b"}):
        compared = compare_cells(matrix, methods=methods, seed=5)
        for difference in compared.differences:
            pair = (difference.assistant, "initial")
            (alone,) = reward_contrasts(matrix, [pair], COLUMN, seed=5, methods=methods)
            ends = [(estimate.value, estimate.low, estimate.high) for estimate in (difference.estimate, alone.estimate)]
            assert ends[0] == pytest.approx(ends[1], rel=1e-12)
            assert difference.estimate.method == alone.estimate.method
            assert difference.estimate.seed == alone.estimate.seed


def test_too_few_or_equal_scenarios_tell_neither_an_interval_nor_a_p_value():
    small = compare_cells(matrix_of({"one": [0.1, 0.2, 0.4], "other": [0.3, 0.2, 0.9]})).differences[0]
    equal = compare_cells(matrix_of({"one": [0.1] * 9, "other": [0.3] * 9})).differences[0]
    assert small.estimate.doubt == "3 scenarios, fewer than 6"
    assert equal.estimate.doubt == "all 9 scenarios differ by the same"
    for difference in (small, equal):
        assert difference.estimate.value is not None
        assert difference.estimate.low is difference.p_adjusted is difference.detectable is None
