"""How sure is a judge, and how sure may it be?

Two scores imply how likely people are to prefer the first answer: by the Bradley-Terry model, the logistic function of
the difference of their logits. Whether that is so is seen in the reliability curve: of the pairs that a judge is 70 %
sure of, it should decide 70 % as people did. The expected calibration error (Naeini, Cooper & Hauskrecht 2015) is the
mean distance of the two, weighted by pairs. Platt's map (1999), here with a slope alone, because the order of the two
answers means nothing, makes a judge as sure as it may be; its error is given on prompts on which it was not fitted.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from simgym.statistics import Estimate, bootstrap_statistic
from simgym.statistics.intervals import few_units, numbered, untold

BINS = 5
"""Bins of equal width, of confidence between 0.5 and 1."""
_LARGEST_SLOPE = 20.0
"""A judge that is always right would have an infinite one."""
_FOLDS = 5
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bin:
    """Decisions about as sure as each other."""

    confidence: float
    """Mean probability of the answer that the judge prefers, in [0.5, 1]."""
    accuracy: float
    """How often people preferred it, in [0, 1]."""
    pairs: int
    """Decisions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How sure a judge is of its decisions, and how sure it may be."""

    curve: tuple[Bin, ...]
    """Of the judge as it is, from unsure to sure; bins without decisions are left out."""
    error: Estimate
    """Expected calibration error of the judge as it is, in [0, 0.5]; interval over prompts."""
    slope: float | None
    """Platt's map: the difference of logits is multiplied by it; None: too few prompts to fit one. 0: the judge's
    preference says nothing about people's."""
    curve_mapped: tuple[Bin, ...]
    """The curve behind the map, on prompts it was not fitted on."""
    error_mapped: Estimate
    """The error behind it, likewise."""

    def to_json(self) -> dict[str, object]:
        """JSON values."""
        return asdict(self)


def calibrate(
    margins: Sequence[float] | _Floats, prompts: Sequence[Hashable], *, seed: int = 0, resamples: int = 999
) -> Calibration:
    """Calibration from decisions on N pairs.

    Args:
        margins: `logit_margin` of each pair: of the answer that people preferred to the other.
        prompts: N labels; pairs of a prompt are dependent.
        seed: Of the resampling.
        resamples: Bootstrap samples of the errors' intervals.
    """
    values = np.asarray(margins, dtype=np.float64)
    groups, count = numbered(prompts)
    slope, mapped = None, None
    note = few_units(count, "prompts")
    if not note:
        slope, mapped = platt_slope(values), np.zeros(len(values))
        for fold in range(_FOLDS):
            inside = groups % _FOLDS == fold
            mapped[inside] = values[inside] * platt_slope(values[~inside])

    def error(of: _Floats) -> Estimate:
        return bootstrap_statistic(
            lambda rows: _error(of[rows]), groups, seed=seed, resamples=resamples, bounds=(0.0, 1.0)
        )

    return Calibration(
        curve=reliability_curve(values),
        error=error(values),
        slope=slope,
        curve_mapped=reliability_curve(mapped) if mapped is not None else (),
        error_mapped=error(mapped) if mapped is not None else untold(None, count, note, 0.95),
    )


def platt_slope(margins: _Floats) -> float:
    """The slope in [0, 20] under which people's preferences are most likely; 0 without margins."""
    if not np.any(margins):
        return 0.0
    from scipy.optimize import minimize_scalar

    minimum = minimize_scalar(
        lambda slope: float(np.logaddexp(0, -slope * margins).mean()), bounds=(0.0, _LARGEST_SLOPE), method="bounded"
    )
    return float(minimum.x)


def reliability_curve(margins: _Floats) -> tuple[Bin, ...]:
    """Confidence and accuracy of N decisions in `BINS` bins; an undecided pair is right by half."""
    confidence = 1 / (1 + np.exp(-np.minimum(np.abs(margins), 700)))
    right = (1 + np.sign(margins)) / 2
    bins = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    return tuple(
        Bin(float(confidence[bins == number].mean()), float(right[bins == number].mean()), int((bins == number).sum()))
        for number in range(BINS)
        if (bins == number).any()
    )


def _error(margins: _Floats) -> float:
    curve = reliability_curve(margins)
    return sum(entry.pairs * abs(entry.confidence - entry.accuracy) for entry in curve) / len(margins)
