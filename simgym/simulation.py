"""A conversation between an assistant and a simulated user: the only place where it moves on.

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

A user who leaves with a word is answered once more (`answer_last_words`): the dialogue is `leaving`, and the next turn
of the assistant is the last. One who leaves without a word is gone at once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields

from simgym.assistants.base import AssistantTurn
from simgym.conversation import Conversation, Scenario, has_surrogates
from simgym.data.scenario_sets import load_scenarios
from simgym.dialogue import STATE_VERSION, Dialogue
from simgym.errors import ConfigurationError, EpisodeError, InvalidAction
from simgym.faults import Fault, FaultKind, parse_fault
from simgym.judges.base import Judge
from simgym.judges.loading import load_judge
from simgym.plugins import unknown
from simgym.reasoning import has_marks, split_reasoning
from simgym.seeding import derive_seed
from simgym.simulators.base import UserSimulator, UserTurn
from simgym.simulators.loading import load_simulator
from simgym.transcripts import COMPLETE, EndReason, ModelCall

__all__ = ["STATE_VERSION", "Dialogue", "Simulation"]


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
        answer_last_words: bool = True,
    ) -> None:
        """Choose who takes part; models are loaded and scenarios read on first use.

        Args:
            simulator: Who plays the user: a registered name or an instance.
            judge: Who judges a finished conversation: a registered name or an instance.
            scenarios: Name of a set, path of a JSONL file, or scenarios.
            max_turns: Assistant turns after which a conversation ends, >= 1.
            max_length: Longest utterance of either side, code points, >= 1.
            answer_last_words: Whether the assistant answers a user who leaves with a word; else that word ends the
                conversation. The judge sees it either way.

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
        self.answer_last_words = answer_last_words
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

    def check_action(self, action: object) -> str:
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

        Arguments as for `step`, dialogues that run. Those that ended have no reward.

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
        if draft.leaving:
            draft.end_reason = "user_end"
        elif draft.turn >= self.max_turns:
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
        draft.user_reply, draft.leaving = turn.text, turn.ended
        has_words = bool(turn.text.strip())
        if has_words or not turn.ended:
            draft.conversation = draft.conversation.add("user", turn.text)
        if turn.ended and not (has_words and self.answer_last_words):
            draft.end_reason = "user_end"

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
    leaving: bool
    turn: int
    reward: float | None
    end_reason: EndReason | None
    fault: Fault | None
    reasons: tuple[str, ...]
    components: tuple[float, ...]
    calls: tuple[ModelCall, ...]
    role_seconds: Mapping[str, float]

    def __init__(self, dialogue: Dialogue) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(dialogue, name))

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
