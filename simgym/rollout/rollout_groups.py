"""Rollouts of one scenario that meet the same user, each at its own pace, and what can be learned from them.

When the last of a group has ended, those that were judged get their advantages, as TRL computes them for GRPO; one
without a judgement is nothing to learn from and enters no baseline.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from simgym.conversation import Scenario
from simgym.rollout.token_rollouts import TokenRollout
from simgym.simulation import Dialogue


@dataclass(frozen=True, slots=True)
class EndedRollout:
    """A conversation that is over."""

    rollout: TokenRollout | None
    """As tokens; None: it became too old and was given up."""
    version: int
    """The policy's version before its first word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRollout:
    """A conversation to learn from."""

    rollout: TokenRollout
    """As tokens."""
    version: int
    """The policy's version before its first word."""
    reward: float
    """The judge's, in [0, 1]."""
    advantage: float
    """The reward less the group's mean, in its standard deviations."""
    deviation: float
    """Standard deviation of the group's rewards, >= 0."""


class RolloutGroup:
    """The rollouts of a group as they end, in whichever thread."""

    def __init__(self, number: int, scenario: Scenario, seed: int, *, size: int) -> None:
        self.number, self.scenario, self.seed, self.size = number, scenario, seed, size
        self.opening: Future[Dialogue] = Future()
        """The user's first turn, the same for all."""
        self._ended: list[EndedRollout] = []
        self._guard = threading.Lock()

    def add(self, ended: EndedRollout) -> bool:
        """Keep it; whether it is the last of the group."""
        with self._guard:
            self._ended.append(ended)
            return len(self._ended) == self.size

    def scored(self) -> list[ScoredRollout]:
        """What of a complete group can be learned from."""
        judged = [
            (ended.rollout, ended.version)
            for ended in self._ended
            if ended.rollout is not None and ended.rollout.dialogue.reward is not None and any(ended.rollout.env_mask)
        ]
        rewards = np.array([rollout.dialogue.reward for rollout, _ in judged], dtype=float)
        mean, deviation = (float(rewards.mean()), float(rewards.std())) if judged else (0.0, 0.0)
        return [
            ScoredRollout(
                rollout=rollout,
                version=version,
                reward=reward,
                advantage=(reward - mean) / (deviation + 1e-8),
                deviation=deviation,
            )
            for (rollout, version), reward in zip(judged, rewards.tolist(), strict=True)
        ]
