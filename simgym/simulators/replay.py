"""Plays back real human turns: what the person in the recorded conversation said, whatever the assistant answers.

The turns do not react to the assistant, so they may not fit its replies; in return every word is certainly human, which
makes replay a yardstick for simulated users. When the recording is used up, the user leaves.
"""

from __future__ import annotations

from collections.abc import Sequence

from simgym.conversation import Conversation, Scenario
from simgym.errors import ConfigurationError
from simgym.simulators.base import UserTurn


class Replay:
    """Plays back the user turns of `Scenario.history`; implements `UserSimulator`."""

    def open(self, scenarios: Sequence[Scenario], *, seeds: Sequence[int]) -> list[UserTurn]:
        """The first recorded user turns.

        Raises:
            ConfigurationError: a scenario has no recorded conversation.
        """
        self.check_scenarios(scenarios)
        return [UserTurn(self._turns(scenario)[0]) for scenario in scenarios]

    def check_scenarios(self, scenarios: Sequence[Scenario]) -> None:
        """Refuse scenarios without a recorded conversation."""
        for scenario in scenarios:
            if not self._turns(scenario):
                raise ConfigurationError(
                    f"Scenario {scenario.id!r} has no recorded user turns to replay. "
                    "Use scenarios made from human logs, e.g. scenarios='chitchat'."
                )

    def reply(
        self, scenarios: Sequence[Scenario], conversations: Sequence[Conversation], *, seeds: Sequence[int]
    ) -> list[UserTurn]:
        turns = []
        for scenario, conversation in zip(scenarios, conversations, strict=True):
            recorded, said = self._turns(scenario), len(conversation.said_by("user"))
            turns.append(UserTurn(recorded[said]) if said < len(recorded) else UserTurn("", ended=True))
        return turns

    def fingerprint(self) -> dict[str, object]:
        return {"simulator": "replay"}

    def _turns(self, scenario: Scenario) -> list[str]:
        return Conversation(scenario.history).said_by("user")
