"""Win rates of clustered votes (by participant): robust tests, equivalence, and intraclass correlation.

Votes of one person resemble each other, so a test that treats them as independent rejects too often: with five votes of
intraclass correlation 0.2, about three times as often as its nominal level. Cluster-robust errors (Liang & Zeger 1986)
of a binomial GLM by statsmodels, with t quantiles of (clusters - 1) degrees of freedom, keep the level; ties are half a
win, for which the robust errors need no distribution. Equivalence: two one-sided tests (Schuirmann 1987). Correlation:
the analysis-of-variance estimator for clusters of unequal size (Donner 1986).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from simgym.statistics.intervals import Estimate, few_units, numbered, untold, with_interval
from simgym.statistics.paired import Test
from simgym.statistics.resampling import bootstrap_statistic

_Numbers = Sequence[float] | npt.NDArray[np.generic]
_Labels = Sequence[Hashable] | npt.NDArray[np.generic]

_NO_ERROR = 1e-8
"""A standard error below this is rounding: all clusters have the same share, and nothing can be said of others."""


@dataclass(frozen=True, slots=True)
class RobustRate:
    """A win rate and its test against one half."""

    rate: Estimate
    """Win rate; where its interval cannot be told, `doubt` says why."""
    test: Test | None
    """Of a rate of one half; None where the interval cannot be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalence:
    """Is a win rate within 0.5 ± margin?"""

    margin: float
    """Largest difference from one half that does not matter."""
    rate: Estimate
    """Win rate with its 90 % interval: equivalent at level 0.05 if that lies within the margin."""
    p_value: float | None
    """Of "it is not", the larger of two one-sided tests, in [0, 1]; None where the interval cannot be told."""
    equivalent: bool | None
    """p < 0.05; None where that cannot be told."""

    def to_json(self) -> dict[str, object]:
        """JSON values."""
        return asdict(self)


def robust_win_rate(
    outcomes: _Numbers, clusters: _Labels, *, covariate: _Numbers | None = None, level: float = 0.95
) -> RobustRate:
    """Win rate by a binomial GLM with cluster-robust errors.

    Args:
        outcomes: N numbers in [0, 1]: 1 a win, 0 a loss, 0.5 a tie.
        clusters: N labels.
        covariate: N numbers (such as the log ratio of both lengths), or None; the rate is that where it is 0.
        level: Nominal coverage, in (0, 1).

    Returns:
        No test and no interval with fewer than `fewest_units` clusters, or where all outcomes or all clusters' shares
        are equal; no value either with a covariate that cannot be fitted, or without outcomes.
    """
    values = np.asarray(outcomes, dtype=np.float64)
    groups, count = numbered(clusters)
    plain = float(values.mean()) if len(values) and covariate is None else None
    if note := _no_spread(values, count, level):
        return RobustRate(untold(plain, count, note, level), None)
    columns = [np.ones_like(values)] + ([np.asarray(covariate, dtype=np.float64)] if covariate is not None else [])
    import statsmodels.api as api  # takes long to import

    model = api.GLM(values, np.column_stack(columns), family=api.families.Binomial())
    try:
        fitted = model.fit(cov_type="cluster", cov_kwds={"groups": groups})
    except (np.linalg.LinAlgError, ValueError):
        return RobustRate(untold(plain, count, "the model cannot be fitted", level), None)
    from scipy.stats import t as student

    error, logit = float(fitted.bse[0]), float(fitted.params[0])
    if not np.isfinite(error) or error < _NO_ERROR:
        return RobustRate(untold(plain, count, f"all {count} clusters are alike", level), None)
    spread = float(student.ppf((1 + level) / 2, count - 1)) * error
    rate, low, high = (float(1 / (1 + np.exp(-logits))) for logits in (logit, logit - spread, logit + spread))
    method = "binomial GLM, cluster-robust errors, t quantiles" + (
        ", length held equal" if covariate is not None else ""
    )
    statistic = logit / error
    p_value = float(2 * student.sf(abs(statistic), count - 1))
    return RobustRate(
        with_interval(rate, low, high, n=count, method=method, level=level),
        Test(statistic=statistic, p_value=p_value, n=count, method=method),
    )


