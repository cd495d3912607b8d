from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgym.statistics.intervals import bootstrap_mean, clustered_bootstrap_mean

numbers = st.lists(st.floats(-1000, 1000), min_size=2, max_size=30)


def test_it_agrees_with_a_bootstrap_written_out():
    data = np.random.default_rng(0).normal(3, 2, 60)
    drawn = np.random.default_rng(1).choice(data, size=(20_000, 60)).mean(axis=1)
    estimate = bootstrap_mean(data, seed=2)
    assert estimate.value == pytest.approx(data.mean())
    assert [estimate.low, estimate.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.03)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = 0
    for seed in range(300):
        estimate = bootstrap_mean(rng.exponential(1.0, 40), seed=seed, resamples=499)
        hits += estimate.low <= 1.0 <= estimate.high
    assert 0.88 <= hits / 300 <= 0.98  # a percentile bootstrap is a little short at n = 40 and skewed data


def test_clusters_are_resampled_whole():
    values, clusters = np.repeat([0.0, 1.0, 0.0, 1.0, 1.0, 0.0], 50), np.repeat(list("abcdef"), 50)
    dependent = clustered_bootstrap_mean(values, clusters, seed=1)
    independent = bootstrap_mean(values, seed=1)
    assert dependent.n == 6
    assert dependent.half_width > 4 * independent.half_width
    singles = clustered_bootstrap_mean(values, range(300), seed=1)
    assert singles.half_width == pytest.approx(independent.half_width, rel=0.1)


@settings(max_examples=30, deadline=None)
@given(numbers, st.integers(0, 1000), st.floats(-100, 100))
def test_an_interval_holds_its_value_repeats_by_seed_and_moves_with_the_data(values, seed, shift):
    first = bootstrap_mean(values, seed=seed, resamples=199)
    assert first.low <= first.value <= first.high
    assert first == bootstrap_mean(values, seed=seed, resamples=199)
    moved = bootstrap_mean([value + shift for value in values], seed=seed, resamples=199)
    assert moved.low == pytest.approx(first.low + shift, abs=1e-6)


def test_too_few_values_have_no_interval_and_nothing_is_invented():
    assert bootstrap_mean([], seed=0).value is None
    alone = bootstrap_mean([4.0], seed=0)
    assert (alone.value, alone.low, alone.half_width) == (4.0, None, None)
    assert bootstrap_mean([2.0, 2.0], seed=0).half_width == 0
    assert clustered_bootstrap_mean([1.0, 2.0], ["a", "a"], seed=0).low is None


def test_values_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="count them instead"):
        bootstrap_mean([1.0, float("nan")], seed=0)
    with pytest.raises(ValueError, match="level is 95"):
        bootstrap_mean([1.0, 2.0], seed=0, level=95)
    with pytest.raises(ValueError, match="expected as many"):
        clustered_bootstrap_mean([1.0], ["a", "b"], seed=0)
