"""What happens in a conversation, for any number of them at once: start, advance, judge.

The single and the vector environment are two faces of this module. Each step makes at most one simulator call and one
judge call for all conversations concerned:

    action -> assistant turn -> (turn limit? -> judge) or (simulator -> user turn, or the user leaves -> judge)

Everything random in a conversation is derived from its seed, the turn and the role; nothing depends on the other
conversations of the call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from simgym.conversation import Conversation, Scenario
from simgym.errors import ConfigurationError
from simgym.judges.base import Judge
from simgym.plugins import unknown
from simgym.seeding import derive_seed
from simgym.simulators.base import UserSimulator, UserTurn
from simgym.transcripts import EndReason, ModelCall
from simgym.typed_json import describe, read_as

STATE_VERSION = 1


@dataclass(slots=True)
class Episode:
    """One conversation while it runs."""

    scenario: Scenario
    """What the user wants; hidden from the assistant."""
    seed: int
    """Decides everything random."""
    conversation: Conversation = field(default_factory=Conversation)
    """What has been said."""
    user_reply: str = ""
    """Latest user turn; empty if the user left without a word."""
    turn: int = 0
    """Assistant turns so far."""
    reward: float | None = None
    """The judge's value in [0, 1] once judged; None before, and when the judge failed."""
    end_reason: EndReason | None = None
    """None while the conversation runs."""
    fault: str | None = None
    """What went wrong, if anything did."""
    reasons: tuple[str, ...] = ()
    """What the judge said."""
    judge_values: tuple[float, ...] = ()
    """What the reward is the mean of; see `Judgement.parts`."""
    calls: list[ModelCall] = field(default_factory=list)
    """Model calls by simulator and judge, in order."""
    role_seconds: dict[str, float] = field(default_factory=dict)
    """Wall time spent on each role; of a call for several conversations each has an equal share."""

    @property
    def terminated(self) -> bool:
        """Ended as a conversation ends: the user left, or the turn limit was reached."""
        return self.end_reason in ("user_end", "turn_limit")

    @property
    def truncated(self) -> bool:
        """Cut off by a fault or by a full context."""
        return self.end_reason is not None and not self.terminated

    def to_json(self) -> dict[str, Any]:
        """State for `set_state`; the record of model calls and of their time is not part of it."""
        return {
            "state_version": STATE_VERSION,
            "scenario": self.scenario.to_json(),
            "seed": self.seed,
            "messages": self.conversation.to_json(),
            "user_reply": self.user_reply,
            "turn": self.turn,
            "reward": self.reward,
            "end_reason": self.end_reason,
            "fault": self.fault,
            "reasons": list(self.reasons),
            "judge_values": list(self.judge_values),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Episode:
        """Read what `to_json` gave.

        Raises:
            ConfigurationError: it is something else; the message says where.
        """
        version = value.get("state_version") if isinstance(value, Mapping) else None
        if version != STATE_VERSION:
            raise ConfigurationError(
                f"The state has version {describe(version)}, expected {STATE_VERSION}. Make it with get_state."
            )
        wanted = {"scenario": Any, "messages": Any, "seed": int, "user_reply": str, "turn": int,
                  "reward": float | None, "end_reason": EndReason | None, "fault": str | None,
                  "reasons": tuple[str, ...], "judge_values": tuple[float, ...]}  # fmt: skip
        given = {"judge_values": (), **value}
        if missing := [name for name in wanted if name not in given]:
            raise ConfigurationError(f"The state lacks {missing[0]!r}. Make it with get_state.")
        fields = {name: read_as(kind, given[name], f"state.{name}") for name, kind in wanted.items()}
        scenario, messages = Scenario.from_json(fields.pop("scenario")), Conversation.from_json(fields.pop("messages"))
        return cls(scenario=scenario, conversation=messages, **fields)


class Episodes:
    """Starts and advances conversations between an assistant (the caller), a simulator and a judge."""

    def __init__(
        self,
        *,
        simulator: Callable[[], UserSimulator],
        judge: Callable[[], Judge],
        scenarios: Callable[[], Sequence[Scenario]],
        max_turns: int,
        max_length: int,
    ) -> None:
        """Say what to run; the three callables are called on first use, so that construction stays light.

        Args:
            simulator: Makes the user simulator.
            judge: Makes the judge.
            scenarios: Reads the scenarios, at least one.
            max_turns: Assistant turns per conversation, >= 1.
            max_length: Longest user turn, code points.
        """
        if max_turns < 1:
            raise ConfigurationError(f"max_turns is {max_turns}, expected >= 1.")
        self.max_turns = max_turns
        self.max_length = max_length
        self._make = (simulator, judge, scenarios)
        self._simulator: UserSimulator | None = None
        self._judge: Judge | None = None
        self._scenarios: dict[str, Scenario] | None = None

    @property
    def simulator(self) -> UserSimulator:
        if self._simulator is None:
            self._simulator = self._make[0]()
        return self._simulator

    @property
    def judge(self) -> Judge:
        if self._judge is None:
            self._judge = self._make[1]()
        return self._judge

    @property
    def scenarios(self) -> dict[str, Scenario]:
        """All scenarios by id, in order; refused here, once, if the simulator says that it cannot play one of them."""
        if self._scenarios is None:
            self._scenarios = {scenario.id: scenario for scenario in self._make[2]()}
            if not self._scenarios:
                raise ConfigurationError("The scenario set is empty, expected at least one scenario.")
            if (check := getattr(self.simulator, "check_scenarios", None)) is not None:
                check(list(self._scenarios.values()))
        return self._scenarios

    def scenario(self, seed: int, scenario_id: str | None = None) -> Scenario:
        """The scenario with that id, or the one that the seed draws.

        Raises:
            ConfigurationError: no scenario has that id.
        """
        if scenario_id is None:
            ids = list(self.scenarios)
            return self.scenarios[ids[derive_seed(seed, "scenario") % len(ids)]]
        if scenario_id not in self.scenarios:
            raise ConfigurationError(unknown("scenario", scenario_id, list(self.scenarios)[:200]))
        return self.scenarios[scenario_id]

    def start(self, scenarios: Sequence[Scenario], seeds: Sequence[int]) -> list[Episode]:
        """Open N conversations; one simulator call. An opening that failed ends its conversation at once."""
        episodes = [Episode(scenario, int(seed)) for scenario, seed in zip(scenarios, seeds, strict=True)]
        with timed("user", episodes):
            turns = self.simulator.open(scenarios, seeds=[derive_seed(seed, "user", 0) for seed in seeds])
        for episode, turn in zip(episodes, turns, strict=True):
            if turn.ended and turn.fault is None:
                turn = UserTurn("", fault="ended_before_opening", calls=turn.calls)
            self._hear(episode, turn)
        return episodes

    def advance(self, episodes: Sequence[Episode], utterances: Sequence[str]) -> None:
        """Let the assistant speak in N running conversations; changes the episodes in place.

        At most one simulator call and one judge call. The caller has checked the utterances.
        """
        for episode, utterance in zip(episodes, utterances, strict=True):
            episode.conversation = episode.conversation.add("assistant", utterance)
            episode.turn += 1
            if episode.turn >= self.max_turns:
                episode.end_reason = "turn_limit"
        waiting = [episode for episode in episodes if episode.end_reason is None]
        if waiting:
            with timed("user", waiting):
                turns = self.simulator.reply(
                    [episode.scenario for episode in waiting],
                    [episode.conversation for episode in waiting],
                    seeds=[derive_seed(episode.seed, "user", episode.turn) for episode in waiting],
                )
            for episode, turn in zip(waiting, turns, strict=True):
                self._hear(episode, turn)
        self._judge_ended([episode for episode in episodes if episode.terminated])

    def _hear(self, episode: Episode, turn: UserTurn) -> None:
        episode.calls += turn.calls
        fault = turn.fault
        if fault is None and len(turn.text) > self.max_length:
            fault = f"too_long: {len(turn.text)} characters, at most {self.max_length} fit the observation"
        if fault is not None:
            episode.user_reply, episode.fault = "", fault
            episode.end_reason = "context_overflow" if fault.startswith("context_overflow") else "simulator_fault"
            return
        episode.user_reply = turn.text
        if turn.ended:
            episode.end_reason = "user_end"  # a parting word is observed but not judged: judging ends on the assistant
        else:
            episode.conversation = episode.conversation.add("user", turn.text)

    def _judge_ended(self, ended: Sequence[Episode]) -> None:
        if not ended:
            return
        with timed("judge", ended):
            judgements = self.judge.score(
                [episode.scenario for episode in ended],
                [episode.conversation for episode in ended],
                seeds=[derive_seed(episode.seed, "judge") for episode in ended],
            )
        for episode, judgement in zip(ended, judgements, strict=True):
            episode.calls += judgement.calls
            episode.reward, episode.reasons = judgement.value, judgement.reasons
            episode.judge_values = judgement.parts
            if judgement.value is None:
                episode.end_reason, episode.fault = "judge_fault", judgement.fault


@contextmanager
def timed(role: str, episodes: Sequence[Episode]) -> Iterator[None]:
    """Note the time of one call on behalf of N conversations."""
    started = time.perf_counter()
    yield
    share = (time.perf_counter() - started) / max(1, len(episodes))
    for episode in episodes:
        episode.role_seconds[role] = episode.role_seconds.get(role, 0.0) + share
