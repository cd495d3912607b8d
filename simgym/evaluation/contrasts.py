"""Two assistants beside each other: what a matrix says about the pairs that a question is about.

A contrast is a paired difference of rewards with one simulator, or a win rate: how often the one's conversation has the
higher reward than the other's on the same scenario and seed, a tie counting half (arXiv 2605.09808 reports win rates of
pairs of assistants). Several rows may be training seeds of one method; then seeds are resampled with the scenarios, see
`simgym.statistics.crossed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from simgym.errors import ConfigurationError
from simgym.evaluation.comparisons import rewards_of, scenario_ids
from simgym.evaluation.matrix import Matrix
from simgym.seeding import derive_seed
from simgym.statistics.crossed import Floats, compare_crossed, finite
from simgym.statistics.intervals import Estimate
from simgym.statistics.paired import adjust

Pair = tuple[str, str]
"""Two assistants (or methods); the first is what is asked about."""
_EVEN = "even"


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
    p_corrected: float | None
    """Two-sided p-value of no difference (a win rate of 50), Holm-corrected over the contrasts of one call."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Contrast:
        """Read what `dataclasses.asdict` gave; raises KeyError or TypeError if it is something else."""
        return cls(**{**value, "estimate": Estimate.from_json(value["estimate"])})


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
    found = [
        _contrast(pair, "difference", simulator, rewards, labels, matrix, pair[1], derive_seed(seed, "contrast"))
        for pair in pairs
    ]
    return _corrected(found)


def win_contrasts(
    matrix: Matrix, pairs: Sequence[Pair], simulator: str, *, seed: int, methods: Mapping[str, str] | None = None
) -> list[Contrast]:
    """Adjusted win rates x 100, (wins + ties / 2) / n, in one column; arguments and errors as `reward_contrasts`."""
    rows, labels = _labelled(matrix, simulator, pairs, methods)
    rewards = rewards_of(matrix, rows, [simulator])[:, 0]
    found = []
    for pair in pairs:
        own, others = (rewards[[label == name for label in labels]] for name in pair)
        beaten = np.stack([_outcomes(own, other) for other in others]).mean(0)
        even = np.full((1, beaten.shape[1]), 50.0)  # a win rate is how far one is from even
        against = np.concatenate([beaten, even])[:, None, :]
        names = [*[pair[0]] * len(own), _EVEN]
        one = _contrast(pair, "win_rate", simulator, against, names, matrix, _EVEN, derive_seed(seed, "contrast"))
        found.append(replace(one, estimate=_moved(one.estimate, 50.0)))
    return _corrected(found)


def _outcomes(own: Floats, other: Floats) -> Floats:
    """100 for each conversation with the higher reward, 50 for a tie; NaN where one of the two does not count."""
    wins = 100.0 * (own > other) + 50.0 * (own == other)
    return np.where(np.isfinite(own) & np.isfinite(other), wins, np.nan)


def _labelled(
    matrix: Matrix, simulator: str, pairs: Sequence[Pair], methods: Mapping[str, str] | None
) -> tuple[list[str], list[str]]:
    rows = list(dict.fromkeys(row for row, _ in matrix.transcripts))
    labels = [(methods or {}).get(row, row) for row in rows]
    columns = list(dict.fromkeys(column for _, column in matrix.transcripts))
    if simulator not in columns:
        raise ConfigurationError(f"The matrix has no environment {simulator!r}. It has: {', '.join(columns)}.")
    if unknown := [name for pair in pairs for name in pair if name not in labels]:
        raise ConfigurationError(
            f"There is no assistant {unknown[0]!r}. There are: {', '.join(dict.fromkeys(labels))}."
        )
    return rows, labels


def _contrast(
    pair: Pair,
    kind: Literal["difference", "win_rate"],
    simulator: str,
    values: Floats,
    labels: Sequence[str],
    matrix: Matrix,
    reference: str,
    seed: int,
) -> Contrast:
    kept = [at for at, label in enumerate(labels) if label in (pair[0], reference)]
    found = compare_crossed(
        values[kept], scenario_ids(matrix), seed=seed, rows=[labels[at] for at in kept], reference=reference
    )
    p = found.change.p[found.rows.index(pair[0]), 0]
    return Contrast(*pair, kind, simulator, found.changed(pair[0], 0), finite(p))


def _corrected(contrasts: Sequence[Contrast]) -> list[Contrast]:
    tested = [number for number, one in enumerate(contrasts) if one.p_corrected is not None]
    corrected = adjust([contrasts[number].p_corrected or 0.0 for number in tested])
    found = list(contrasts)
    for number, p in zip(tested, corrected, strict=True):
        found[number] = replace(found[number], p_corrected=p)
    return found


def _moved(estimate: Estimate, by: float) -> Estimate:
    ends = [None if one is None else one + by for one in (estimate.value, estimate.low, estimate.high)]
    return replace(estimate, value=ends[0], low=ends[1], high=ends[2])
