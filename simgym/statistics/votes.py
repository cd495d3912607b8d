"""Votes with known truth, to test tests: what a study of people would give if this were so.

A vote is 1, 0.5 (a tie) or 0. With probability sqrt(rho) it is the participant's own fixed vote, else a new draw from
the same distribution: two votes of a person are then the same draw with probability rho, so their correlation is rho
exactly, whatever the rate of ties (the mixture behind Lunn & Davies 1998, "A note on generating correlated binary
variables").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simgym.statistics.clustered import naive_test, robust_win_rate
from simgym.statistics.intervals import Estimate
from simgym.statistics.paired import wilson_interval


@dataclass(frozen=True, slots=True)
class Rejections:
    """How often tests reject a win rate of one half; where that is the truth, their type-I error."""

    robust: Estimate
    """The cluster-robust test of the analysis; Wilson's interval over studies."""
    naive: Estimate
    """The test that takes votes for independent."""


def draw_votes(
    participants: int, turns: int, *, win_rate: float, tie_rate: float, icc: float, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Votes of shape (participants, turns) with mean `win_rate`, in {0, 0.5, 1}.

    Raises:
        ValueError: a rate is not in [0, 1], or so many ties cannot leave that win rate.
    """
    wins = win_rate - tie_rate / 2
    if not 0 <= tie_rate <= 1 or not 0 <= icc <= 1 or wins < 0 or wins + tie_rate > 1:
        raise ValueError(
            f"win_rate is {win_rate}, tie_rate {tie_rate} and icc {icc}. Expected shares in [0, 1] with ties no more "
            "than twice the rarer side."
        )
    shape = (participants, turns)

    def votes(uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.where(uniform < wins, 1.0, np.where(uniform < wins + tie_rate, 0.5, 0.0))

    own = votes(np.broadcast_to(rng.random((participants, 1)), shape))
    return np.where(rng.random(shape) < np.sqrt(icc), own, votes(rng.random(shape)))


def rejection_rate(
    participants: int,
    turns: int,
    *,
    win_rate: float,
    tie_rate: float,
    icc: float,
    alpha: float = 0.05,
    studies: int = 2000,
    seed: int = 0,
) -> Rejections:
    """Simulate studies and test each.

    Args:
        participants: Of a study.
        turns: Votes of a participant.
        win_rate: True win rate, ties as half.
        tie_rate: Share of ties.
        icc: Intraclass correlation of a participant's votes.
        alpha: Level of the tests.
        studies: How many are simulated.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(participants), turns)
    robust = naive = 0
    for _ in range(studies):
        votes = draw_votes(participants, turns, win_rate=win_rate, tie_rate=tie_rate, icc=icc, rng=rng).reshape(-1)
        found = robust_win_rate(votes, people)
        robust += found is not None and found.test.p_value < alpha
        naive += naive_test(votes).p_value < alpha
    return Rejections(wilson_interval(robust, studies), wilson_interval(naive, studies))
