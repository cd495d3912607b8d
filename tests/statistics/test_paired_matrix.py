from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from simgym.statistics import MatrixLayout, clustered_bootstrap_mean, compare_matrix, correct_p_values


def made(rows=3, columns=3, scenarios=30, repeats=2, noise=0.1, seed=0):
    """Rewards with a scenario's difficulty that all cells share, and the scenario of each conversation."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(scenarios), repeats)
    difficulty = rng.normal(0.5, 0.3, scenarios)[ids]
    return difficulty + rng.normal(0, noise, (rows, columns, len(ids))), ids


def test_a_cells_interval_is_that_of_its_own_bootstrap_and_differences_are_much_sharper():
    rewards, ids = made()
    rewards[1] += 0.1
    comparison = compare_matrix(rewards, ids, seed=0, resamples=4000)
    alone = clustered_bootstrap_mean(rewards[1, 2], ids, seed=1, resamples=4000)
    assert comparison.means.value[1, 2] == pytest.approx(alone.value)
    assert (comparison.means.low[1, 2], comparison.means.high[1, 2]) == pytest.approx((alone.low, alone.high), abs=0.02)
    assert comparison.differences.value[1] == pytest.approx([0.1] * 3, abs=0.05)
    wide, sharp = comparison.means.high - comparison.means.low, comparison.differences.high - comparison.differences.low
    assert (sharp[1] < wide[1] / 2).all()
    assert (comparison.differences.p_adjusted[1] < 0.01).all()
    assert (comparison.differences.p_adjusted[2] > 0.05).all()
    assert np.isnan(comparison.differences.p_value[0]).all()  # the reference is not compared with itself
    assert comparison.differences.value[0] == pytest.approx([0] * 3)
    assert comparison.best[1] > 0.95


def test_the_gap_is_what_rows_gain_at_home_beyond_what_they_gain_elsewhere():
    rewards, ids = made(rows=3)
    rewards[:, 2] += 0.5  # an easy column is no gap
    rewards[1] += 0.1
    rewards[1, 1] += 0.2
    rewards[2, 2] += 0.1
    comparison = compare_matrix(rewards, ids, seed=0, layout=MatrixLayout(trained_on={1: 1, 2: 2}), resamples=2000)
    assert comparison.gaps[1].value == pytest.approx(0.2, abs=0.06)
    assert comparison.gaps[2].value == pytest.approx(0.1, abs=0.06)
    assert comparison.gap.value == pytest.approx(np.mean([comparison.gaps[1].value, comparison.gaps[2].value]))
    assert comparison.gap.low < comparison.gap.value < comparison.gap.high
    assert comparison.gap.low > 0
    assert compare_matrix(rewards, ids, seed=0, resamples=10).gap is None


def test_training_seeds_widen_the_interval_of_a_method():
    rewards, ids = made(rows=4, noise=0.02)
    rewards[1:] += np.array([-0.2, 0.1, 0.4])[:, None, None]
    single = compare_matrix(rewards, ids, seed=0, resamples=2000)
    together = compare_matrix(
        rewards, ids, seed=0, layout=MatrixLayout(rows=["initial", "ppo", "ppo", "ppo"]), resamples=2000
    )
    assert together.rows == ("initial", "ppo")
    assert together.differences.value[1] == pytest.approx(single.differences.value[1:].mean(0))
    widths = [matrix.differences.high - matrix.differences.low for matrix in (together, single)]
    assert (widths[0][1] > 5 * widths[1][2]).all()


def test_missing_rewards_leave_the_pair_out_and_an_empty_cell_has_no_number():
    rewards, ids = made(noise=0.0)
    rewards[1] += 0.1
    rewards[1, 0, :20] = np.nan
    rewards[0, 1, 40:] = np.nan
    rewards[2, 2] = np.nan
    comparison = compare_matrix(rewards, ids, seed=0, resamples=500)
    assert comparison.differences.value[1] == pytest.approx(
        [0.1] * 3
    )  # paired: what is missing is missing on both sides
    assert comparison.differences.n[1].tolist() == [20, 20, 30]
    assert np.isnan(
        [comparison.means.value[2, 2], comparison.differences.value[2, 2], comparison.differences.p_value[2, 2]]
    ).all()
    assert np.isfinite(comparison.means.value).sum() == 8


def test_columns_are_compared_within_rows():
    rewards, ids = made(noise=0.05)
    rewards[1, 2] += 0.3
    comparison = compare_matrix(
        rewards, ids, seed=0, layout=MatrixLayout(column_pairs=[(2, 0)]), resamples=1000
    ).column_differences[2, 0]
    assert comparison.value[:, 0] == pytest.approx([0, 0.3, 0], abs=0.05)
    assert comparison.p_adjusted[1, 0] < 0.01
    assert comparison.p_adjusted[:, 0].tolist() == correct_p_values(comparison.p_value[:, 0].tolist())


def test_no_effect_is_rarely_called_one():
    """150 matrices without any effect: the Holm-corrected tests find something in about 5 of 100."""
    wrong = 0
    for number in range(150):
        rewards, ids = made(rows=3, columns=2, scenarios=40, repeats=1, seed=number)
        comparison = compare_matrix(rewards, ids, seed=number, resamples=300)
        wrong += bool(np.nanmin(comparison.differences.p_adjusted) < 0.05)
    assert wrong / 150 < 0.1


def test_the_smallest_effect_that_is_detected_is_found_about_four_times_in_five():
    error = 0.1 * (2 / 50) ** 0.5  # of a difference of two cells with noise 0.1 and 50 scenarios
    detected, detectable = 0, []
    for number in range(150):
        rewards, ids = made(rows=2, columns=1, scenarios=50, repeats=1, seed=1000 + number)
        rewards[1] += 2.8 * error
        differences = compare_matrix(rewards, ids, seed=number, resamples=300).differences
        detected += differences.p_value[1, 0] < 0.05
        detectable.append(differences.detectable[1, 0])
    assert np.mean(detectable) == pytest.approx(2.8 * error, rel=0.05)
    assert 0.7 < detected / 150 < 0.9


def test_the_same_seed_gives_the_same_numbers_and_columns_agree_where_ranks_do():
    rewards, ids = made(rows=4)
    rewards += np.arange(4)[:, None, None]
    first, other = (compare_matrix(rewards, ids, seed=3, resamples=200) for _ in range(2))
    assert first.means.low.tolist() == other.means.low.tolist()
    assert first.agreement == pytest.approx(np.ones((3, 3)))
    assert np.isnan(compare_matrix(rewards[:2], ids, seed=3, resamples=10).agreement).all()


def test_many_scenarios_need_memory_for_their_draws_alone_and_blocks_change_nothing(monkeypatch):
    rewards, ids = made(scenarios=60)
    whole = compare_matrix(rewards, ids, seed=3, resamples=200).differences
    monkeypatch.setattr("simgym.statistics.paired_matrix._BLOCK", 60 * 7)
    blocks = compare_matrix(rewards, ids, seed=3, resamples=200).differences
    assert blocks.low == pytest.approx(whole.low, nan_ok=True)
    assert blocks.p_value == pytest.approx(whole.p_value, nan_ok=True)
    monkeypatch.undo()
    large = np.random.default_rng(0).random((2, 1, 20_000))
    tracemalloc.start()
    compare_matrix(large, range(20_000), seed=0, resamples=300)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150 * 2**20  # a table of scenarios by conversations alone would have 3 GB


def test_what_does_not_fit_is_refused():
    rewards, ids = made()
    for wrong in (
        {"rewards": rewards[0]},
        {"layout": MatrixLayout(rows=["a", "b"])},
        {"layout": MatrixLayout(reference="nobody")},
        {"layout": MatrixLayout(trained_on={1: 3})},
        {"layout": MatrixLayout(column_pairs=[(0, 9)])},
        {"resamples": 0},
        {"level": 1.0},
    ):
        given = {"rewards": rewards, "scenarios": ids, "seed": 0, **wrong}
        with pytest.raises(ValueError, match=r"expected|no row"):
            compare_matrix(given.pop("rewards"), given.pop("scenarios"), **given)
