"""Two assistants beside each other: what a matrix says about the pairs that a question is about.

A contrast is a paired difference of rewards with one simulator, or a win rate: how often the one's conversation has the
higher reward than the other's on the same scenario and seed, a tie counting half (arXiv 2605.09808 reports win rates of
pairs of assistants). A difference has the interval that `comparisons` gives it: scenarios are drawn from the same seed.
Only its corrected p-value differs, because it is corrected over other pairs. A win rate's interval is Wilson's and its
test the sign test. Several rows may be training seeds of one method; then seeds of both are resampled with the
scenarios, see `simgym.statistics.paired_matrix`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from simgym.errors import ConfigurationError
from simgym.evaluation.comparisons import PAIRED, axes_of, rewards_of, scenario_ids
from simgym.evaluation.matrix import Matrix
from simgym.seeding import derive_seed
from simgym.statistics.intervals import Estimate
from simgym.statistics.paired import correct_p_values, win_rate
from simgym.statistics.paired_matrix import (
    Floats,
    MatrixLayout,
    compare_matrix,
    finite,
    mean_over_pairs,
    two_sided_p_value,
)
from simgym.typed_json import FORMERLY

Pair = tuple[str, str]
"""Two assistants (or methods); the first is what is asked about."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """One assistant beside another."""

    first: str
    """Whom it is about: an assistant, or a method with several training seeds."""
    second: str
    """Whom it is compared with."""
    kind: Literal["difference", "win_rate"]
    """Mean paired difference of reward x 100, or adjusted win rate x 100."""
    simulator: str
    """Column, an environment id."""
    estimate: Estimate
    """Of the difference, or of the win rate."""
    p_value: float | None = field(metadata={FORMERLY: "p"})
    """Two-sided p-value of no difference (a win rate of 50), uncorrected; None if it cannot be tested."""
    p_adjusted: float | None = field(metadata={FORMERLY: "p_corrected"})
    """The same, Holm-corrected over all contrasts that belong together."""


def reward_contrasts(
    matrix: Matrix, pairs: Sequence[Pair], simulator: str, *, seed: int, methods: Mapping[str, str] | None = None
) -> list[Contrast]:
    """Mean paired differences of reward x 100 in one column.

    Args:
        matrix: Filled.
        pairs: Who is compared with whom.
        simulator: The column.
        seed: Of the run; decides the resampling.
        methods: Method of an assistant, for those that are one of several training seeds; others are their own.

    Raises:
        ConfigurationError: there is no such column, assistant or method.
    """
    rows, labels = _labelled(matrix, simulator, pairs, methods)
    rewards = rewards_of(matrix, rows, [simulator])
    ids = scenario_ids(matrix)
    contrasts = []
    for pair in pairs:
        kept = [at for at, label in enumerate(labels) if label in pair]
        crossed = compare_matrix(
            rewards[kept],
            ids,
            seed=derive_seed(seed, PAIRED),
            layout=MatrixLayout(rows=[labels[at] for at in kept], reference=pair[1]),
        )
        p = finite(crossed.differences.p_value[crossed.rows.index(pair[0]), 0])
        contrasts.append(Contrast(*pair, "difference", simulator, crossed.difference(pair[0], 0), p, None))
    return corrected(contrasts)


def win_contrasts(
    matrix: Matrix, pairs: Sequence[Pair], simulator: str, *, seed: int, methods: Mapping[str, str] | None = None
) -> list[Contrast]:
    """Adjusted win rates x 100, (wins + ties / 2) / n, in one column; arguments and errors as `reward_contrasts`."""
    rows, labels = _labelled(matrix, simulator, pairs, methods)
    rewards = rewards_of(matrix, rows, [simulator])[:, 0]
    ids = scenario_ids(matrix)
    contrasts = []
    for pair in pairs:
        own, others = (rewards[[label == name for label in labels]] for name in pair)
        outcomes = _outcomes(own[:, None], others[None])
        if outcomes.shape[:2] == (1, 1) and len(set(ids)) == len(ids):
            counted = outcomes[np.isfinite(outcomes)]
            estimate, p = _percent(win_rate(counted)), _sign_test(counted)
        else:
            estimate, error = mean_over_pairs(100 * outcomes, ids, seed=derive_seed(seed, PAIRED), level=0.95)
            fewest = min([estimate.n, *(count for count in outcomes.shape[:2] if count > 1)])
            above = np.array([np.nan if estimate.value is None else estimate.value - 50])
            p = finite(two_sided_p_value(above, np.array([error]), fewest - 1)[0]) if estimate.reliable else None
        contrasts.append(Contrast(*pair, "win_rate", simulator, estimate, p, None))
    return corrected(contrasts)


def corrected(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The contrasts with p-values corrected for being so many (Holm)."""
    adjusted = iter(correct_p_values([contrast.p_value for contrast in contrasts if contrast.p_value is not None]))
    return [
        replace(contrast, p_adjusted=None if contrast.p_value is None else next(adjusted)) for contrast in contrasts
    ]


def _outcomes(own: Floats, other: Floats) -> Floats:
    """1 for each conversation with the higher reward, 0.5 for a tie; NaN where one of the two does not count."""
    wins = 1.0 * (own > other) + 0.5 * (own == other)
    return np.where(np.isfinite(own) & np.isfinite(other), wins, np.nan)


def _percent(estimate: Estimate) -> Estimate:
    ends = [None if value is None else 100 * value for value in (estimate.value, estimate.low, estimate.high)]
    return replace(estimate, value=ends[0], low=ends[1], high=ends[2])


def _sign_test(outcomes: Floats) -> float | None:
    """Exact, over the conversations that one of the two has won."""
    from scipy.stats import binomtest

    wins, decided = int((outcomes == 1).sum()), int((outcomes != 0.5).sum())
    return float(binomtest(wins, decided).pvalue) if decided else 1.0 if len(outcomes) else None


def _labelled(
    matrix: Matrix, simulator: str, pairs: Sequence[Pair], methods: Mapping[str, str] | None
) -> tuple[list[str], list[str]]:
    rows, labels, columns = axes_of(matrix, methods)
    if simulator not in columns:
        raise ConfigurationError(f"The matrix has no environment {simulator!r}. It has: {', '.join(columns)}.")
    if unknown := [name for pair in pairs for name in pair if name not in labels]:
        raise ConfigurationError(
            f"There is no assistant {unknown[0]!r}. There are: {', '.join(dict.fromkeys(labels))}."
        )
    return rows, labels
