from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import cohen_kappa_score

from simgym.statistics import agreement, cohen_kappa, kendall, krippendorff_alpha, spearman

RNG = np.random.default_rng(2)
FIRST = RNG.integers(1, 6, 90).astype(float)
SECOND = np.clip(FIRST + RNG.integers(-1, 2, 90), 1, 5)


def test_the_figures_are_those_of_the_libraries():
    agreed = agreement(FIRST, SECOND, resamples=99)
    assert agreed.raw.value == pytest.approx((FIRST == SECOND).mean())
    assert agreed.kappa.value == pytest.approx(cohen_kappa_score(FIRST.astype(int), SECOND.astype(int)))
    assert agreed.kappa_quadratic.value == pytest.approx(
        cohen_kappa_score(FIRST.astype(int), SECOND.astype(int), weights="quadratic")
    )
    assert agreed.spearman.value == pytest.approx(spearmanr(FIRST, SECOND).statistic)
    assert agreed.pearson.value == pytest.approx(pearsonr(FIRST, SECOND).statistic)
    for estimate in (agreed.raw, agreed.kappa, agreed.alpha, agreed.spearman):
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.n == 90


def test_alpha_of_a_textbook_example():
    # Krippendorff's own example with four observers and twelve units, some not rated
    table = np.array([
        [1, 2, 3, 3, 2, 1, 4, 1, 2, math.nan, math.nan, math.nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, math.nan, 3],
        [math.nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, math.nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, math.nan],
    ])  # fmt: skip
    assert krippendorff_alpha(table, "nominal") == pytest.approx(0.743, abs=1e-3)
    assert krippendorff_alpha(table, "interval") == pytest.approx(0.849, abs=1e-3)


def test_quadratic_weights_are_distances_on_the_scale_even_if_a_rating_is_unused():
    first, second = np.array([1.0, 1.0, 5.0, 5.0]), np.array([1.0, 5.0, 5.0, 1.0])
    assert cohen_kappa(first, second, weights="quadratic") == pytest.approx(0)
    near, far = np.array([1.0, 2.0, 5.0, 1.0]), np.array([1.0, 5.0, 5.0, 1.0])
    base = np.array([1.0, 1.0, 5.0, 1.0])
    assert cohen_kappa(base, near, weights="quadratic") > cohen_kappa(base, far, weights="quadratic")


def test_unrated_items_are_left_out_and_constant_ratings_have_no_kappa():
    agreed = agreement([1, 2, math.nan, 4], [1, math.nan, 3, 4], resamples=19)
    assert agreed.raw.n == 2
    constant = agreement([3, 3, 3], [3, 3, 3], resamples=19)
    assert (constant.raw.value, constant.kappa.value, constant.alpha.value) == (1, None, None)
    json.dumps(constant.to_json(), allow_nan=False)
    with pytest.raises(ValueError, match="expected as many"):
        agreement([1], [1, 2])
    assert spearman([1, 2, 3], [10, 20, 30], resamples=19).value == 1


def test_two_judges_of_wildbench_agree_more_with_themselves_than_with_each_other(data_of_others):
    rows = json.loads(data_of_others("wildbench_two_judges.json").read_text())["rows"]
    turbo, omni, omni_later = (np.array([row[column] for row in rows], dtype=float) for column in (2, 3, 4))
    sessions = [row[1] for row in rows]
    between = agreement(turbo, omni, sessions, resamples=49)
    within = agreement(omni, omni_later, sessions, resamples=49)
    assert between.kappa_quadratic.value < within.kappa_quadratic.value
    assert between.alpha.value < within.alpha.value
    assert between.spearman.value > 0.6
    assert between.raw.n == len(set(sessions))


def test_ratings_may_be_any_numbers():
    rng = np.random.default_rng(0)
    first = rng.random(200)
    agreed = agreement(first, first + 1e-9 * rng.random(200), resamples=19)
    assert agreed.kappa_quadratic.value == pytest.approx(1)


def test_a_judge_agrees_with_people_on_mirrorbench_as_published(data_of_others):
    labels = json.loads(data_of_others("mirrorbench/gteval_labeled.json").read_text())
    scores = json.loads(data_of_others("mirrorbench/gteval_judge_scores.json").read_text())
    score_of = {row["sample_id"]: row["judge_score"] for row in scores}
    people, judge = [row["human_label"] for row in labels], [score_of[row["sample_id"]] for row in labels]
    assert spearman(people, judge, resamples=19).value == 0.6969429335308475
    assert kendall(people, judge, resamples=19).value == 0.616588326563366
