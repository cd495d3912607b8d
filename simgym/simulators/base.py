"""The user simulator protocol: scenarios and conversations in, user turns out.

`open` writes (or takes) the first user turn; `reply` the next one after an assistant turn. Both work on N
conversations at once and return N turns in input order. A turn that could not be produced after a bounded number of
attempts has a `fault`; it is never papered over with an empty text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Protocol, runtime_checkable

from simgym.conversation import Conversation, Scenario
from simgym.language_models.base import LanguageModel, Request
from simgym.transcripts import ModelCall


@dataclass(frozen=True, slots=True)
class UserTurn:
    """What the simulated user did."""

    text: str
    """The utterance; empty when the user left without a word, or on a fault."""
    _: KW_ONLY
    ended: bool = False
    """Whether the user ends the conversation here."""
    fault: str | None = None
    """`role_flip`, `intent_copied`, `repeated`, `empty`, `unparsable`, ... with a detail after a colon; else None."""
    calls: tuple[ModelCall, ...] = ()
    """Model calls made for this turn, failed attempts included."""


@runtime_checkable
class UserSimulator(Protocol):
    """Plays the user of N conversations.

    A simulator that cannot play every scenario may also have `check_scenarios(scenarios)`, which raises a
    `ConfigurationError` for those; environments call it before the first conversation.
    """

    def open(self, scenarios: Sequence[Scenario], *, seeds: Sequence[int]) -> list[UserTurn]:
        """First user turn of N conversations."""
        ...

    def reply(
        self, scenarios: Sequence[Scenario], conversations: Sequence[Conversation], *, seeds: Sequence[int]
    ) -> list[UserTurn]:
        """Next user turn of N conversations, each of which ends with an assistant turn."""
        ...

    def fingerprint(self) -> dict[str, object]:
        """JSON values that identify model, settings and prompt hashes."""
        ...


@dataclass(frozen=True, slots=True)
class ForcedTurn:
    """How a simulator would have had to write a given user turn; what teacher forcing measures."""

    request: Request
    """What the simulator asks its model at this point of the conversation."""
    prefix: str
    """What the model is taken to have written before the turn, e.g. the frame of a JSON reply; costs nothing."""
    text: str
    """The turn as the model would have written it."""


@runtime_checkable
class ScorableSimulator(Protocol):
    """A simulator whose model can tell how likely a person's turn is; realism is measured with it."""

    def language_model(self) -> LanguageModel:
        """The model that writes the turns."""
        ...

    def force(self, scenario: Scenario, conversation: Conversation, said: str) -> ForcedTurn:
        """What the model would have read and written, had the user said `said` at this point."""
        ...
