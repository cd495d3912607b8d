"""Intervals for any statistic of clustered rows, by bootstrap over whole clusters.

`intervals` covers means; this is for everything else: ratios, F1, areas under curves, divergences. The statistic is
given the row numbers of a resample. Percentile interval (Efron & Tibshirani 1993, chapter 13) by
default; for statistics that are biased upwards by small samples, such as plug-in divergences, the basic interval
(Davison & Hinkley 1997, section 5.2.1), which turns the bootstrap distribution round the estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from simgym.statistics.intervals import Estimate, few_units, numbered, untold, with_interval

Rows = npt.NDArray[np.intp]
"""Row numbers, some several times."""


def bootstrap_statistic(
    statistic: Callable[[Rows], float],
    clusters: Sequence[Hashable] | npt.NDArray[np.generic],
    *,
    seed: int,
    resamples: int = 999,
    level: float = 0.95,
    kind: Literal["percentile", "basic"] = "percentile",
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    """A statistic of N rows with an interval that resamples clusters.

    Args:
        statistic: Takes row numbers, gives a number; NaN where it is not defined (such resamples are left out).
        clusters: N labels; rows with the same label are dependent.
        seed: Of the resampling.
        resamples: How many bootstrap samples.
        level: Nominal coverage, in (0, 1).
        kind: How the interval is read off the resamples.
        bounds: Smallest and largest possible value; the interval is clipped to it.

    Returns:
        `n` is the number of clusters. No value if the statistic is not defined on the rows; no interval with fewer than
        `fewest_units` clusters, if fewer than half of the resamples define it, or if all of them give the same value.
        The interval is widened to hold the value.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a number in (0, 1), e.g. 0.95.")
    member, n = numbered(clusters)
    value = float(statistic(np.arange(len(member)))) if len(member) else math.nan
    if math.isnan(value):
        return untold(None, n, "not defined on these data", level)
    if note := few_units(n, "clusters", level):
        return untold(value, n, note, level)
    rows_of = [np.flatnonzero(member == number) for number in range(n)]
    rng = np.random.default_rng(seed)
    drawn = np.array(
        [statistic(np.concatenate([rows_of[i] for i in rng.integers(n, size=n)])) for _ in range(resamples)]
    )
    drawn = drawn[~np.isnan(drawn)]
    if 2 * len(drawn) < resamples:
        return untold(value, n, "rarely defined on resamples", level)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    if kind == "basic":
        low, high = 2 * value - high, 2 * value - low
    low, high = (float(np.clip(end, *bounds)) for end in (low, high))
    method = f"{kind} bootstrap over clusters, {resamples} resamples"
    return with_interval(value, low, high, n=n, method=method, seed=seed, level=level)
