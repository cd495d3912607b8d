from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from simgym.statistics import bradley_terry, correct_p_values, mcnemar, mean_difference, wilson_interval, win_rate


def test_an_interval_holds_its_proportion():
    estimates = [wilson_interval(wins, n) for n in range(1, 60) for wins in (0, n)]
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in estimates)


@pytest.mark.parametrize(("wins", "n"), [(0, 5), (3, 10), (141, 283), (50, 50)])
def test_the_wilson_interval_is_scipys(wins, n):
    ours, theirs = wilson_interval(wins, n), binomtest(wins, n).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert wilson_interval(0, 0).value is None
    with pytest.raises(ValueError, match="expected between"):
        wilson_interval(4, 3)


def test_ties_are_half_a_win_and_clusters_widen_the_interval():
    outcomes = [1.0, 0.5, 0.0, 1.0] * 30
    assert win_rate(outcomes).value == pytest.approx(0.625)
    alone = win_rate(outcomes)
    people = win_rate(sorted(outcomes), [n // 10 for n in range(120)])
    assert people.value == alone.value
    assert people.n == 12
    assert people.half_width > 1.5 * alone.half_width
    with pytest.raises(ValueError, match="not in"):
        win_rate([1, 2])


def test_published_win_rates_are_reproduced(data_of_others):
    models = json.loads(data_of_others("alpaca_eval_winrate.json").read_text())["models"]
    assert len(models) > 20
    for name, model in models.items():
        published, given = model["published"], np.array(model["preference"])
        outcomes = np.where(np.isin(given, (0.0, 1.5)), 0.5, given - 1)
        estimate = win_rate(outcomes, resamples=199)
        assert 100 * estimate.value == pytest.approx(float(published["win_rate"]), abs=1e-9), name
        error = 100 * outcomes.std(ddof=1) / np.sqrt(len(outcomes))
        assert error == pytest.approx(float(published["standard_error"]), abs=1e-9), name
        wins, draws = (outcomes > 0.5).sum(), (outcomes == 0.5).sum()
        assert (wins, draws) == (int(published["n_wins"]), int(published["n_draws"])), name
        discrete = win_rate(np.where(outcomes > 0.5, 1.0, np.where(outcomes < 0.5, 0.0, 0.5)))
        assert 100 * discrete.value == pytest.approx(float(published["discrete_win_rate"]), abs=1e-9), name
        assert estimate.low < estimate.value < estimate.high


def test_the_bootstrap_of_differences_is_bca_where_that_exists_and_says_so():
    rng = np.random.default_rng(0)
    first, second = rng.exponential(size=80) + 0.3, rng.exponential(size=80)
    independent = mean_difference(first, second, seed=1)
    clustered = mean_difference(first, second, [n // 8 for n in range(80)], seed=1)
    assert independent.value == clustered.value == pytest.approx(np.mean(first - second))
    assert "BCa" in independent.method
    assert "clusters" in clustered.method
    constant = mean_difference([1.0, 2.0], [0.0, 1.0])
    assert (constant.value, constant.low, constant.doubt) == (1, None, "2 clusters, fewer than 6")
    assert mean_difference([1.0] * 9, [0.0] * 9).doubt == "all 9 clusters are alike"
    assert mean_difference([], []).value is None


@pytest.mark.parametrize("people", [2, 5, 40])
def test_people_who_all_choose_alike_are_as_many_outcomes_not_certainty(people):
    rate = win_rate([1.0] * (3 * people), np.repeat(range(people), 3))
    alone = wilson_interval(people, people)
    assert (rate.value, rate.low, rate.high, rate.n) == (1, alone.low, 1, people)
    assert "a cluster as one outcome" in rate.method
    varied = win_rate([1.0, 1.0, 0.0, 1.0], ["a", "a", "b", "b"])
    assert (varied.value, varied.n) == (0.75, 2)
    assert varied.high - varied.low > 0.6


def test_mcnemar_and_corrections_are_statsmodels():
    assert mcnemar(5, 15).p_value == pytest.approx(binomtest(5, 20).pvalue)
    assert mcnemar(5, 15, exact=False).p_value == pytest.approx(0.0441, abs=1e-3)
    assert correct_p_values([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert correct_p_values([0.01, 0.04, 0.03], "fdr_bh") == pytest.approx([0.03, 0.04, 0.04])
    assert correct_p_values([]) == []


@pytest.mark.parametrize("method", ["holm", "fdr_bh"])
def test_corrected_p_values_are_those_of_statsmodels_without_a_pause_for_garbage(method, monkeypatch):
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 100):
        p_values = np.round(rng.random(count) ** 3, 2).tolist()  # with ties
        expected = multipletests(p_values, method=method)[1].tolist()
        monkeypatch.setattr("gc.collect", lambda: pytest.fail("garbage was collected"))
        assert correct_p_values(p_values, method) == expected
        monkeypatch.undo()


def test_bradley_terry_finds_the_strengths_that_made_the_games():
    rng = np.random.default_rng(3)
    true = {"a": 0.0, "b": 0.8, "c": -0.5}
    games, people = [], []
    for number in range(1500):
        first, second = rng.choice(list(true), 2, replace=False)
        wins = rng.random() < 1 / (1 + np.exp(true[second] - true[first]))
        games.append((str(first), str(second), float(wins)))
        people.append(number % 50)
    fitted = bradley_terry(games, reference="a", clusters=people)
    for name in "bc":
        estimate = fitted.strengths[name]
        assert estimate.low < true[name] < estimate.high
        assert estimate.n == 50
    assert fitted.strengths["a"].value == 0
    plain = bradley_terry(games, reference="a")
    assert plain.strengths["b"].value == pytest.approx(fitted.strengths["b"].value)
    with pytest.raises(ValueError, match="did not play"):
        bradley_terry(games, reference="z")
    for apart in ([("a", "b", 1.0), ("b", "a", 0.0)], [("a", "b", 0.5), ("c", "d", 0.5)], [("b", "a", 0.0)] * 9):
        with pytest.raises(ValueError, match="cannot be compared"):
            bradley_terry(apart, reference="a")


def test_sequences_of_different_lengths_are_refused_and_no_evidence_is_no_difference():
    for wrong in (
        lambda: win_rate([1, 1, 0], clusters=["a"]),
        lambda: mean_difference([1, 2, 3.5], [1]),
        lambda: mean_difference([1, 2], [1, 1], ["a"]),
    ):
        with pytest.raises(ValueError, match="expected as many"):
            wrong()
    assert mcnemar(0, 0).p_value == mcnemar(0, 0, exact=False).p_value == 1
