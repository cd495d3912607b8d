"""One simulated user for a program that keeps the conversation itself: the seat that evaluation frameworks have.

    user = simgym.user("persona", scenario, seed=7)
    messages = [{"role": "user", "content": user.open().text}]
    messages.append({"role": "assistant", "content": answer(messages)})
    turn = user.reply(messages)                    # UserTurn(text, ended, fault, calls)

Nothing is remembered between calls: `reply` is given the whole conversation, so that a framework may retry, fork or
resume it. What the user says is what the same scenario and seed give in an environment or in `collect`. Nobody judges,
and there is no turn limit; whoever wants those, or many conversations at once, takes a `Simulation`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from simgym.conversation import Conversation, Message, Scenario
from simgym.errors import ConfigurationError
from simgym.judges.base import NoJudge
from simgym.language_models.loading import LanguageModelSpec
from simgym.simulation import Dialogue, Simulation
from simgym.simulators.base import UserSimulator, UserTurn
from simgym.simulators.loading import load_simulator

_NO_LIMIT = sys.maxsize


class SimulatedUser:
    """The user of one conversation; made by `simgym.user`."""

    def __init__(self, simulation: Simulation, scenario: Scenario, seed: int) -> None:
        """Seat a user.

        Args:
            simulation: Whose users; its judge and turn limit are not asked.
            scenario: What the user wants.
            seed: Decides everything that is random in the user's turns.
        """
        self.scenario = scenario
        self.seed = seed
        self._simulation = simulation

    def open(self) -> UserTurn:
        """The first user turn; a `fault` if there is none."""
        return _last_turn(self._simulation.open([self.seed], [self.scenario])[0])

    def reply(self, messages: Sequence[Message | Mapping[str, object]]) -> UserTurn:
        """The user turn that follows a conversation.

        Args:
            messages: The conversation so far, as `Message`s or as mappings with `role` and `content`; the last one is
                the assistant's. System messages are the assistant's own affair: the user does not see them.

        Returns:
            Text; `ended` if the user leaves, with or without a parting word; a `fault` instead of a made-up text.

        Raises:
            ConfigurationError: a message has another role or no text, or the last one is not the assistant's.
            InvalidAction: the assistant's message is blank, too long, or holds lone surrogates.
        """
        read = [message if isinstance(message, Message) else Message.from_json(message) for message in messages]
        spoken = [message for message in read if message.role != "system"]
        if not spoken or spoken[-1].role != "assistant":
            last = f"a message of the {spoken[-1].role}" if spoken else "no message"
            raise ConfigurationError(
                f"The conversation ends with {last}, expected one of the assistant. For the user's first turn, call "
                "open()."
            )
        *earlier, answer = spoken
        dialogue = Dialogue.from_conversation(self.scenario, self.seed, Conversation(tuple(earlier)))
        return _last_turn(self._simulation.reply([dialogue], [answer.content])[0])


def user(
    simulator: str | UserSimulator,
    scenario: Scenario | str | None = None,
    *,
    seed: int = 0,
    model: LanguageModelSpec | None = None,
    options: Mapping[str, Any] | None = None,
    scenarios: str | Sequence[Scenario] = "everyday",
) -> SimulatedUser:
    """One simulated user, for a program that keeps the conversation itself.

    Args:
        simulator: Who plays the user: a registered name, `py:module:Class`, or an instance.
        scenario: What the user wants, or its id in `scenarios`; None: the seed draws one of them.
        seed: Decides everything that is random in the user's turns.
        model: Model of the simulator; None: its own default. Loaded on first use.
        options: Further constructor arguments of the simulator.
        scenarios: Where ids are looked up: name of a set, path of a JSONL file, or scenarios.

    Raises:
        UnknownName: no simulator has that name, or it has no such option.
        ConfigurationError: no scenario has that id, or the simulator cannot play it.
    """
    known = [scenario] if isinstance(scenario, Scenario) else scenarios
    players = load_simulator(simulator, model, options)
    # Whether last words are answered is for the program to say that keeps the conversation.
    simulation = Simulation(players, judge=NoJudge(), scenarios=known, max_turns=_NO_LIMIT, answer_last_words=False)
    chosen = simulation.scenario(seed, scenario.id if isinstance(scenario, Scenario) else scenario)
    return SimulatedUser(simulation, chosen, seed)


def _last_turn(dialogue: Dialogue) -> UserTurn:
    fault = None if dialogue.fault is None else str(dialogue.fault)
    left = dialogue.ended and fault is None
    return UserTurn(dialogue.user_reply, ended=left, fault=fault, calls=dialogue.calls)
