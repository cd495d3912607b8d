from __future__ import annotations

import math

import numpy as np
import pytest

from simgym.statistics import bootstrap_statistic, clustered_bootstrap_mean

RNG = np.random.default_rng(5)
CLUSTERS = [f"c{n}" for n in RNG.integers(0, 25, 200)]
VALUES = RNG.normal(3.0, 1.0, 200) + np.array([int(name[1:]) for name in CLUSTERS]) / 10


def mean(rows):
    return float(VALUES[rows].mean())


def test_for_a_mean_it_agrees_with_the_clustered_mean():
    ours = bootstrap_statistic(mean, CLUSTERS, seed=1, resamples=4000)
    other = clustered_bootstrap_mean(VALUES, CLUSTERS, seed=2, resamples=4000)
    assert ours.value == pytest.approx(other.value)
    assert (ours.low, ours.high) == pytest.approx((other.low, other.high), abs=0.03)
    assert ours.n == 25


def test_the_same_seed_gives_the_same_interval_and_another_nearly_so():
    first, again, other = (bootstrap_statistic(mean, CLUSTERS, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_basic_interval_is_the_percentile_interval_turned_round_the_value():
    percentile, basic = (bootstrap_statistic(mean, CLUSTERS, seed=1, kind=kind) for kind in ("percentile", "basic"))
    assert basic.low == pytest.approx(2 * percentile.value - percentile.high)
    clipped = bootstrap_statistic(mean, CLUSTERS, seed=1, bounds=(0.0, percentile.value))
    assert clipped.high == percentile.value


def test_what_is_not_defined_is_none_and_never_nan():
    assert bootstrap_statistic(lambda rows: math.nan, CLUSTERS, seed=1).value is None
    assert bootstrap_statistic(mean, [], seed=1).value is None
    single = bootstrap_statistic(lambda rows: 2.0, ["one"] * 5, seed=1)
    assert (single.value, single.low, single.n) == (2.0, None, 1)
    rare = bootstrap_statistic(lambda rows: 1.0 if (np.diff(rows) > 0).all() else math.nan, range(40), seed=1)
    assert (rare.value, rare.low) == (1.0, None)
    with pytest.raises(ValueError, match="level"):
        bootstrap_statistic(mean, CLUSTERS, seed=1, level=2)
