"""Logged conversations of real people: the record that every step of the data pipeline reads and writes.

A step reads one source and writes one JSONL file in WildChat's columns (plus `user_key` and `intent`), so steps can be
run in any order, looked at, and replaced by your own. What a step leaves out is never silent: it goes to
`NAME.skipped.jsonl` with its id and the reason, and the counts to `NAME.summary.json`. A file appears under its name
only when its step has finished; until then it is `NAME.partial`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from simgym.conversation import Conversation, Message, has_surrogates
from simgym.data.foreign_rows import LogRow
from simgym.errors import ConfigurationError, MalformedFile
from simgym.jsonl import read_jsonl
from simgym.output_files import is_special, lock_output
from simgym.transcripts import write_json

_UNDECODED = re.compile(r"(?<![\ud800-\udbff])[\udc80-\udcff]")
"""What stands for a byte that is not UTF-8 (`surrogateescape`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedConversation:
    """One conversation as it was logged."""

    id: str
    """The dataset's conversation hash; the data repeats some."""
    user_key: str
    """16 hex digits, a hash of hashed IP and country: one user, as far as the data can tell. Without an IP, a hash of
    the conversation's own id, so that strangers are never taken for one user."""
    country: str
    """Country of the user; empty if unknown."""
    language: str
    """Language of the conversation, as the dataset names it, e.g. `English`."""
    conversation: Conversation
    """The turns as logged; nearly always alternating, user first."""
    intent: str = ""
    """What the user wants, as a system message for a user simulator; empty until a step has written it."""

    def to_json(self) -> dict[str, object]:
        """The row of a pipeline file."""
        return {
            "conversation_hash": self.id,
            "user_key": self.user_key,
            "country": self.country,
            "language": self.language,
            "intent": self.intent,
            "conversation": [message.to_json() for message in self.conversation.messages],
        }

    @classmethod
    def from_json(cls, row: LogRow) -> LoggedConversation:
        """Read a row of a pipeline file.

        Raises:
            KeyError, TypeError, AttributeError, ConfigurationError: the row is not one.
        """
        turns = tuple(Message(turn["role"], turn["content"] or "") for turn in row["conversation"])
        return cls(
            id=str(row["conversation_hash"]),
            user_key=str(row["user_key"]),
            country=str(row["country"]),
            language=str(row["language"]),
            conversation=Conversation(turns),
            intent=str(row.get("intent") or ""),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSummary:
    """What a step of the pipeline did."""

    read: int
    """Conversations seen; `kept` plus everything in `skipped`."""
    kept: int
    """Conversations written."""
    skipped: Mapping[str, int]
    """Conversations left out, by the first reason that applies."""
    details: Mapping[str, object] = field(default_factory=dict)
    """JSON values that only this step has."""


def unusable(conversation: Conversation, intent: str = "") -> str | None:
    """Why a conversation cannot be learned from, or None: users first, roles alternate, no empty or broken texts."""
    messages = conversation.messages
    if not messages:
        return "no turns"
    if messages[0].role != "user":
        return "does not begin with the user"
    if any(first.role == second.role for first, second in itertools.pairwise(messages)):
        return "roles out of order"
    if any(message.role not in ("user", "assistant") for message in messages):
        return "roles out of order"
    if any(not message.content.strip() for message in messages):
        return "empty turn"
    texts = (intent, *(message.content for message in messages))
    if any(map(has_surrogates, texts)):
        return "not UTF-8" if any(map(_UNDECODED.search, texts)) else "lone surrogates"
    return None


def read_logged(path: str | Path) -> Iterator[LoggedConversation]:
    """Stream the conversations of a pipeline file.

    Raises:
        ConfigurationError: there is no such file.
        MalformedFile: a line is not a conversation; the message names it.
    """
    if not Path(path).is_file():
        raise ConfigurationError(f"There is no file {path}. Run the step of `simgym data` that writes it.")
    for number, row in read_jsonl(path):
        try:
            yield LoggedConversation.from_json(row)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MalformedFile(
                f"{path}, line {number}: not a conversation of `simgym data` ({error!r}). For a dataset in "
                "WildChat's schema run `simgym data preprocess` first."
            ) from error


class StepOutput:
    """The files of one step, a context manager: written as `.partial`, named when the block ends without an error.

    While it is open, no other process can write the same file.
    """

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        """Say where the step writes; nothing is opened before `with`.

        Args:
            path: Where the finished file goes; its folder is created.
            resume: Append to what an earlier run has left in the partial files.
        """
        self.path = Path(path)
        self.partial = beside(self.path, ".partial")
        self.kept, self.skipped = 0, Counter[str]()
        self.details: dict[str, object] = {}
        self._mode = "a" if resume else "w"
        self._closing = ExitStack()
        self._rows: IO[str]
        self._reasons: IO[str]

    def keep(self, row: Mapping[str, object]) -> None:
        """Write one row."""
        self._rows.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.kept += 1

    def skip(self, identifier: str, reason: str, detail: str = "") -> None:
        """List one conversation that is left out."""
        self._reasons.write(json.dumps({"id": identifier, "reason": reason, "detail": detail}) + "\n")
        self.skipped[reason] += 1

    def forget_skipped(self) -> None:
        """Empty the list of skipped conversations: this run looks at them again."""
        self._reasons.truncate(0)
        self.skipped.clear()

    def flush(self) -> None:
        """Bring what was written to the disk."""
        for file in (self._rows, self._reasons):
            file.flush()
            os.fsync(file.fileno())

    def summary(self) -> StepSummary:
        """The counts so far."""
        return StepSummary(
            read=self.kept + self.skipped.total(),
            kept=self.kept,
            skipped=dict(sorted(self.skipped.items())),
            details=dict(self.details),
        )

    def __enter__(self) -> StepOutput:
        """Open `path.partial` and the list of skipped conversations.

        Raises:
            OutputInUse: another process is writing them.
            TranscriptError: they cannot be written.
            ConfigurationError: the path is a device or a pipe.
        """
        if is_special(self.path):
            raise ConfigurationError(f"{self.path} is no file; a step writes several beside each other. Give a name.")
        with ExitStack() as stack:
            stack.enter_context(lock_output(self.path))
            self.path.parent.mkdir(parents=True, exist_ok=True)  # where a folder above is what is locked
            self._rows = stack.enter_context(self.partial.open(self._mode, encoding="utf-8", newline="\n"))
            reasons = beside(self.path, ".skipped.jsonl")
            self._reasons = stack.enter_context(reasons.open(self._mode, encoding="utf-8", newline="\n"))
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._closing:
            if kind is None:
                self.flush()
                summary = self.summary()
                counts = {"read": summary.read, "kept": summary.kept, "skipped": dict(summary.skipped)}
                write_json(beside(self.path, ".summary.json"), {**counts, **summary.details})
                self.partial.replace(self.path)
                return
            for file in (self._rows, self._reasons):
                with suppress(OSError):  # a full disk, say: the error that is on its way says so
                    file.flush()
                if (left := Path(file.name)).stat().st_size == 0:
                    left.unlink()


def beside(path: Path, ending: str) -> Path:
    """`train.jsonl` and `.skipped.jsonl` give `train.skipped.jsonl`; `.partial` is put behind the whole name."""
    return path.with_name(path.name + ending if ending == ".partial" else path.stem + ending)
