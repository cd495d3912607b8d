"""Tests of clustered votes keep their level, agree with statsmodels, and power agrees with known values."""

import numpy as np
import pytest

from simgym.statistics import (
    draw_votes,
    equivalence,
    intraclass_correlation,
    plan_tied_win_rate,
    rejection_rate,
    robust_win_rate,
)
from simgym.statistics.clustered import naive_test
from simgym.statistics.votes import VoteDistribution


@pytest.mark.parametrize(("icc", "people"), [(0, 51), (0.1, 71), (0.2, 91), (0.3, 112)])
def test_the_sample_size_of_a_study_agrees_with_known_values(icc, people):
    assert plan_tied_win_rate(0.58, per_cluster=5, tie_rate=0.15, icc=icc).clusters == people


def test_votes_have_the_rate_ties_and_correlation_that_were_asked_for():
    votes = draw_votes(40_000, 2, VoteDistribution(0.58, 0.15, 0.2), rng=np.random.default_rng(0))
    assert votes.mean() == pytest.approx(0.58, abs=0.005)
    assert (votes == 0.5).mean() == pytest.approx(0.15, abs=0.005)
    assert np.corrcoef(votes.T)[0, 1] == pytest.approx(0.2, abs=0.02)
    with pytest.raises(ValueError, match="Expected shares"):
        draw_votes(3, 2, VoteDistribution(0.05, 0.5, 0), rng=np.random.default_rng(0))


def test_the_robust_test_keeps_its_level_where_the_naive_one_does_not():
    rejections = rejection_rate(60, 5, VoteDistribution(0.5, 0.15, 0.2), studies=400, seed=1)
    assert 0.02 < rejections.robust.value < 0.08
    assert rejections.naive.value > 0.1


def test_without_clustering_the_robust_test_is_the_t_test_of_a_proportion_nearly():
    votes = draw_votes(400, 1, VoteDistribution(0.56, 0.1, 0), rng=np.random.default_rng(3)).reshape(-1)
    robust = robust_win_rate(votes, range(400))
    assert robust.rate.value == pytest.approx(votes.mean())
    assert robust.test.p_value == pytest.approx(naive_test(votes).p_value, abs=0.01)


@pytest.mark.parametrize(
    ("outcomes", "clusters", "doubt"),
    [
        ([], [], "there are no data"),
        ([1.0, 0.0, 1.0, 0.5, 1.0], "abcde", "5 clusters, fewer than 6"),
        ([1.0] * 9, "abcdefghi", "all outcomes are equal"),
        ([1, 1, 1, 0, 0] * 7, [name for name in "abcdefg" for _ in range(5)], "all 7 clusters are alike"),
    ],
)
def test_what_tells_nothing_of_others_has_no_test_and_says_why(outcomes, clusters, doubt):
    robust, equal = robust_win_rate(outcomes, clusters), equivalence(outcomes, clusters, margin=0.2)
    for rate in (robust.rate, equal.rate):
        assert rate.value == (pytest.approx(np.mean(outcomes)) if len(outcomes) else None)
        assert (rate.low, rate.high, rate.doubt) == (None, None, doubt)
    assert (robust.test, equal.p_value, equal.equivalent) == (None, None, None)


def test_the_correlation_of_equal_and_of_alternating_votes():
    people = np.repeat(np.arange(50), 4)
    same = np.repeat(np.arange(50) % 2, 4)
    assert intraclass_correlation(same, people, seed=0).value == pytest.approx(1)
    alternating = np.tile([0.0, 1.0, 0.0, 1.0], 50)
    assert intraclass_correlation(alternating, people, seed=0).value == pytest.approx(-1 / 3, abs=0.01)
    shuffled = np.random.default_rng(0).permutation(200)
    again = intraclass_correlation(same[shuffled], people[shuffled], seed=0)
    assert again.value == pytest.approx(1)


def test_a_margin_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="margin"):
        equivalence([0, 1, 0], range(3), margin=0.6)
