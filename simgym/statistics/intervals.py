"""Bootstrap intervals for means: a value never travels without its uncertainty.

Percentile bootstrap (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13) with scipy; clusters are
resampled whole. Every interval names its seed, so it can be computed again. Pure numbers.

A bootstrap sees only the values it was given, and an approximate error only their spread. Where there are fewer
independent units than `fewest_units`, or nothing differs between them, an interval would claim more than the data
support, so there is none, and `Estimate.note` says why: every approximate interval of simgym comes from
`with_interval`. Exact and shrunken ones (Wilson) need no such rule.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from simgym.typed_json import from_json

_Numbers = Sequence[float] | npt.NDArray[np.generic]
"""N numbers, as a list or an array."""
ROUNDING = 1e-12
"""Intervals shorter than this, relative to their ends, are none: their data are equal but for rounding."""
_BATCH = 1000
"""Resamples in memory at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value with its interval and where they come from."""

    value: float | None
    """Point estimate; None if there are no data."""
    low: float | None
    """Lower end of the interval; None if there is none (fewer than two values or clusters)."""
    high: float | None
    """Upper end of the interval; None if there is none."""
    n: int
    """Values (or clusters) that went in."""
    method: str
    """How the interval was made."""
    seed: int | None
    """Seed of the resampling; None if nothing was resampled."""
    level: float = 0.95
    """Nominal coverage of the interval, in (0, 1)."""
    note: str = ""
    """Why the interval cannot be told, half a sentence; empty if it can, and in files of older versions."""

    @property
    def doubt(self) -> str:
        """Why the interval cannot be told; empty if it can. Older files hold intervals from too little: refused too."""
        if self.note:
            return self.note
        if self.value is None:
            return "there are no data"
        if self.low is None or self.high is None:
            return self.method
        if self.low == self.high:
            return "all values are equal"
        approximate = any(word in self.method for word in ("bootstrap", "cluster-robust", "Welch"))
        return few_units(self.n, "units", self.level) if approximate else ""

    @property
    def reliable(self) -> bool:
        """Whether there is an interval that the data can carry."""
        return not self.doubt

    @property
    def half_width(self) -> float | None:
        """Half the length of the interval; None if there is none."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def to_json(self) -> dict[str, object]:
        """JSON values; what does not exist is None, never NaN."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Estimate:
        """Read what `to_json` gave.

        Raises:
            ConfigurationError: it is something else.
        """
        return from_json(cls, value, "estimate")


def fewest_units(level: float = 0.95) -> int:
    """Independent units that a bootstrap interval needs at least: 6 for a level of 0.95.

    A percentile interval lies within the range of the data, and the range of n values covers the middle of a symmetric
    distribution with probability 1 - 2^(1 - n), which for fewer stays below the level.
    """
    return math.ceil(1 - math.log2(1 - level))


def few_units(n: int, units: str, level: float = 0.95) -> str:
    """Why n units cannot tell an interval, or an empty text."""
    fewest = fewest_units(level)
    return f"{n} {units.removesuffix('s') if n == 1 else units}, fewer than {fewest}" if n < fewest else ""


def format_interval(estimate: Estimate, form: str = ".1f", *, scale: float = 1.0) -> str:
    """`[0.4, 5.9]`, or `[cannot be told: 3 values, fewer than 6]`.

    Args:
        estimate: Whose.
        form: Of both ends, as `format` takes it.
        scale: Both ends are multiplied by it.
    """
    if estimate.doubt or estimate.low is None or estimate.high is None:
        return f"[cannot be told: {estimate.doubt}]"
    return f"[{scale * estimate.low:{form}}, {scale * estimate.high:{form}}]"


def format_p(p: float | None) -> str:
    """A p-value in [0, 1] as tables show it: three decimals, below them `< 0.001`; a dash where there is none."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"


def format_p_equation(p: float | None) -> str:
    """The same in a sentence: `p = 0.012`, `p < 0.001` or `no p`."""
    words = format_p(p)
    return "no p" if p is None else f"p {words}" if words.startswith("<") else f"p = {words}"


def bootstrap_mean(values: _Numbers, *, seed: int, resamples: int = 9999, level: float = 0.95) -> Estimate:
    """Mean of independent values with a percentile-bootstrap interval.

    Args:
        values: N finite numbers. None gives no value; fewer than `fewest_units`, or N equal ones, a value without
            interval.
        seed: Of the resampling.
        resamples: How many bootstrap samples.
        level: Nominal coverage, in (0, 1).

    Raises:
        ValueError: a value is not finite, or the level is not in (0, 1).
    """
    data = _checked(values, level)
    method = f"percentile bootstrap of the mean, {resamples} resamples"
    if data.size == 0:
        return untold(None, 0, "there are no data", level)
    mean = float(data.mean())
    if note := few_units(data.size, "values", level):
        return untold(mean, data.size, note, level)
    if np.ptp(data) == 0:
        return untold(mean, data.size, f"all {data.size} values are equal", level)
    low, high = bootstrap_ends(data, "percentile", seed=seed, resamples=resamples, level=level)
    return with_interval(mean, low, high, n=data.size, units="values", method=method, seed=seed, level=level)


