"""Simulated votes of known distribution, to check the tests of a study before it has people.

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
class VoteDistribution:
    """What participants prefer."""

    win_rate: float = 0.58
    """Of the first assistant, in [0, 1], ties counted as half."""
    tie_rate: float = 0.15
    """Share of ties, in [0, 1]."""
    icc: float = 0.2
    """Intraclass correlation of a participant's votes, in [0, 1]."""

    def __post_init__(self) -> None:
        wins = self.win_rate - self.tie_rate / 2
        if not 0 <= self.tie_rate <= 1 or not 0 <= self.icc <= 1 or wins < 0 or wins + self.tie_rate > 1:
            raise ValueError(
                f"win_rate is {self.win_rate}, tie_rate {self.tie_rate} and icc {self.icc}. Expected shares in [0, 1] "
                "with ties no more than twice the rarer side."
            )


@dataclass(frozen=True, slots=True)
class Rejections:
    """How often tests reject a win rate of one half; where that is the truth, their type-I error."""

    robust: Estimate
    """The cluster-robust test of the analysis; Wilson's interval over studies."""
    naive: Estimate
    """The test that treats votes as independent."""


def draw_votes(
    participants: int, turns: int, truth: VoteDistribution, *, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Votes of shape (participants, turns) with mean `truth.win_rate`, in {0, 0.5, 1}."""
    wins, tie_rate, icc = truth.win_rate - truth.tie_rate / 2, truth.tie_rate, truth.icc
    shape = (participants, turns)

    def votes(uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.where(uniform < wins, 1.0, np.where(uniform < wins + tie_rate, 0.5, 0.0))

    own = votes(np.broadcast_to(rng.random((participants, 1)), shape))
    return np.where(rng.random(shape) < np.sqrt(icc), own, votes(rng.random(shape)))


def rejection_rate(
    participants: int,
    turns: int,
    truth: VoteDistribution,
    *,
    alpha: float = 0.05,
    studies: int = 2000,
    seed: int = 0,
) -> Rejections:
    """Simulate studies and test each.

    Args:
        participants: Of a study.
        turns: Votes of a participant.
        truth: What participants prefer.
        alpha: Level of the tests, in (0, 1).
        studies: How many are simulated.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(participants), turns)
    robust = naive = 0
    for _ in range(studies):
        votes = draw_votes(participants, turns, truth, rng=rng).reshape(-1)
        estimate = robust_win_rate(votes, people)
        robust += estimate.test is not None and estimate.test.p_value < alpha
        naive += naive_test(votes).p_value < alpha
    return Rejections(wilson_interval(robust, studies), wilson_interval(naive, studies))
