"""A person at the terminal plays the user: for `simgym chat --as user`, and to get a feel for an assistant.

The person sees the intent (it is theirs) and the assistant's replies. An empty line is asked again; `/end` leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simgym.conversation import Conversation, Scenario
from simgym.simulators.base import UserTurn

LEAVE = "/end"


class Human:
    """Asks a person for each user turn; implements `UserSimulator`."""

    def __init__(self, *, ask: Callable[[str], str] | None = None, tell: Callable[[str], None] | None = None) -> None:
        """Choose where to ask and tell.

        Args:
            ask: Shows a prompt and returns a line; raises EOFError at the end of input. None: `input`.
            tell: Shows a text. None: `print`.
        """
        self._ask = ask or (lambda prompt: input(prompt))  # looked up when asked, so that it can be replaced
        self._tell = tell or print

    def open(self, scenarios: Sequence[Scenario], *, seeds: Sequence[int]) -> list[UserTurn]:
        turns = []
        for scenario in scenarios:
            self._tell(f"What you want: {scenario.goal}\n(type {LEAVE} to leave)")
            turns.append(self._turn())
        return turns

    def reply(
        self, scenarios: Sequence[Scenario], conversations: Sequence[Conversation], *, seeds: Sequence[int]
    ) -> list[UserTurn]:
        turns = []
        for conversation in conversations:
            self._tell(f"assistant: {conversation.said_by('assistant')[-1]}")
            turns.append(self._turn())
        return turns

    def fingerprint(self) -> dict[str, object]:
        return {"simulator": "human"}

    def _turn(self) -> UserTurn:
        text = ""
        while not text:
            try:
                text = self._ask("you: ").strip()
            except EOFError:
                text = LEAVE
        return UserTurn("", ended=True) if text == LEAVE else UserTurn(text)
