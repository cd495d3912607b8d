"""What a server was asked, as transcripts: requests that continue one another are one conversation.

A request holds the whole conversation, so the one before it is found by what was said. A conversation is written when
the user leaves or fails, when no request has continued it for a while because others came, and at the end; then its end
reason is `turn_limit`, for it was the caller who asked no more. Nothing was judged.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

from simgym.conversation import Conversation
from simgym.simulation import Dialogue
from simgym.transcripts import TranscriptWriter

MAX_OPEN = 4096
"""Conversations that may be continued; the one that rested longest is written."""

_Key = tuple[str, str, int, Conversation, int]


class ConversationLog:
    """Writes a file of transcripts; may be called from several threads."""

    def __init__(self, path: str | Path, fingerprints: dict[str, dict[str, Any]]) -> None:
        """Open the JSONL file, an existing one to be continued; fingerprints are those of the simulators, by name.

        Raises:
            OutputInUse, TranscriptError, MalformedFile: see `TranscriptWriter`.
        """
        self._writer = TranscriptWriter(path)
        self._fingerprints = fingerprints
        self._open: OrderedDict[_Key, Dialogue] = OrderedDict()
        self._guard = threading.Lock()

    def add(self, name: str, before: Conversation, dialogue: Dialogue) -> None:
        """A user's turn was made.

        Args:
            name: The simulator.
            before: What was said before the assistant's last words, which the caller got from us.
            dialogue: With the user's turn.
        """
        with self._guard:
            earlier = self._pop(name, before, dialogue)
            if earlier is not None:
                dialogue = dialogue.relabelled(calls=(*earlier.calls, *dialogue.calls))
            if dialogue.ended:
                self._write(name, dialogue)
                return
            number = 0
            while (key := _key(name, dialogue.conversation, dialogue, number)) in self._open:
                number += 1  # two callers that have said the same so far
            self._open[key] = dialogue
            if len(self._open) > MAX_OPEN:
                (oldest, *_), resting = self._open.popitem(last=False)
                self._write(oldest, resting)

    def close(self) -> None:
        """Write what nobody continued."""
        with self._guard:
            while self._open:
                (name, *_), dialogue = self._open.popitem(last=False)
                self._write(name, dialogue)
            self._writer.close()

    def _pop(self, name: str, before: Conversation, dialogue: Dialogue) -> Dialogue | None:
        number = 0
        while _key(name, before, dialogue, number + 1) in self._open:
            number += 1
        return self._open.pop(_key(name, before, dialogue, number), None)

    def _write(self, name: str, dialogue: Dialogue) -> None:
        ended = dialogue if dialogue.ended else dialogue.relabelled(end_reason="turn_limit")
        name_of_scenario, number = ended.scenario.id, 1
        while (ended.scenario.id, ended.seed) in self._writer.written:  # a file holds a scenario and a seed once
            number += 1
            ended = ended.relabelled(scenario=replace(ended.scenario, id=f"{name_of_scenario}~{number}"))
        transcript = ended.to_transcript(f"serve:{name}", {"simulator": self._fingerprints[name]})
        self._writer.append(transcript)


def _key(name: str, conversation: Conversation, dialogue: Dialogue, number: int) -> _Key:
    return name, dialogue.scenario.id, dialogue.seed, conversation, number
