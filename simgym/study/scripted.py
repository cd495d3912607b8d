"""Instant assistants for synthetic studies and tests: every reply says which source wrote it, so that a scripted
participant can prefer one. They stand in for the assistants of the study file only with `simgym study simulate`."""

from __future__ import annotations

from collections.abc import Sequence

from simgym.assistants.base import AssistantTurn
from simgym.conversation import Conversation
from simgym.seeding import generator

MARK = "synthetic reply of source"
"""Before the number of the source."""


class ScriptedAssistant:
    """Answers at once, with its number and some words; implements `Assistant`."""

    def __init__(self, number: int) -> None:
        self.number = number

    def respond(self, conversations: Sequence[Conversation], *, seeds: Sequence[int]) -> list[AssistantTurn]:
        turns = []
        for talk, seed in zip(conversations, seeds, strict=True):
            words = int(generator(seed, "words").integers(5, 60))
            turn = len(talk.said_by("user"))
            turns.append(AssistantTurn(f"({MARK} {self.number}, exchange {turn})\n\n" + "word " * words))
        return turns

    def fingerprint(self) -> dict[str, object]:
        return {"assistant": "scripted", "number": self.number}
