"""Do two judges agree? Raw agreement, kappa, alpha and correlations of paired ratings, each with an interval.

Kappa is scikit-learn's (Cohen 1960), with quadratic weights (Cohen 1968) its closed form for any numbers; alpha is the
package `krippendorff`'s (Krippendorff 2004; the extra `stats`). Intervals are percentile bootstraps over items or
clusters of items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from simgym.statistics.intervals import Estimate
from simgym.statistics.resampling import bootstrap_statistic

_Floats = npt.NDArray[np.float64]

Level = Literal["nominal", "ordinal", "interval", "ratio"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Two judges on the same items."""

    raw: Estimate
    """Share of items with equal ratings, in [0, 1]."""
    kappa: Estimate
    """Cohen's kappa, unweighted: agreement beyond chance, <= 1."""
    kappa_quadratic: Estimate
    """Cohen's kappa with quadratic weights: near misses count less; for ratings on a numeric scale."""
    alpha: Estimate
    """Krippendorff's alpha at the level of measurement asked for, <= 1."""
    spearman: Estimate
    """Rank correlation, in [-1, 1]."""
    pearson: Estimate
    """Linear correlation, in [-1, 1]."""
    mean_difference: Estimate
    """First minus second judge, in units of the scale."""

    def to_json(self) -> dict[str, object]:
        """JSON values; what does not exist is None, never NaN."""
        return asdict(self)


def agreement(
    first: Sequence[float] | npt.NDArray[np.generic],
    second: Sequence[float] | npt.NDArray[np.generic],
    clusters: Sequence[Hashable] | None = None,
    *,
    level_of_measurement: Level = "interval",
    seed: int = 0,
    resamples: int = 999,
) -> Agreement:
    """How far two judges agree.

    Args:
        first: N ratings of one judge; NaN where it gave none.
        second: N ratings of the other, of the same items. Items that one of them did not rate are left out.
        clusters: N labels of dependent items; None: independent.
        level_of_measurement: Of the ratings, for alpha.
        seed: Of the resampling.
        resamples: Bootstrap samples per figure.

    Raises:
        ValueError: the sequences differ in length.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"Got {a.size} and {b.size} ratings, expected as many.")
    rated = np.isfinite(a) & np.isfinite(b)
    labels = [
        label for label, kept in zip(clusters if clusters is not None else range(a.size), rated, strict=True) if kept
    ]
    a, b = a[rated], b[rated]

    def over_items(statistic: Callable[[_Floats, _Floats], float]) -> Estimate:
        return bootstrap_statistic(lambda rows: statistic(a[rows], b[rows]), labels, seed=seed, resamples=resamples)

    return Agreement(
        raw=over_items(lambda x, y: float((x == y).mean())),
        kappa=over_items(lambda x, y: cohen_kappa(x, y)),
        kappa_quadratic=over_items(lambda x, y: cohen_kappa(x, y, weights="quadratic")),
        alpha=over_items(lambda x, y: krippendorff_alpha(np.vstack([x, y]), level_of_measurement)),
        spearman=over_items(_spearman),
        pearson=over_items(_pearson),
        mean_difference=over_items(lambda x, y: float((x - y).mean())),
    )


def cohen_kappa(first: npt.ArrayLike, second: npt.ArrayLike, *, weights: Literal["quadratic"] | None = None) -> float:
    """Cohen's kappa; NaN if both judges gave one rating only.

    With quadratic weights a disagreement counts as the squared distance of the ratings themselves, so no list of
    possible ratings is needed: 1 - mean (x_i - y_i)^2 / mean over all i and j of (x_i - y_j)^2.
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    values = np.unique(np.concatenate([x, y]))
    if len(values) < 2:
        return math.nan
    if weights is None:
        from sklearn.metrics import cohen_kappa_score

        return float(cohen_kappa_score(np.searchsorted(values, x), np.searchsorted(values, y)))
    by_chance = x.var() + y.var() + (x.mean() - y.mean()) ** 2
    return float(1 - ((x - y) ** 2).mean() / by_chance)


def krippendorff_alpha(ratings: _Floats, level_of_measurement: Level = "interval") -> float:
    """Krippendorff's alpha of (judges, items) ratings, NaN where there is none; NaN if all ratings are equal.

    Raises:
        ImportError: the package `krippendorff` is not installed.
    """
    if len(np.unique(ratings[np.isfinite(ratings)])) < 2:
        return math.nan
    try:
        import krippendorff
    except ModuleNotFoundError as error:
        raise ImportError("krippendorff is not installed. Run: pip install 'simgym[stats]'") from error
    return float(krippendorff.alpha(reliability_data=ratings, level_of_measurement=level_of_measurement))


def spearman(first: npt.ArrayLike, second: npt.ArrayLike, *, seed: int = 0, resamples: int = 999) -> Estimate:
    """Rank correlation of N pairs, e.g. of two rankings of the same systems."""
    return _of_pairs(_spearman, first, second, seed, resamples)


def kendall(first: npt.ArrayLike, second: npt.ArrayLike, *, seed: int = 0, resamples: int = 999) -> Estimate:
    """Kendall's tau-b of N pairs: concordant less discordant pairs of items, ties taken off (Kendall 1945)."""
    from scipy.stats import kendalltau

    return _of_pairs(lambda a, b: float(kendalltau(a, b).statistic), first, second, seed, resamples)


def _of_pairs(
    statistic: Callable[[_Floats, _Floats], float],
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    seed: int,
    resamples: int,
) -> Estimate:
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return bootstrap_statistic(
        lambda rows: statistic(a[rows], b[rows]), range(a.size), seed=seed, resamples=resamples, bounds=(-1.0, 1.0)
    )


def _spearman(first: _Floats, second: _Floats) -> float:
    from scipy.stats import rankdata

    return _pearson(rankdata(first), rankdata(second))


def _pearson(first: _Floats, second: _Floats) -> float:
    if len(first) < 2 or not np.ptp(first) or not np.ptp(second):
        return math.nan
    return float(np.corrcoef(first, second)[1, 0])  # the entry that scipy reads: the two can differ in the last digit
