"""A conversation between an assistant and a simulated user: its state, and the only place where it moves on.

    dialogues = simulation.open(seeds)                                        # one simulator call
    while running := [dialogue for dialogue in dialogues if not dialogue.ended]:
        turns = assistant.respond([dialogue.conversation for dialogue in running], seeds=...)
        stepped = iter(simulation.step(running, turns))                       # one simulator call, one judge call
        dialogues = [dialogue if dialogue.ended else next(stepped) for dialogue in dialogues]

A `Dialogue` is a frozen value. `Simulation.open` and `Simulation.step` return new ones and change nothing, so that a
fork is the same value used twice, a step that raised has not happened, and stepping a state twice gives equal results.
Everything random is derived from the dialogue's seed, the turn and the role; nothing depends on the other dialogues of
a call. Environments, `collect` and the trainers are adapters over this module; none of them makes a next state.

    assistant turn -> (turn limit? -> judge) or (simulator -> user turn, or the user leaves -> judge)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from simgym.assistants.base import AssistantTurn
from simgym.conversation import Conversation, Scenario, has_surrogates
from simgym.data.scenario_sets import load_scenarios
from simgym.errors import ConfigurationError, EpisodeError, InvalidAction
from simgym.faults import Fault, FaultKind, parse_fault
from simgym.judges.base import Judge
from simgym.judges.loading import load_judge
from simgym.plugins import unknown
from simgym.reasoning import has_marks, split_reasoning
from simgym.seeding import derive_seed
from simgym.simulators.base import UserSimulator, UserTurn
from simgym.simulators.loading import load_simulator
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
    """Latest user turn; empty if the user left without a word. A parting word is here and not in `conversation`."""
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

    def to_json(self) -> dict[str, Any]:
        """JSON values, for `from_json`."""
        return {
            "state_version": STATE_VERSION,
            "scenario": self.scenario.to_json(),
            "seed": self.seed,
            "messages": self.conversation.to_json(),
            "user_reply": self.user_reply,
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
    def from_json(cls, value: Mapping[str, Any]) -> Dialogue:
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
        self, env_id: str, fingerprints: Mapping[str, Mapping[str, Any]], *, seconds: float | None = None
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
            reward=transcript.reward,
            end_reason=transcript.end_reason,
            fault=transcript.fault,
            reasons=transcript.reasons,
            components=transcript.components,
            calls=transcript.calls,
            role_seconds=transcript.role_seconds,
        )


class Simulation:
    """Simulated users with a judge; opens conversations and steps them, any number at once."""

    def __init__(
        self,
        simulator: str | UserSimulator = "role_play",
        *,
        judge: str | Judge = "reward_head",
        scenarios: str | Sequence[Scenario] = "everyday",
        max_turns: int = 5,
        max_length: int = 32_768,
    ) -> None:
        """Choose who takes part; models are loaded and scenarios read on first use.

        Args:
            simulator: Who plays the user: a registered name or an instance.
            judge: Who judges a finished conversation: a registered name or an instance.
            scenarios: Name of a set, path of a JSONL file, or scenarios.
            max_turns: Assistant turns after which a conversation ends, >= 1.
            max_length: Longest utterance of either side, code points, >= 1.

        Raises:
            ConfigurationError: there is no such simulator or judge, or a number is out of range.
        """
        if max_turns < 1:
            raise ConfigurationError(f"max_turns is {max_turns}, expected >= 1.")
        if max_length < 1:
            raise ConfigurationError(f"max_length is {max_length}, expected >= 1.")
        self.simulator = load_simulator(simulator)
        self.judge = load_judge(judge)
        self.max_turns = max_turns
        self.max_length = max_length
        self._source = scenarios
        self._scenarios: dict[str, Scenario] | None = None

    @property
    def scenarios(self) -> dict[str, Scenario]:
        """All scenarios by id, in order; refused here, once, if the simulator says that it cannot play one of them."""
        if self._scenarios is None:
            read = load_scenarios(self._source) if isinstance(self._source, str) else self._source
            scenarios = {scenario.id: scenario for scenario in read}
            if not scenarios:
                raise ConfigurationError("The scenario set is empty, expected at least one scenario.")
            if (check := getattr(self.simulator, "check_scenarios", None)) is not None:
                check(list(scenarios.values()))
            self._scenarios = scenarios
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

    def check_action(self, action: Any) -> str:
        """What the assistant says, as a text that a conversation can take.

        Raises:
            InvalidAction: it is not a text, blank, too long, or holds lone surrogates.
        """
        if not isinstance(action, str):
            raise InvalidAction(f"The action is a {type(action).__name__}, expected a str: what the assistant says.")
        if not action.strip():
            raise InvalidAction("The action is empty, or thoughts alone. The assistant has to say something.")
        if len(action) > self.max_length:
            raise InvalidAction(
                f"The action has {len(action)} characters, at most {self.max_length} are allowed. "
                "Shorten it, or raise max_length."
            )
        if has_surrogates(action):
            raise InvalidAction(
                "The action holds a lone surrogate, which no UTF-8 text can. Decode it with errors='replace'."
            )
        return str(action)

    def open(self, seeds: Sequence[int], scenarios: Sequence[Scenario | str | None] | None = None) -> list[Dialogue]:
        """Open N conversations with one simulator call. An opening that failed ends its conversation at once.

        Args:
            seeds: N seeds; each decides everything random in its conversation.
            scenarios: N scenarios, or their ids; None draws one by the seed.

        Returns:
            N dialogues in the order of the seeds.

        Raises:
            ConfigurationError: no scenario has that id, or the simulator cannot play it.
        """
        chosen = [
            asked if isinstance(asked, Scenario) else self.scenario(seed, asked)
            for seed, asked in zip(seeds, scenarios if scenarios is not None else [None] * len(seeds), strict=True)
        ]
        started = time.perf_counter()
        turns = self.simulator.open(chosen, seeds=[derive_seed(seed, "user", 0) for seed in seeds])
        seconds = (time.perf_counter() - started) / max(1, len(chosen))
        opened: list[Dialogue] = []
        for scenario, seed, turn in zip(chosen, seeds, turns, strict=True):
            if turn.ended and turn.fault is None:
                turn = UserTurn("", fault=str(FaultKind.ENDED_BEFORE_OPENING), calls=turn.calls)
            draft = _Draft(Dialogue(scenario=scenario, seed=int(seed)))
            self._hear(draft, turn, seconds)
            opened.append(draft.freeze())
        return opened

    def step(
        self,
        dialogues: Sequence[Dialogue],
        turns: Sequence[AssistantTurn | str],
        *,
        assistant_seconds: float | None = None,
        refuse_invalid: bool = False,
    ) -> list[Dialogue]:
        """Let the assistant speak in N conversations; at most one simulator call and one judge call.

        A turn that is a fault, or that no conversation can take (see `check_action`), ends its conversation. One whose
        opening failed has nobody to speak to: it only counts the turn.

        Args:
            dialogues: N dialogues, running or with a failed opening; they are not changed.
            turns: N assistant turns, or their texts.
            assistant_seconds: Wall time in which the turns were made, for `role_seconds`; None if it is not known.
            refuse_invalid: Raise for a turn that no conversation can take, before anybody is asked anything.

        Returns:
            The N next dialogues in the same order.

        Raises:
            EpisodeError: a conversation has ended.
            InvalidAction: see `refuse_invalid`.
        """
        drafts = self._exchange(dialogues, turns, assistant_seconds, refuse_invalid)
        self._ask_judge([draft for draft in drafts if draft.end_reason in COMPLETE])
        return [draft.freeze() for draft in drafts]

    def reply(self, dialogues: Sequence[Dialogue], turns: Sequence[AssistantTurn | str]) -> list[Dialogue]:
        """`step` without a judgement: what the users say, for a program that judges by itself or not at all.

        Args:
            dialogues: N running dialogues; they are not changed.
            turns: N assistant turns, or their texts.

        Returns:
            The N next dialogues in the same order; those that ended have no reward.

        Raises:
            EpisodeError: a conversation has ended.
            InvalidAction: no conversation can take one of the turns; nobody was asked anything.
        """
        return [draft.freeze() for draft in self._exchange(dialogues, turns, None, refuse_invalid=True)]

    def _exchange(
        self,
        dialogues: Sequence[Dialogue],
        turns: Sequence[AssistantTurn | str],
        assistant_seconds: float | None,
        refuse_invalid: bool,
    ) -> list[_Draft]:
        """The assistant speaks, and those users answer whose conversation goes on."""
        drafts = [_Draft(dialogue) for dialogue in dialogues]
        share = None if assistant_seconds is None else assistant_seconds / max(1, len(drafts))
        for draft, turn in zip(drafts, turns, strict=True):
            self._speak(draft, turn, share, refuse_invalid)
        self._ask_users([draft for draft in drafts if draft.end_reason is None])
        return drafts

    def _speak(self, draft: _Draft, turn: AssistantTurn | str, seconds: float | None, refuse_invalid: bool) -> None:
        """The assistant has its turn."""
        text, fault = turn, None
        if isinstance(turn, AssistantTurn):
            text, fault = turn.text, parse_fault(turn.fault)
        elif isinstance(turn, str) and has_marks(turn):
            text = split_reasoning(turn).text  # what a policy thinks is nobody's to hear
        if draft.end_reason is not None and draft.turn > 0:
            raise EpisodeError(f"The conversation has ended ({draft.end_reason}). Call reset() to start another.")
        if fault is None:
            try:
                text = self.check_action(text)
            except InvalidAction as error:
                if refuse_invalid:
                    raise
                fault = Fault(FaultKind.INVALID, str(error))
        if draft.end_reason is not None:  # the opening failed
            draft.turn = 1
            return
        if isinstance(turn, AssistantTurn):
            draft.calls += turn.calls
        if seconds is not None:
            draft.spend("assistant", seconds)
        if fault is not None:
            draft.fail(fault, "assistant_fault")
            return
        draft.conversation = draft.conversation.add("assistant", text)  # type: ignore[arg-type]  # checked above
        draft.turn += 1
        if draft.turn >= self.max_turns:
            draft.end_reason = "turn_limit"

    def _ask_users(self, drafts: Sequence[_Draft]) -> None:
        """The users of running conversations have their turns."""
        if not drafts:
            return
        started = time.perf_counter()
        turns = self.simulator.reply(
            [draft.scenario for draft in drafts],
            [draft.conversation for draft in drafts],
            seeds=[derive_seed(draft.seed, "user", draft.turn) for draft in drafts],
        )
        share = (time.perf_counter() - started) / len(drafts)
        for draft, turn in zip(drafts, turns, strict=True):
            self._hear(draft, turn, share)

    def _hear(self, draft: _Draft, turn: UserTurn, seconds: float) -> None:
        """The user has said something, or failed to."""
        draft.spend("user", seconds)
        draft.calls += turn.calls
        fault = parse_fault(turn.fault)
        if fault is None and len(turn.text) > self.max_length:
            detail = f"{len(turn.text)} characters, at most {self.max_length} fit the observation"
            fault = Fault(FaultKind.TOO_LONG, detail)
        if fault is not None:
            draft.user_reply = ""
            draft.fail(fault, "simulator_fault")
            return
        draft.user_reply = turn.text
        if turn.ended:  # a parting word is observed but not judged: judging ends on the assistant
            draft.end_reason = "user_end"
        else:
            draft.conversation = draft.conversation.add("user", turn.text)

    def _ask_judge(self, drafts: Sequence[_Draft]) -> None:
        """Conversations that have come to their end are judged."""
        if not drafts:
            return
        started = time.perf_counter()
        judgements = self.judge.judge(
            [draft.scenario for draft in drafts],
            [draft.conversation for draft in drafts],
            seeds=[derive_seed(draft.seed, "judge") for draft in drafts],
        )
        share = (time.perf_counter() - started) / len(drafts)
        for draft, judgement in zip(drafts, judgements, strict=True):
            draft.spend("judge", share)
            draft.calls += judgement.calls
            draft.reward, draft.reasons, draft.components = judgement.score, judgement.reasons, judgement.components
            if judgement.score is None:
                draft.end_reason, draft.fault = "judge_fault", parse_fault(judgement.fault)


class _Draft:
    """The next dialogue while `open` or `step` makes it; nobody else sees it before it is frozen.

    It has the slots of a `Dialogue`, so that freezing it costs no copy: a frozen copy for each of its changes would
    double what a turn costs outside of models.
    """

    __slots__ = tuple(part.name for part in fields(Dialogue))

    scenario: Scenario
    seed: int
    conversation: Conversation
    user_reply: str
    turn: int
    reward: float | None
    end_reason: EndReason | None
    fault: Fault | None
    reasons: tuple[str, ...]
    components: tuple[float, ...]
    calls: tuple[ModelCall, ...]
    role_seconds: Mapping[str, float]

    def __init__(self, dialogue: Dialogue) -> None:
        self.scenario = dialogue.scenario
        self.seed = dialogue.seed
        self.conversation = dialogue.conversation
        self.user_reply = dialogue.user_reply
        self.turn = dialogue.turn
        self.reward = dialogue.reward
        self.end_reason = dialogue.end_reason
        self.fault = dialogue.fault
        self.reasons = dialogue.reasons
        self.components = dialogue.components
        self.calls = dialogue.calls
        self.role_seconds = dialogue.role_seconds

    def fail(self, fault: Fault, end_reason: EndReason) -> None:
        """End by a fault; a full context has an end reason of its own, whoever met it."""
        self.fault = fault
        self.end_reason = "context_overflow" if fault.kind is FaultKind.CONTEXT_OVERFLOW else end_reason

    def spend(self, role: str, seconds: float) -> None:
        """Note wall time; in a new mapping, for the dialogue before shares the old one."""
        self.role_seconds = {**self.role_seconds, role: self.role_seconds.get(role, 0.0) + seconds}

    def freeze(self) -> Dialogue:
        """This as a dialogue; from here on it cannot be changed."""
        self.__class__ = Dialogue  # type: ignore[assignment]
        return self  # type: ignore[return-value]
