"""The JSONL record of a conversation: one line, one transcript, and everything downstream reads it.

A transcript holds the scenario with its hidden intent, the messages, the judgement, why the conversation ended,
fingerprints (model, settings, prompt hashes) of assistant, simulator and judge, and every model call with its exact
prompt, seed and token counts. Lines are appended with flush and fsync, so a killed run loses at most the line being
written; a torn last line is cut off when the file is opened for appending again. Numbers that do not exist are
`null`, never NaN: strict JSON readers must be able to read every line.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from simgym.conversation import Conversation, Scenario
from simgym.errors import MalformedFile, TranscriptError

SCHEMA_VERSION = 1
"""Raised when a field changes its meaning; readers refuse versions they do not know."""

EndReason = Literal["user_end", "turn_limit", "context_overflow", "simulator_fault", "judge_fault", "assistant_fault"]
"""Why a conversation stopped. The first five come from the environment; `assistant_fault` from the rollout loop."""

COMPLETE: frozenset[str] = frozenset({"user_end", "turn_limit"})
"""End reasons of conversations that count in means; all others are reported as exclusions."""


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One request to a language model, as it was sent and answered."""

    role: Literal["assistant", "user", "judge"]
    """On whose behalf the model was asked."""
    turn: int
    """Assistant turns completed before this call."""
    seed: int
    """Seed of the sampled tokens."""
    prompt: str
    """The exact text sent (messages as JSON where the server applies the template)."""
    output: str
    """The exact text returned, before any parsing."""
    prompt_tokens: int
    """Tokens read."""
    completion_tokens: int
    """Tokens written."""
    fault: str | None = None
    """Why the output was not used, or None."""
    finish_reason: str | None = None
    """`stop`: the model ended; `length`: cut at its token limit; `fault`; None in older files and for judges."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """One conversation with everything needed to judge, audit or repeat it."""

    env_id: str
    """Id of the environment, e.g. `UserSim-RolePlay-v0`."""
    scenario: Scenario
    """What the user wanted; holds the hidden intent."""
    seed: int
    """Seed of the conversation: with the same fingerprints it gives the same messages."""
    conversation: Conversation
    """What was said."""
    end_reason: EndReason
    """Why it ended."""
    reward: float | None
    """The judges' value in [0, 1]; None when not judged or the judge failed."""
    fault: str | None = None
    """What went wrong, in one word and colon and detail; None if nothing did."""
    reasons: tuple[str, ...] = ()
    """What the judges said, one text a judge."""
    judge_values: tuple[float, ...] = ()
    """What the reward is the mean of (several judges, checklist items, turns); empty for one judge alone."""
    fingerprints: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Model, settings and prompt hashes under `assistant`, `simulator`, `judge`."""
    calls: tuple[ModelCall, ...] = ()
    """Every model call in order."""
    seconds: float | None = None
    """Wall time of the batch the conversation ran in, not of this conversation alone."""
    role_seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time by role; of a call for several conversations each has an equal share. Empty in older files."""
    schema_version: int = SCHEMA_VERSION
    """Version of this record."""

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the conversation within a file: scenario id and seed."""
        return (self.scenario.id, self.seed)

    @property
    def counts(self) -> bool:
        """Whether the reward may enter a mean."""
        return self.end_reason in COMPLETE and self.reward is not None

    def tokens(self) -> dict[str, dict[str, int]]:
        """Tokens read and written, per role: `{"user": {"prompt": ..., "completion": ...}, ...}`."""
        totals: dict[str, dict[str, int]] = {}
        for call in self.calls:
            of_role = totals.setdefault(call.role, {"prompt": 0, "completion": 0})
            of_role["prompt"] += call.prompt_tokens
            of_role["completion"] += call.completion_tokens
        return totals

    def content_hash(self) -> str:
        """SHA-256 of scenario, seed, messages, end reason and reward: equal hashes, equal conversations."""
        what = [self.scenario.to_json(), self.seed, self.conversation.to_json(), self.end_reason, self.reward]
        return hashlib.sha256(json.dumps(what, sort_keys=True, ensure_ascii=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": self.schema_version,
            "env_id": self.env_id,
            "scenario": self.scenario.to_json(),
            "seed": self.seed,
            "messages": self.conversation.to_json(),
            "end_reason": self.end_reason,
            "reward": self.reward,
            "fault": self.fault,
            "reasons": list(self.reasons),
            "judge_values": list(self.judge_values),
            "tokens": self.tokens(),
            "fingerprints": {role: dict(value) for role, value in self.fingerprints.items()},
            "calls": [asdict(call) for call in self.calls],
            "seconds": self.seconds,
            "role_seconds": dict(self.role_seconds),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Transcript:
        version = value.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version is {version!r}, this simgym reads {SCHEMA_VERSION}. Install the version that wrote it."
            )
        return cls(
            env_id=value["env_id"],
            scenario=Scenario.from_json(value["scenario"]),
            seed=value["seed"],
            conversation=Conversation.from_json(value["messages"]),
            end_reason=value["end_reason"],
            reward=value["reward"],
            fault=value.get("fault"),
            reasons=tuple(value.get("reasons", ())),
            judge_values=tuple(value.get("judge_values", ())),
            fingerprints=value.get("fingerprints", {}),
            calls=tuple(ModelCall(**call) for call in value.get("calls", ())),
            seconds=value.get("seconds"),
            role_seconds=value.get("role_seconds", {}),
        )


def read_transcripts(path: str | Path) -> Iterator[Transcript]:
    """Yield the transcripts of a JSONL file in order.

    A torn last line (no newline at its end: the writer was killed) is skipped; any other bad line is an error.

    Raises:
        MalformedFile: a complete line cannot be read; the message names the line.
    """
    path = Path(path)
    try:
        lines = path.open(encoding="utf-8", newline="\n")
    except OSError as error:
        raise MalformedFile(f"Cannot read transcripts from {path}: {error.strerror}.") from error
    with lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith("\n"):
                return
            try:
                yield Transcript.from_json(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise MalformedFile(f"{path}, line {number}: not a transcript ({error}).") from error


class TranscriptWriter:
    """Appends transcripts to a JSONL file; what was appended survives a kill.

    Use as a context manager. An existing file is continued, and `written` holds the keys it already has.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.written: set[tuple[str, int]] = set()
            if self.path.exists():
                cut_torn_line(self.path)
                self.written = {transcript.key for transcript in read_transcripts(self.path)}
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            if isinstance(error, MalformedFile):
                raise
            raise TranscriptError(f"Cannot write transcripts to {self.path}: {error.strerror or error}.") from error

    def append(self, transcript: Transcript) -> None:
        """Write one line and force it to disk.

        Raises:
            TranscriptError: the disk is full or the file is gone; earlier lines are intact.
        """
        line = json.dumps(transcript.to_json(), ensure_ascii=False, allow_nan=False) + "\n"
        data = memoryview(line.encode("utf-8"))
        start = os.fstat(self._file.fileno()).st_size
        try:
            while data:
                data = data[self._file.write(data) or 0 :]
            os.fsync(self._file.fileno())
        except OSError as error:
            _truncate_quietly(self._file.fileno(), start)
            raise TranscriptError(
                f"Cannot write to {self.path}: {error.strerror}. Conversations written before are intact; "
                "free some space and run the same command again to go on."
            ) from error
        self.written.add(transcript.key)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> TranscriptWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def text_hash(text: str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a text: names a prompt or rubric version."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file whole or not at all (temporary file, then rename)."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
        draft.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise TranscriptError(f"Cannot write {path}: {error.strerror}.") from error


def cut_torn_line(path: Path) -> None:
    """Remove what a killed writer has left behind the last line feed of a file."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        position = size
        while position > 0:
            step = min(4096, position)
            file.seek(position - step)
            block = file.read(step)
            if (found := block.rfind(b"\n")) >= 0:
                position = position - step + found + 1
                break
            position -= step
        if position < size:
            file.truncate(position)


def _truncate_quietly(descriptor: int, size: int) -> None:
    # The write already failed; a failing truncate must not hide that. The reader skips a torn line anyway.
    try:
        os.ftruncate(descriptor, size)
    except OSError:
        return
