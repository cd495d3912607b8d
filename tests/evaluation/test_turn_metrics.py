from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import roc_auc_score

from simgym.evaluation import turn_metrics as metrics


def test_the_divergence_is_scipys_and_bounded():
    p, q = np.array([3.0, 1.0, 0.0]), np.array([1.0, 1.0, 2.0])
    assert metrics.jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q, base=2) ** 2)
    assert metrics.jensen_shannon(p, p) == 0
    assert metrics.jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1
    assert math.isnan(metrics.jensen_shannon(p, np.zeros(3)))


def test_the_area_under_the_curve_is_sklearns():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    scores = np.round(rng.normal(size=60) + labels, 1)  # with ties
    assert metrics.auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    assert math.isnan(metrics.auc(scores, np.ones(60, dtype=int)))


def test_lengths_fall_into_the_bins_that_are_named():
    histogram = metrics.length_histogram([0, 1, 2, 3, 4, 99, 100, 5000])
    assert histogram.tolist() == [1, 1, 1, 2, 0, 0, 0, 0, 0, 1, 2]


def test_the_moving_ratio_does_not_depend_on_the_amount_of_text():
    text = " ".join(f"w{n % 40}" for n in range(200))
    assert metrics.moving_type_token_ratio([text]) == pytest.approx(40 / 50)
    assert metrics.moving_type_token_ratio([text, text]) == pytest.approx(40 / 50, abs=0.01)
    assert math.isnan(metrics.moving_type_token_ratio(["too short"]))


def test_first_turns_that_share_no_word_are_wholly_different():
    table = metrics.pairwise_differences(["hello there", "HELLO there!", "quite another"])
    assert (table[0, 1], table[0, 2]) == (0, 1)
    assert np.isnan(table.diagonal()).all()


def test_only_new_content_words_of_the_goal_count_as_revealed():
    goal = "plan a cheap trip to Porto"
    assert metrics.revealed(goal, "I want a trip, a cheap one") == pytest.approx(2 / 4)
    assert metrics.revealed(goal, "a trip to Porto", ["cheap trip please"]) == pytest.approx(1 / 4)
    assert metrics.revealed("do it", "do it") is None


def test_a_turn_on_its_own_goal_adheres_and_one_on_another_does_not():
    goals = ["bake bread at home", "mend a bicycle tyre", "bake bread at home"]
    shares = metrics.adherence(goals, ["the bread is flat", "which bread?", "hello"])
    assert shares[0] == 1
    assert shares[1] == 0
    assert shares[2] == 0.5


def test_few_texts_of_one_kind_are_not_told_apart_for_being_few():
    rng = np.random.default_rng(1)
    pool = [f"word{number}" for number in range(200)]
    values = []
    for _ in range(12):
        texts = [" ".join(rng.choice(pool, 12)) for _ in range(70)]
        side = rng.permutation(70) % 2 == 0
        halves = [[text for text, kind in zip(texts, side, strict=True) if kind == half] for half in (True, False)]
        groups = [f"g{n // 2}" for half in (True, False) for n in np.flatnonzero(side == half)]
        separated = metrics.separability(*halves, groups)
        values.append(metrics.separation_auc(separated, np.arange(70)))
    assert 0.42 < np.mean(values) < 0.58


def test_the_classifier_finds_a_tell_and_nothing_where_there_is_none():
    rng = np.random.default_rng(0)
    pool = [f"word{number}" for number in range(16)]

    def say(count, ending):
        return [" ".join(rng.choice(pool, 12)) + ending for _ in range(count)]

    groups = [f"g{n % 20}" for n in range(100)]
    everything = np.arange(200)
    separation = metrics.separability(say(100, "."), say(100, " indeed!"), [*groups, *groups])
    assert metrics.separation_auc(separation, everything) > 0.95
    separation = metrics.separability(say(100, "."), say(100, "."), [*groups, *groups])
    assert 0.4 < metrics.separation_auc(separation, everything) < 0.6
    assert metrics.separability(["a"] * 3, ["b"] * 30, ["x"] * 33) is None
