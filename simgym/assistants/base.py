"""The assistant protocol: conversations in, assistant turns out.

An assistant sees what was said and nothing else: no scenario, no intent, no persona.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from simgym.conversation import Conversation
from simgym.transcripts import ModelCall


@dataclass(frozen=True, slots=True)
class AssistantTurn:
    """What the assistant said."""

    text: str
    """The utterance; empty on a fault."""
    fault: str | None = None
    """Why there is no utterance: `empty`, `context_overflow: ...`, `server: ...`; else None."""
    calls: tuple[ModelCall, ...] = ()
    """Model calls made for this turn."""


@runtime_checkable
class Assistant(Protocol):
    """Answers N conversations."""

    def respond(self, conversations: Sequence[Conversation], *, seeds: Sequence[int]) -> list[AssistantTurn]:
        """Next assistant turn of N conversations, each of which ends with a user turn."""
        ...

    def fingerprint(self) -> dict[str, object]:
        """JSON values that identify model, settings and prompt hashes."""
        ...
