"""Comparisons of two systems on the same items: win rates with ties, paired differences, tests and corrections.

Whatever scipy or statsmodels offers is taken from there: the Wilson interval (Wilson 1927), the exact McNemar test,
Holm's and Benjamini and Hochberg's corrections, and the Bradley-Terry model as a binomial GLM with cluster-robust
errors.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from simgym.statistics.intervals import (
    Estimate,
    bootstrap_ends,
    clustered_bootstrap_mean,
    fewest_units,
    numbered,
    untold,
    with_interval,
)
from simgym.statistics.resampling import bootstrap_statistic

_Numbers = Sequence[float] | npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """A hypothesis test."""

    __test__ = False  # pytest would take the class for a test

    statistic: float
    """Test statistic."""
    p_value: float
    """Two-sided, in [0, 1]."""
    n: int
    """Items that went in."""
    method: str
    """Which test."""

    def to_json(self) -> dict[str, object]:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Strengths:
    """A Bradley-Terry model."""

    strengths: Mapping[str, Estimate]
    """Log-odds of beating the reference, by player; the reference is 0 without interval."""
    reference: str
    """Whom the others are compared with."""
    n: int
    """Comparisons that went in."""


def wilson_interval(successes: float, n: int, *, level: float = 0.95) -> Estimate:
    """A proportion with Wilson's score interval (no continuity correction); a tie may count as half a success.

    Raises:
        ValueError: `successes` is not in [0, n].
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}, expected between 0 and {n}.")
    if n == 0:
        return untold(None, 0, "there are no data", level)
    from scipy.stats import norm

    # scipy's takes whole successes only, and ties make halves; the formula is the same
    z, p = float(norm.ppf((1 + level) / 2)), successes / n
    centre, spread = p + z * z / (2 * n), z * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    low, high = ((centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
    # at 0 and 1 the bound is the proportion itself, but for the last bit
    low, high = min(max(0.0, low), p), max(min(1.0, high), p)
    return Estimate(value=p, low=low, high=high, n=n, method="Wilson score interval", seed=None, level=level)


def win_rate(
    outcomes: _Numbers, clusters: Sequence[Hashable] | None = None, *, seed: int = 0, resamples: int = 4999
) -> Estimate:
    """Adjusted win rate (wins + ties / 2) / n of one system against another.

    Args:
        outcomes: N numbers in [0, 1]: 1 a win, 0 a loss, 0.5 a tie, or how sure a judge is.
        clusters: N labels of dependent outcomes, e.g. participants; None: independent.
        seed: Of the resampling where there are clusters.
        resamples: Bootstrap samples.

    Returns:
        With clusters a bootstrap interval over them; where that cannot be told (few clusters, or all alike) Wilson's
        with a cluster as one outcome, which is never too short. Else, for outcomes of 0, 0.5 and 1, Wilson's, and for
        shares BCa.
        Wilson's takes a tie for half a win of a coin, whose variance is larger: with many ties it is too wide.

    Raises:
        ValueError: an outcome is not in [0, 1].
    """
    values = np.asarray(outcomes, dtype=np.float64)
    if values.size and not ((values >= 0) & (values <= 1)).all():
        raise ValueError("An outcome is not in [0, 1]. Give 1 for a win, 0.5 for a tie, 0 for a loss.")
    if clusters is not None:
        _as_many(values, clusters)
        rate = clustered_bootstrap_mean(values, clusters, seed=seed, resamples=resamples)
        if rate.reliable or rate.value is None:
            return rate
        wilson = wilson_interval(rate.value * rate.n, rate.n)
        return replace(wilson, value=rate.value, method="Wilson score interval, a cluster as one outcome")
    if np.isin(values, (0.0, 0.5, 1.0)).all():
        return wilson_interval(float(values.sum()), len(values))
    return mean_difference(values, np.zeros_like(values), seed=seed, resamples=resamples)


def mean_difference(
    first: _Numbers,
    second: _Numbers,
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = 4999,
    level: float = 0.95,
) -> Estimate:
    """Mean of first - second over the same N items.

    Independent items: BCa (Efron 1987) by scipy. Where BCa does not exist (clusters) the interval is a percentile
    bootstrap over clusters; `method` says which it was. Fewer than `fewest_units`, or equal ones, have no interval.

    Raises:
        ValueError: the sequences differ in length.
    """
    _as_many(first, second)
    if clusters is not None:
        _as_many(first, clusters)
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if clusters is None and len(differences) >= fewest_units(level) and np.ptp(differences) > 0:
        low, high = bootstrap_ends(differences, "BCa", seed=seed, resamples=resamples, level=level)
        if np.isfinite([low, high]).all():
            mean, method = float(differences.mean()), f"BCa bootstrap over items, {resamples} resamples"
            n = len(differences)
            return with_interval(mean, low, high, n=n, units="items", method=method, seed=seed, level=level)
    return bootstrap_statistic(
        lambda rows: float(differences[rows].mean()),
        clusters if clusters is not None else range(len(differences)),
        seed=seed,
        resamples=resamples,
        level=level,
    )


def mcnemar(first_only: int, second_only: int, *, exact: bool = True) -> Test:
    """Do two systems succeed equally often? McNemar's test on the items where only one of them does.

    Args:
        first_only: Items on which only the first succeeds.
        second_only: Items on which only the second does.
        exact: Binomial; else chi-squared with continuity correction.
    """
    method = "McNemar, exact" if exact else "McNemar, chi-squared with continuity correction"
    if first_only + second_only == 0:
        return Test(statistic=0.0, p_value=1.0, n=0, method=method)  # nothing speaks against equality

    from statsmodels.stats.contingency_tables import mcnemar  # takes long to import

    outcome = mcnemar([[0, first_only], [second_only, 0]], exact=exact)
    return Test(
        statistic=float(outcome.statistic), p_value=float(outcome.pvalue), n=first_only + second_only, method=method
    )


def correct_p_values(p_values: Sequence[float], method: Literal["holm", "fdr_bh"] = "holm") -> list[float]:
    """Correct p-values for multiple tests: Holm (family-wise error) or Benjamini and Hochberg (false discovery rate).

    Args:
        p_values: N uncorrected p-values, in [0, 1].
        method: As statsmodels' `multipletests` calls it.

    Returns:
        N corrected p-values in input order.
    """
    # statsmodels' multipletests gives the same, but collects garbage at every call: seconds in a large process
    if not p_values:
        return []
    ordered, count = np.sort(p_values), len(p_values)
    if method == "holm":
        steps = np.maximum.accumulate(ordered * np.arange(count, 0, -1))
    else:
        steps = np.minimum.accumulate((ordered / (np.arange(1, count + 1) / count))[::-1])[::-1]
    corrected = np.empty(count)
    corrected[np.argsort(p_values)] = np.minimum(steps, 1.0)
    return corrected.tolist()


def bradley_terry(
    games: Sequence[tuple[str, str, float]],
    *,
    reference: str,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> Strengths:
    """Strengths of players from paired comparisons (Bradley & Terry 1952).

    Args:
        games: First player, second player, outcome of the first in [0, 1] (a tie is 0.5).
        reference: The player whose strength is 0.
        clusters: A label a game for robust errors; None: model-based errors.
        level: Nominal coverage, in (0, 1).

    Raises:
        ValueError: the reference did not play, or some strengths do not exist because one group of players has won
            every game against the others, or never met them.
    """
    players = sorted({name for first, second, _ in games for name in (first, second)} - {reference})
    if not any(reference in game[:2] for game in games):
        raise ValueError(f"{reference!r} did not play. Choose a reference among {players}.")
    _check_comparable(games, [*players, reference])

    import statsmodels.api as api  # takes long to import

    outcomes = np.array([outcome for _, _, outcome in games])
    model = api.GLM(outcomes, _design(games, players), family=api.families.Binomial())
    if clusters is None:
        fitted, method = model.fit(), "Bradley-Terry, binomial GLM"
        n, units = len(games), "games"
    else:
        groups, n = numbered(clusters)
        fitted = model.fit(cov_type="cluster", cov_kwds={"groups": groups})
        method, units = "Bradley-Terry, binomial GLM, cluster-robust errors", "clusters"
    bounds = fitted.conf_int(alpha=1 - level)
    strengths = {
        name: with_interval(float(value), float(low), float(high), n=n, units=units, method=method, level=level)
        for name, value, (low, high) in zip(players, fitted.params, bounds, strict=True)
    }
    strengths[reference] = Estimate(value=0.0, low=None, high=None, n=n, method="reference", seed=None, level=level)
    return Strengths(strengths, reference, len(games))


def _design(games: Sequence[tuple[str, str, float]], players: Sequence[str]) -> npt.NDArray[np.float64]:
    """Design matrix of shape (games, players): 1 for the first player, -1 for the second, 0 for the reference."""
    column = {name: number for number, name in enumerate(players)}
    design = np.zeros((len(games), len(players)))
    for row, (first, second, _) in enumerate(games):
        if first in column:
            design[row, column[first]] += 1
        if second in column:
            design[row, column[second]] -= 1
    return design


def _check_comparable(games: Sequence[tuple[str, str, float]], players: Sequence[str]) -> None:
    """Strengths are finite only if everybody took something off everybody over some chain of games (Ford 1957)."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    number = {name: row for row, name in enumerate(players)}
    took = np.zeros((len(players), len(players)))
    for first, second, outcome in games:
        took[number[first], number[second]] += outcome
        took[number[second], number[first]] += 1 - outcome
    count, group = connected_components(csr_array(took > 0), directed=True, connection="strong")
    if count > 1:
        apart = [name for name in players if group[number[name]] != group[number[players[-1]]]]
        raise ValueError(
            f"{', '.join(apart)} cannot be compared with {players[-1]}: the ones have won or lost every game against "
            "the others, or there is none. Leave them out."
        )


def _as_many(first: Sized, second: Sized) -> None:
    if len(first) != len(second):
        raise ValueError(f"Got {len(first)} and {len(second)} items, expected as many.")