def bootstrap_ends(
    data: npt.NDArray[np.float64], method: str, *, seed: int, resamples: int, level: float
) -> tuple[float, float]:
    """Ends of scipy's bootstrap interval of the mean of N numbers; NaN where the method gives none."""
    from scipy.stats import bootstrap

    interval = bootstrap(
        (data,),
        np.mean,
        n_resamples=resamples,
        confidence_level=level,
        method=method,
        rng=np.random.default_rng(seed),
        batch=_BATCH,
    ).confidence_interval
    return float(interval.low), float(interval.high)


def clustered_bootstrap_mean(
    values: _Numbers,
    clusters: Sequence[Hashable] | npt.NDArray[np.generic],
    *,
    seed: int,
    resamples: int = 9999,
    level: float = 0.95,
) -> Estimate:
    """Mean over all values with an interval that resamples whole clusters (such as participants).

    Args:
        values: N finite numbers.
        clusters: N labels; values with the same label are dependent.
        seed: Of the resampling.
        resamples: How many bootstrap samples.
        level: Nominal coverage, in (0, 1).

    Returns:
        `n` is the number of clusters. No interval with fewer than `fewest_units` of them, or where nothing differs
        between resamples.

    Raises:
        ValueError: the sequences differ in length, a value is not finite, or the level is not in (0, 1).
    """
    if len(values) != len(clusters):
        raise ValueError(f"Got {len(values)} values and {len(clusters)} clusters, expected as many.")
    data = _checked(values, level)
    member, n = numbered(clusters)
    method = f"percentile bootstrap over clusters, {resamples} resamples"
    if not data.size:
        return untold(None, 0, "there are no data", level)
    if note := few_units(n, "clusters", level):
        return untold(float(data.mean()), n, note, level)
    sums = np.bincount(member, weights=data)
    sizes = np.bincount(member)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for first in range(0, resamples, _BATCH):
        batch = means[first : first + _BATCH]
        drawn = rng.integers(n, size=(len(batch), n))
        batch[:] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = map(float, np.quantile(means, [(1 - level) / 2, (1 + level) / 2]))
    return with_interval(float(data.mean()), low, high, n=n, method=method, seed=seed, level=level)


def with_interval(
    value: float,
    low: float,
    high: float,
    *,
    n: int,
    method: str,
    units: str = "clusters",
    seed: int | None = None,
    level: float = 0.95,
) -> Estimate:
    """A value with an approximate interval, or without one where the data cannot carry it.

    Args:
        value: Point estimate.
        low: Lower end; lowered to the value where rounding or few resamples have left that outside.
        high: Upper end; raised likewise.
        n: Independent units that the interval rests on.
        method: How it was made.
        units: What they are, in the plural.
        seed: Of the resampling.
        level: Nominal coverage, in (0, 1).

    Returns:
        No interval with fewer than `fewest_units`, where an end is not finite, or where it is no longer than rounding.
    """
    note = few_units(n, units, level)
    if not note and not math.isfinite(high - low):
        note = f"the {n} {units} leave it open"
    low, high = min(value, low), max(value, high)
    if not note and high - low <= ROUNDING * (1 + abs(high)):
        note = f"all {n} {units} are alike"
    if note:
        return untold(value, n, note, level)
    return Estimate(value=value, low=low, high=high, n=n, method=method, seed=seed, level=level)


def untold(value: float | None, n: int, note: str, level: float) -> Estimate:
    """A value whose interval cannot be told."""
    return Estimate(value=value, low=None, high=None, n=n, method="no interval", seed=None, level=level, note=note)


def numbered(labels: Sequence[Hashable] | npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.intp], int]:
    """N labels as numbers in the order of their first appearance, and how many different ones there are."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.intp), len(numbers)


def _checked(values: _Numbers, level: float) -> npt.NDArray[np.float64]:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a number in (0, 1), e.g. 0.95.")
    data = np.asarray(values, dtype=np.float64).reshape(-1)
    if not np.isfinite(data).all():
        raise ValueError("A value is not finite. Leave failed conversations out and count them instead.")
    return data
