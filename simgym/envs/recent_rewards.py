"""A reward for every conversation, for trainers that know no missing one and cannot leave a step out.

A conversation that was not judged gets the mean of recent rewards, which pulls a policy in no direction.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from simgym.dialogue import Dialogue


class RecentRewards:
    """The rewards of the latest conversations; may be used from several threads."""

    def __init__(self, rewards: Iterable[float] = (), *, number: int = 256, unknown: float = 0.5) -> None:
        """Choose what is remembered.

        Args:
            rewards: Those so far, in [0, 1], oldest first.
            number: How many rewards are averaged.
            unknown: What is given before there is any, in [0, 1].
        """
        self._rewards: deque[float] = deque(rewards, maxlen=number)
        self._unknown = unknown
        self._guard = threading.Lock()

    @property
    def rewards(self) -> list[float]:
        """What is remembered, oldest first."""
        return list(self._rewards)

    def reward_of(self, dialogue: Dialogue) -> tuple[float, bool]:
        """0 while it runs, then its reward; and whether that was made up because the conversation was not judged."""
        if not dialogue.ended:
            return 0.0, False
        with self._guard:
            if dialogue.reward is not None:
                self._rewards.append(dialogue.reward)
                return dialogue.reward, False
            return (sum(self._rewards) / len(self._rewards) if self._rewards else self._unknown), True
