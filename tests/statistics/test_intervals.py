from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgym.statistics import Estimate, bootstrap_mean, clustered_bootstrap_mean, format_interval
from simgym.statistics.intervals import fewest_units, format_p, format_p_equation


def ends(estimate: Estimate) -> tuple[float, float, float]:
    assert estimate.low is not None
    assert estimate.value is not None
    assert estimate.high is not None
    return estimate.low, estimate.value, estimate.high


def width(estimate: Estimate) -> float:
    assert estimate.half_width is not None
    return estimate.half_width


def test_a_p_value_is_never_shown_as_nothing_at_all() -> None:
    assert [format_p(p) for p in (None, 0.0, 0.0004, 0.0006, 0.25, 1.0)] == [
        "–", "< 0.001", "< 0.001", "0.001", "0.250", "1.000",
    ]  # fmt: skip
    assert [format_p_equation(p) for p in (None, 1e-9, 0.03)] == ["no p", "p < 0.001", "p = 0.030"]


numbers = st.lists(st.floats(-1000, 1000), min_size=6, max_size=30).filter(lambda values: np.ptp(values) > 1e-6)


def test_it_agrees_with_a_bootstrap_written_out() -> None:
    data = np.random.default_rng(0).normal(3, 2, 60)
    drawn = np.random.default_rng(1).choice(data, size=(20_000, 60)).mean(axis=1)
    estimate = bootstrap_mean(data, seed=2)
    assert estimate.value == pytest.approx(data.mean())
    assert [estimate.low, estimate.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.03)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for seed in range(300):
        low, _, high = ends(bootstrap_mean(rng.exponential(1.0, 40), seed=seed, resamples=499))
        hits += low <= 1.0 <= high
    assert 0.88 <= hits / 300 <= 0.98  # a percentile bootstrap is a little short at n = 40 and skewed data


def test_clusters_are_resampled_whole() -> None:
    values, clusters = np.repeat([0.0, 1.0, 0.0, 1.0, 1.0, 0.0], 50), np.repeat(list("abcdef"), 50)
    dependent = clustered_bootstrap_mean(values, clusters, seed=1)
    independent = bootstrap_mean(values, seed=1)
    assert dependent.n == 6
    assert width(dependent) > 4 * width(independent)
    singles = clustered_bootstrap_mean(values, range(300), seed=1)
    assert width(singles) == pytest.approx(width(independent), rel=0.1)


@settings(max_examples=30, deadline=None)
@given(numbers, st.integers(0, 1000), st.floats(-100, 100))
def test_an_interval_holds_its_value_repeats_by_seed_and_moves_with_the_data(
    values: list[float], seed: int, shift: float
) -> None:
    first = bootstrap_mean(values, seed=seed, resamples=199)
    low, value, high = ends(first)
    assert low <= value <= high
    assert first == bootstrap_mean(values, seed=seed, resamples=199)
    moved = bootstrap_mean([value + shift for value in values], seed=seed, resamples=199)
    assert ends(moved) == pytest.approx((low + shift, value + shift, high + shift), abs=1e-6)


def test_too_few_values_have_no_interval_and_nothing_is_invented() -> None:
    assert bootstrap_mean([], seed=0).value is None
    alone = bootstrap_mean([4.0], seed=0)
    assert (alone.value, alone.low, alone.half_width) == (4.0, None, None)
    assert clustered_bootstrap_mean([1.0, 2.0], ["a", "a"], seed=0).low is None


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_fewest_units_is_where_the_range_of_the_data_first_reaches_the_level(level: float) -> None:
    fewest = fewest_units(level)
    assert 1 - 2.0 ** (1 - fewest) >= level > 1 - 2.0 ** (1 - (fewest - 1))


def test_what_the_data_cannot_tell_is_said_rather_than_given_as_certain() -> None:
    small = bootstrap_mean([1.0, 2.0, 4.0], seed=0)
    assert (small.value, small.low, small.doubt) == (pytest.approx(7 / 3), None, "3 values, fewer than 6")
    equal = bootstrap_mean([0.1] * 8, seed=0)
    assert (equal.low, equal.doubt) == (None, "all 8 values are equal")
    alike = clustered_bootstrap_mean([0.0, 1.0] * 8, [n // 2 for n in range(16)], seed=0)
    assert (alike.value, alike.low, alike.doubt) == (0.5, None, "all 8 clusters are alike")
    assert format_interval(small) == "[cannot be told: 3 values, fewer than 6]"
    fine = bootstrap_mean([0.1, 0.2, 0.3, 0.4, 0.5, 0.7], seed=0)
    assert fine.reliable
    assert format_interval(fine, "+.1f", scale=100) == f"[{100 * fine.low:+.1f}, {100 * fine.high:+.1f}]"  # type: ignore[operator]


def test_intervals_from_too_little_in_older_files_are_doubted_too() -> None:
    old = {"value": 1.0, "low": 1.0, "high": 1.0, "n": 9, "method": "percentile bootstrap", "seed": 1, "level": 0.95}
    assert Estimate.from_json(old).doubt == "all values are equal"
    assert Estimate.from_json({**old, "low": 0.2, "n": 3}).doubt == "3 units, fewer than 6"
    assert Estimate.from_json({**old, "low": 0.2}).reliable
    assert Estimate.from_json({**old, "low": 0.2, "n": 3, "method": "Wilson score interval"}).reliable
    assert Estimate.from_json({**old, "low": None, "high": None, "method": "too few values"}).doubt == "too few values"


def test_values_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="count them instead"):
        bootstrap_mean([1.0, float("nan")], seed=0)
    with pytest.raises(ValueError, match="level is 95"):
        bootstrap_mean([1.0, 2.0], seed=0, level=95)
    with pytest.raises(ValueError, match="expected as many"):
        clustered_bootstrap_mean([1.0], ["a", "b"], seed=0)


def test_a_clustered_interval_holds_its_value_however_few_the_resamples() -> None:
    rng = np.random.default_rng(5)
    for seed in range(200):
        clusters = [*range(6), *rng.integers(0, 6, 6).tolist()]
        low, value, high = ends(clustered_bootstrap_mean(rng.uniform(size=12), clusters, seed=seed, resamples=9))
        assert low <= value <= high


def test_an_estimate_survives_json_and_unknown_is_null() -> None:
    for estimate in (bootstrap_mean([], seed=0), bootstrap_mean([1.0, 2.0, 4.0], seed=0, resamples=99)):
        text = json.dumps(estimate.to_json(), allow_nan=False)
        assert Estimate.from_json(json.loads(text)) == estimate
    assert bootstrap_mean([], seed=0).to_json()["low"] is None


def test_no_interval_is_made_beside_the_rule_that_refuses_those_from_too_little() -> None:
    """Wherever an `Estimate` gets ends of its own, it is the rule itself, or Wilson's exact-like interval."""
    root, makers = Path(__file__).parents[2], set()
    for path in (path for folder in ("simgym", "agents", "benchmarks") for path in (root / folder).rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            for call in ast.walk(function):
                if (
                    isinstance(call, ast.Call)
                    and getattr(call.func, "id", getattr(call.func, "attr", "")) == "Estimate"
                ):
                    ends = {word.arg: word.value for word in call.keywords}
                    if not (isinstance(ends.get("low"), ast.Constant) and ends["low"].value is None):
                        makers.add(function.name)
    assert makers == {"with_interval", "wilson_interval"}