def naive_test(outcomes: _Numbers) -> Test:
    """z-test against a win rate of one half that treats votes as independent; for comparison only."""
    values = np.asarray(outcomes, dtype=np.float64)
    from scipy.stats import norm

    method = "z-test, votes taken for independent"
    if len(values) < 2 or np.ptp(values) == 0:
        return Test(statistic=0.0, p_value=1.0, n=len(values), method=method)
    statistic = float((values.mean() - 0.5) / (values.std(ddof=1) / np.sqrt(len(values))))
    return Test(statistic=statistic, p_value=float(2 * norm.sf(abs(statistic))), n=len(values), method=method)


def equivalence(outcomes: _Numbers, clusters: _Labels, *, margin: float) -> Equivalence:
    """Two one-sided cluster-robust t-tests of 0.5 - margin < rate < 0.5 + margin.

    Returns:
        No p-value with fewer than `fewest_units` clusters, or where the outcomes or the clusters' shares are equal.

    Raises:
        ValueError: the margin is not in (0, 0.5).
    """
    if not 0 < margin < 0.5:
        raise ValueError(f"margin is {margin}, expected a number in (0, 0.5), e.g. 0.05.")
    values = np.asarray(outcomes, dtype=np.float64)
    groups, count = numbered(clusters)
    if note := _no_spread(values, count, 0.95):
        rate = untold(float(values.mean()) if len(values) else None, count, note, 0.9)
        return Equivalence(margin=margin, rate=rate, p_value=None, equivalent=None)
    mean = float(values.mean())
    from scipy.stats import t as student

    residuals = np.bincount(groups, weights=values - mean)
    error = float(np.sqrt(count / (count - 1) * (residuals**2).sum())) / len(values)
    if error < _NO_ERROR:
        alike = untold(mean, count, f"all {count} clusters are alike", 0.9)
        return Equivalence(margin=margin, rate=alike, p_value=None, equivalent=None)
    below = student.sf((mean - (0.5 - margin)) / error, count - 1)
    above = student.cdf((mean - (0.5 + margin)) / error, count - 1)
    spread = float(student.ppf(0.95, count - 1)) * error
    p_value = float(max(below, above))
    rate = with_interval(
        mean, mean - spread, mean + spread, n=count, method="cluster-robust errors, t quantiles", level=0.9
    )
    return Equivalence(margin=margin, rate=rate, p_value=p_value, equivalent=p_value < 0.05)


def intraclass_correlation(outcomes: _Numbers, clusters: _Labels, *, seed: int, resamples: int = 999) -> Estimate:
    """How alike the outcomes of a cluster are: 0 as if independent, 1 all equal; negative if they alternate.

    Returns:
        The analysis-of-variance estimate with a bootstrap interval over clusters; no value where no cluster has two
        outcomes, or nothing varies.
    """
    groups, _ = numbered(clusters)
    order = np.argsort(groups, kind="stable")
    values, groups = np.asarray(outcomes, dtype=np.float64)[order], groups[order]
    size_of = np.bincount(groups)

    def statistic(rows: npt.NDArray[np.intp]) -> float:
        # a resample holds clusters whole, one after another; one that was drawn twice counts as two
        sizes, at = [], 0
        while at < len(rows):
            sizes.append(int(size_of[groups[rows[at]]]))
            at += sizes[-1]
        return _anova_icc(values[rows], np.repeat(np.arange(len(sizes)), sizes))

    return bootstrap_statistic(statistic, groups, seed=seed, resamples=resamples, bounds=(-1.0, 1.0))


def _anova_icc(values: npt.NDArray[np.float64], groups: npt.NDArray[np.intp]) -> float:
    sizes = np.bincount(groups)
    n, k = len(values), len(sizes)
    if k < 2 or n <= k:
        return float("nan")
    means = np.bincount(groups, weights=values) / sizes
    between = float((sizes * (means - values.mean()) ** 2).sum()) / (k - 1)
    within = float(((values - means[groups]) ** 2).sum()) / (n - k)
    typical = (n - float((sizes**2).sum()) / n) / (k - 1)
    spread = between + (typical - 1) * within
    return (between - within) / spread if spread > 0 else float("nan")


def _no_spread(values: npt.NDArray[np.float64], clusters: int, level: float) -> str:
    """Why so many clusters of outcomes can carry no test, or an empty text."""
    if not len(values):
        return "there are no data"
    return few_units(clusters, "clusters", level) or ("all outcomes are equal" if np.ptp(values) == 0 else "")
