"""N conversations that go on for ever: where one ends, the row's next one begins.

For trainers of which a row is a stream of steps. Row r's cth conversation has the same scenario and seed whatever the
policy does and whoever simulates the user. A conversation that ends without a reward because of a fault gets the mean
of recent rewards and is counted; an opening that fails is counted and followed by another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simgym.assistants.base import AssistantTurn
from simgym.envs.outages import check_servers
from simgym.envs.recent_rewards import RecentRewards
from simgym.errors import ConfigurationError
from simgym.faults import fault_label
from simgym.seeding import derive_seed
from simgym.simulation import Dialogue, Simulation
from simgym.typed_json import from_json

_MAX_FAILED_OPENINGS = 20
"""Openings that may fail in a row before the simulator counts as broken."""


@dataclass(frozen=True, slots=True)
class RowStep:
    """What the assistant's turn has brought."""

    dialogue: Dialogue
    """After the turn; where it has ended, the row goes on with another one."""
    reward: float
    """In [0, 1]; 0 while the conversation runs, and imputed where a fault left none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _RowsState:
    """What `ConversationRows.state` says, as a checkpoint holds it."""

    rows: tuple[Mapping[str, object], ...]
    """A dialogue's JSON values a row."""
    episodes_begun: tuple[int, ...]
    """Conversations that each row has begun."""
    faults: Mapping[str, int]
    """Conversations without a reward, by kind of fault."""
    latest_rewards: tuple[float, ...]
    """In [0, 1], oldest first."""


class ConversationRows:
    """The rows of a trainer's vector of environments."""

    def __init__(self, simulation: Simulation, num_rows: int, seed: int) -> None:
        """Nothing is begun yet; `seed` decides the scenario and the users of every conversation."""
        self.seed = seed
        self.dialogues: list[Dialogue] = []
        """The running conversation of each row."""
        self.begun = [0] * num_rows
        """Conversations that each row has begun."""
        self.faults: Counter[str] = Counter()
        """Conversations without a reward, by kind of fault."""
        self._simulation = simulation
        self._recent_rewards = RecentRewards()
        self._restored = False

    def open(self, seed: int | None = None) -> None:
        """Begin a conversation in every row (the first ones of `seed`, if given), or continue those of `restore`."""
        if not self._restored:
            if seed is not None:
                self.seed, self.begun = seed, [0] * len(self.begun)
            self.dialogues = self._begin(range(len(self.begun)))
        self._restored = False

    def step(self, turns: Sequence[AssistantTurn]) -> list[RowStep]:
        """The assistant's turns in all rows; `dialogues` has a new conversation where one has ended.

        Raises:
            ServerUnavailable: all conversations failed because a model's server does not answer.
            ConfigurationError: no conversation can be opened.
        """
        stepped = self._simulation.step(self.dialogues, turns)
        check_servers(stepped)
        steps = [RowStep(dialogue, self._reward(dialogue)) for dialogue in stepped]
        ended = [row for row, dialogue in enumerate(stepped) if dialogue.ended]
        self.dialogues = list(stepped)
        for row, dialogue in zip(ended, self._begin(ended), strict=True):
            self.dialogues[row] = dialogue
        return steps

    def state(self) -> dict[str, object]:
        """The running conversations as JSON values, for a checkpoint; keys as in earlier versions."""
        return {
            "rows": [dialogue.to_json() for dialogue in self.dialogues],
            "episodes_begun": list(self.begun),
            "faults": dict(self.faults),
            "latest_rewards": self._recent_rewards.rewards,
        }

    def begin_again(self) -> None:
        """The next `open` gives every row's first conversation."""
        self.begun = [0] * len(self.begun)
        self.faults.clear()
        self._recent_rewards = RecentRewards()
        self._restored = False

    def restore(self, state: Mapping[str, object]) -> None:
        """Continue from a `state`: the next `open` gives its conversations instead of new ones.

        Raises:
            ConfigurationError: it is not such a state, or has another number of conversations.
        """
        there = from_json(_RowsState, state, "state", extra="ignore")
        if not len(there.rows) == len(there.episodes_begun) == len(self.begun):
            raise ConfigurationError(f"The state has {len(there.rows)} conversations, expected {len(self.begun)}.")
        self.dialogues = [Dialogue.from_json(row) for row in there.rows]
        self.begun = list(there.episodes_begun)
        self.faults = Counter(there.faults)
        self._recent_rewards = RecentRewards(there.latest_rewards)
        self._restored = True

    def _reward(self, dialogue: Dialogue) -> float:
        reward, imputed = self._recent_rewards.reward_of(dialogue)
        if imputed:
            self.faults[f"{dialogue.end_reason}: {fault_label(dialogue.fault)}"] += 1
        return reward

    def _begin(self, rows: Sequence[int]) -> list[Dialogue]:
        """The next conversation of each row."""
        begun: dict[int, Dialogue] = {}
        for _ in range(_MAX_FAILED_OPENINGS):
            missing = [row for row in rows if row not in begun]
            if not missing:
                break
            seeds = [derive_seed(self.seed, "row", row, self.begun[row]) for row in missing]
            for row in missing:
                self.begun[row] += 1
            opened = self._simulation.open(seeds)
            check_servers(opened)
            for row, dialogue in zip(missing, opened, strict=True):
                if dialogue.ended:
                    self.faults[f"opening: {fault_label(dialogue.fault)}"] += 1
                else:
                    begun[row] = dialogue
        if len(begun) < len(rows):
            raise ConfigurationError(f"The simulator failed to open {_MAX_FAILED_OPENINGS} conversations in a row.")
        return [begun[row] for row in rows]
