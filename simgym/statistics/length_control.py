"""A win rate at equal length: what would it be if both systems wrote answers of the same length?

Judges like long answers. A logistic regression of the outcome on the standardised, squashed difference of lengths gives
the win rate at difference 0, as in length-controlled AlpacaEval (Dubois et al. 2024, arXiv 2404.04475), without their
terms for single instructions, which need many systems. Fitted by statsmodels, with robust errors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np

from simgym.statistics.intervals import Estimate, untold, with_interval

_CERTAIN = 1e-3
"""Fitted probabilities this near to 0 or 1 mean that nothing but length is at work."""


def length_controlled_win_rate(
    outcomes: Sequence[float], lengths: Sequence[float], other_lengths: Sequence[float], *, level: float = 0.95
) -> Estimate:
    """Win rate of the first system at equal lengths.

    Args:
        outcomes: N numbers in [0, 1]: 1 a win of the first, 0.5 a tie.
        lengths: N lengths of the first's answers, in any unit.
        other_lengths: N lengths of the second's answers.
        level: Nominal coverage of the interval (delta method on the logit, HC1 errors).

    Returns:
        No value with fewer than ten outcomes, if all are the same, or if length all but decides them.

    Raises:
        ValueError: the sequences differ in length.
    """
    if len({len(outcomes), len(lengths), len(other_lengths)}) > 1:
        raise ValueError(
            f"Got {len(outcomes)} outcomes, {len(lengths)} and {len(other_lengths)} lengths, expected as many."
        )
    wins = np.asarray(outcomes, dtype=np.float64)
    gap = np.asarray(lengths, dtype=np.float64) - np.asarray(other_lengths, dtype=np.float64)
    if wins.size < 10 or np.ptp(wins) == 0:
        return untold(None, wins.size, "too few different outcomes", level)
    spread = gap.std()
    squashed = np.tanh(gap / spread) if spread > 0 else np.zeros_like(gap)
    design = np.column_stack([np.ones_like(gap), squashed]) if np.ptp(squashed) else np.ones((wins.size, 1))
    import statsmodels.api as api  # takes long to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # separation is looked for below
        fitted = api.GLM(wins, design, family=api.families.Binomial()).fit(cov_type="HC1")
    low, high = fitted.conf_int(alpha=1 - level)[0]
    certain = (fitted.fittedvalues < _CERTAIN) | (fitted.fittedvalues > 1 - _CERTAIN)
    if not np.isfinite([low, high]).all() or certain.mean() > 0.5:
        return untold(None, wins.size, "length decides the outcome, so the rest is not known", level)
    value, low, high = (1 / (1 + math.exp(-float(logit))) for logit in (fitted.params[0], low, high))
    method = "logistic regression on tanh of the standardised length difference, HC1 errors"
    return with_interval(value, low, high, n=wins.size, units="outcomes", method=method, level=level)
