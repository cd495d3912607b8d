"""A conversation at one point in time: what was said, by whom it was ended and how it was judged.

A `Dialogue` is a frozen value that goes to JSON and back, so that forks, transcripts, resumption, servers and trainers
all pass the same one. Nothing here makes the next one: that is `simgym.simulation`, where a conversation moves on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from simgym.conversation import Conversation, Scenario
from simgym.errors import ConfigurationError, EpisodeError
from simgym.faults import Fault
from simgym.seeding import derive_seed
from simgym.transcripts import COMPLETE, EndReason, ModelCall, Transcript, check_rewards
from simgym.typed_json import describe, from_json

STATE_VERSION = 1
"""Incremented when a field of the JSON form changes its meaning."""
_IN_EVERY_STATE = ("scenario", "seed", "messages", "user_reply", "turn", "reward", "end_reason", "fault", "reasons")
"""Keys that states of all versions of simgym have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """One conversation at one point in time; `Simulation` alone makes the next one."""

    scenario: Scenario
    """What the user wants; hidden from the assistant."""
    seed: int
    """Decides everything random."""
    conversation: Conversation = Conversation()  # noqa: RUF009  # frozen
    """What has been said, as the assistant sees it."""
    user_reply: str = ""
    """Latest user turn; empty if the user left without a word."""
    leaving: bool = False
    """Whether the user has left: nobody speaks after the assistant's next turn, or, once it has ended, nobody did."""
    turn: int = 0
    """Assistant turns so far, >= 0."""
    reward: float | None = None
    """The judge's score in [0, 1] once judged; None before, and when there is no judgement because of a fault."""
    end_reason: EndReason | None = None
    """Why it ended; None while it runs."""
    fault: Fault | None = None
    """What went wrong; None if nothing did."""
    reasons: tuple[str, ...] = ()
    """What the judges said, one text a judge."""
    components: tuple[float, ...] = ()
    """What the reward is the mean of, in [0, 1] each; see `Judgement.components`."""
    calls: tuple[ModelCall, ...] = ()
    """Every model call of assistant, simulator and judge, in order."""
    role_seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    """Wall time by role, seconds; of a call for several dialogues each has an equal share. Read only. Two dialogues
    that differ in it alone are equal."""

    @property
    def ended(self) -> bool:
        """Whether nobody may speak any more."""
        return self.end_reason is not None

    @property
    def terminated(self) -> bool:
        """Ended as a conversation ends: the user left, or the turn limit was reached."""
        return self.end_reason in COMPLETE

    @property
    def truncated(self) -> bool:
        """Cut off by a fault or by a full context."""
        return self.end_reason is not None and self.end_reason not in COMPLETE

    @property
    def assistant_seed(self) -> int:
        """Seed of the assistant's next turn."""
        return derive_seed(self.seed, "assistant", self.turn)

    def to_json(self) -> dict[str, object]:
        """JSON values, for `from_json`."""
        return {
            "state_version": STATE_VERSION,
            "scenario": self.scenario.to_json(),
            "seed": self.seed,
            "messages": self.conversation.to_json(),
            "user_reply": self.user_reply,
            **({"leaving": True} if self.leaving else {}),  # a state of earlier versions has no such key
            "turn": self.turn,
            "reward": self.reward,
            "end_reason": self.end_reason,
            "fault": None if self.fault is None else str(self.fault),
            "reasons": list(self.reasons),
            "judge_values": list(self.components),
            "calls": [call.to_json() for call in self.calls],
            "role_seconds": dict(self.role_seconds),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Dialogue:
        """The dialogue that `to_json` wrote, of this or an older version of simgym.

        Raises:
            ConfigurationError: it is something else; the message says where.
        """
        version = value.get("state_version") if isinstance(value, Mapping) else None
        if version != STATE_VERSION:
            raise ConfigurationError(
                f"The state has version {describe(version)}, expected {STATE_VERSION}. Make it with get_state."
            )
        if missing := [name for name in _IN_EVERY_STATE if name not in value]:
            raise ConfigurationError(f"The state lacks {missing[0]!r}. Make it with get_state.")
        names = {"messages": "conversation", "judge_values": "components"}
        given = {names.get(key, key): item for key, item in value.items() if key not in names.values()}
        given["conversation"] = {"messages": value["messages"]}
        dialogue = from_json(cls, given, "state", extra="ignore")
        check_rewards(dialogue.reward, *dialogue.components)
        if dialogue.turn < 0:
            raise ConfigurationError(f"state.turn is {dialogue.turn}, expected >= 0. Make the state with get_state.")
        return dialogue

    def relabelled(self, **labels: Any) -> Dialogue:
        """The same conversation under another seed, scenario or end, or with other calls; nobody speaks."""
        if wrong := set(labels) - {"seed", "scenario", "end_reason", "calls"}:
            raise TypeError(f"{wrong.pop()} is no label of a dialogue; Simulation.step changes it.")
        return replace(self, **labels)

    def to_transcript(
        self, env_id: str, fingerprints: Mapping[str, Mapping[str, object]], *, seconds: float | None = None
    ) -> Transcript:
        """The record of an ended dialogue: this value with its provenance.

        Args:
            env_id: Id of the environment.
            fingerprints: Of assistant, simulator, judge and environment.
            seconds: Wall time of the batch that it ran in.

        Raises:
            EpisodeError: the dialogue has not ended.
        """
        if self.end_reason is None:
            raise EpisodeError("The conversation has not ended, so there is no transcript of it yet.")
        return Transcript(
            env_id=env_id,
            scenario=self.scenario,
            seed=self.seed,
            conversation=self.conversation,
            end_reason=self.end_reason,
            reward=self.reward,
            fault=self.fault,
            reasons=self.reasons,
            components=self.components,
            fingerprints=fingerprints,
            calls=self.calls,
            seconds=None if seconds is None else round(seconds, 3),
            role_seconds={role: round(spent, 4) for role, spent in self.role_seconds.items()},
            user_reply=self.user_reply,
            leaving=self.leaving,
        )

    @classmethod
    def from_conversation(cls, scenario: Scenario, seed: int, conversation: Conversation) -> Dialogue:
        """A running dialogue in which this has been said, elsewhere for example."""
        said = conversation.said_by("user")
        heard, turn = said[-1] if said else "", len(conversation.said_by("assistant"))
        return cls(scenario=scenario, seed=seed, conversation=conversation, user_reply=heard, turn=turn)

    @classmethod
    def from_transcript(cls, transcript: Transcript) -> Dialogue:
        """The dialogue that a transcript records."""
        dialogue = cls.from_conversation(transcript.scenario, transcript.seed, transcript.conversation)
        return replace(
            dialogue,
            user_reply=dialogue.user_reply if transcript.user_reply is None else transcript.user_reply,
            leaving=transcript.leaving,
            reward=transcript.reward,
            end_reason=transcript.end_reason,
            fault=transcript.fault,
            reasons=transcript.reasons,
            components=transcript.components,
            calls=transcript.calls,
            role_seconds=transcript.role_seconds,
        )
