"""Numbers in the place of texts: what an action says in each of N conversations, and what is observed of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simgym.assistants.action_sets import ActionSet, Candidates
from simgym.assistants.base import AssistantTurn
from simgym.envs.features import ConversationFeatures
from simgym.simulation import Dialogue

Array = np.ndarray[Any, Any]
_NOTHING = AssistantTurn("-")
"""In a conversation that is over there is nobody to speak to."""


class NumberedReplies:
    """Keeps the candidate replies between an observation and the actions that choose among them."""

    def __init__(self, action_set: ActionSet, features: ConversationFeatures) -> None:
        self.action_set = action_set
        """What the actions mean."""
        self.features = features
        """What the observations are."""
        self._candidates_N: list[Candidates] = []

    def observe(self, dialogues: Sequence[Dialogue]) -> Array:
        """Vectors of N conversations, float32 (N, size of the space), with new candidates for those that go on."""
        running = [row for row, dialogue in enumerate(dialogues) if not dialogue.ended]
        proposed = self.action_set.propose(
            [dialogues[row].conversation for row in running], seeds=[dialogues[row].assistant_seed for row in running]
        )
        candidates = dict(zip(running, proposed, strict=True))
        nothing = (_NOTHING,) * self.action_set.num_candidates
        self._candidates_N = [candidates.get(row, nothing) for row in range(len(dialogues))]
        return self.features([dialogue.conversation for dialogue in dialogues], self._candidates_N)

    def turns(self, dialogues: Sequence[Dialogue], actions: Sequence[Any] | Array) -> list[AssistantTurn]:
        """What N actions say in the N conversations that were observed; in one that is over the action is ignored."""
        running = [row for row, dialogue in enumerate(dialogues) if not dialogue.ended]
        turns = self.action_set.apply(
            [dialogues[row].conversation for row in running],
            [self._candidates_N[row] for row in running],
            [int(actions[row]) for row in running],
            seeds=[dialogues[row].assistant_seed for row in running],
        )
        said = dict(zip(running, turns, strict=True))
        return [said.get(row, _NOTHING) for row in range(len(dialogues))]
