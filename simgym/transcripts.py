"""The JSONL record of a conversation: one line, one transcript, and everything downstream reads it.

A transcript is a `Dialogue` (see `simgym.simulation`) with its provenance: the scenario with its hidden intent, the
messages, the judgement, why the conversation ended, every model call with its exact prompt, seed and token counts, and
the fingerprints (model, settings, prompt hashes) of assistant, simulator and judge. Lines are appended with flush and
fsync, so a killed run loses at most the line being written; a torn last line is cut off when the file is opened for
appending again. Numbers that do not exist are `null`, never NaN: strict JSON readers must be able to read every line.
"""

from __future__ import annotations

import hashlib
import json
import operator
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, get_args, overload

from simgym.conversation import Conversation, Scenario
from simgym.errors import ConfigurationError, MalformedFile, TranscriptError
from simgym.faults import Fault, parse_fault
from simgym.fingerprints import Fingerprint
from simgym.jsonl import PlacedValues, append_line, cut_torn_line
from simgym.notebooks import conversation_html
from simgym.output_files import is_special, lock_output, write_whole
from simgym.typed_json import describe, from_json

SCHEMA_VERSION = 1
"""Incremented when a field changes its meaning; readers refuse versions they do not know."""

LABELS_ENDING = "labels.jsonl"
"""How names of files of labels end, which may stand among transcripts; see `simgym.evaluation.labels`."""

EndReason = Literal["user_end", "turn_limit", "context_overflow", "simulator_fault", "judge_fault", "assistant_fault"]
"""Why a conversation stopped: the user left, the turns were used up, or somebody failed; see `simgym.simulation`."""

_END_REASONS: dict[str, EndReason] = {reason: reason for reason in get_args(EndReason)}

COMPLETE: frozenset[str] = frozenset({"user_end", "turn_limit"})
"""End reasons of conversations that count in means; all others are reported as exclusions."""


@dataclass(frozen=True, slots=True, kw_only=True)
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
    """The exact text returned, before any parsing, without the model's thoughts."""
    prompt_tokens: int
    """Tokens read."""
    completion_tokens: int
    """Tokens written."""
    fault: str | None = None
    """Why the output was not used, or None."""
    finish_reason: str | None = None
    """`stop`: the model ended; `length`: cut at its token limit; `fault`; None in older files and for judges."""
    reasoning: str = ""
    """What a reasoning model thought before `output`; nobody in the conversation saw it."""

    def to_json(self) -> dict[str, object]:
        value = asdict(self)
        if not self.reasoning:  # as with models that do not reason, and in older files
            del value["reasoning"]
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
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
    """The judges' score in [0, 1]; None when not judged or the judge failed."""
    fault: Fault | None = None
    """What went wrong, `kind: detail` in the file; None if nothing did. A text given here is read as one."""
    reasons: tuple[str, ...] = ()
    """What the judges said, one text a judge."""
    components: tuple[float, ...] = ()
    """What the reward is the mean of (several judges, checklist items, turns), `judge_values` in the file; empty for
    one judge alone."""
    fingerprints: Mapping[str, Fingerprint] = field(default_factory=dict)
    """Model, settings and prompt hashes under `assistant`, `simulator`, `judge`."""
    calls: tuple[ModelCall, ...] = ()
    """Every model call in order."""
    seconds: float | None = None
    """Wall time of the batch the conversation ran in, not of this conversation alone."""
    role_seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time by role; of a call for several conversations each has an equal share. Empty in older files."""
    schema_version: int = SCHEMA_VERSION
    """Version of this record."""
    user_reply: str | None = None
    """The user's latest turn, None in older files; of a user who left with a word, earlier versions have it here only,
    and neither assistant nor judge saw it."""
    leaving: bool = False
    """Whether the user left, with or without a word, rather than that the turns were used up. False in older files."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "fault", parse_fault(self.fault))

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the conversation within a file: scenario id and seed."""
        return (self.scenario.id, self.seed)

    @property
    def counts(self) -> bool:
        """Whether the reward may enter a mean."""
        return self.end_reason in COMPLETE and self.reward is not None

    @property
    def outcome(self) -> Outcome:
        """What became of it, without what was said."""
        return Outcome(
            scenario_id=sys.intern(self.scenario.id),  # read from files, equal words are many objects
            seed=self.seed,
            end_reason=_END_REASONS[self.end_reason],
            reward=self.reward,
            fault=None if self.fault is None else self.fault.without_detail(),
        )

    def tokens(self) -> dict[str, dict[str, int]]:
        """Tokens read and written, per role: `{"user": {"prompt": ..., "completion": ...}, ...}`."""
        return tokens_by_role(self.calls)

    def _repr_html_(self) -> str:  # what a notebook shows
        facts = {
            "environment": f"{self.env_id}, seed {self.seed}",
            "intent": self.scenario.goal,
            "end": self.end_reason,
            "reward": self.reward,
            "fault": self.fault,
            "judge": "\n".join(self.reasons) or None,
        }
        return conversation_html(((said.role, said.content) for said in self.conversation.messages), facts)

    def content_hash(self) -> str:
        """SHA-256 of scenario, seed, messages, end reason and reward: equal hashes, equal conversations."""
        what = [self.scenario.to_json(), self.seed, self.conversation.to_json(), self.end_reason, self.reward]
        return hashlib.sha256(json.dumps(what, sort_keys=True, ensure_ascii=True).encode()).hexdigest()

    def to_json(self) -> dict[str, object]:
        return {
            "schema_version": self.schema_version,
            "env_id": self.env_id,
            "scenario": self.scenario.to_json(),
            "seed": self.seed,
            "messages": self.conversation.to_json(),
            "end_reason": self.end_reason,
            "reward": self.reward,
            "user_reply": self.user_reply,
            **({"leaving": True} if self.leaving else {}),
            "fault": None if self.fault is None else str(self.fault),
            "reasons": list(self.reasons),
            "judge_values": list(self.components),
            "tokens": self.tokens(),
            "fingerprints": {role: dict(value) for role, value in self.fingerprints.items()},
            "calls": [call.to_json() for call in self.calls],
            "seconds": self.seconds,
            "role_seconds": dict(self.role_seconds),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Transcript:
        """Read what `to_json` gave.

        Raises:
            ConfigurationError: something else: another version, a missing key, a value of another type, a reward
                outside [0, 1].
        """
        if isinstance(value, Mapping):
            if (version := value.get("schema_version")) != SCHEMA_VERSION:
                raise ConfigurationError(
                    f"schema_version is {describe(version)}, this simgym reads {SCHEMA_VERSION}. Install the version "
                    "that wrote it."
                )
            value = _as_fields(value)
        transcript = from_json(cls, value, "transcript", extra="ignore")
        check_rewards(transcript.reward, *transcript.components)
        return transcript


def check_rewards(*rewards: float | None) -> None:
    """Refuse rewards, or components of one, that no judge can have given.

    Raises:
        ConfigurationError: a number is outside [0, 1].
    """
    if wrong := [reward for reward in rewards if reward is not None and not 0 <= reward <= 1]:
        raise ConfigurationError(f"A reward or one of its components is {wrong[0]}, expected a number in [0, 1].")


def tokens_by_role(calls: Iterable[ModelCall]) -> dict[str, dict[str, int]]:
    """Tokens that model calls have read (`prompt`) and written (`completion`), by role."""
    totals: dict[str, dict[str, int]] = {}
    for call in calls:
        of_role = totals.setdefault(call.role, {"prompt": 0, "completion": 0})
        of_role["prompt"] += call.prompt_tokens
        of_role["completion"] += call.completion_tokens
    return totals


def _as_fields(value: Mapping[str, object]) -> dict[str, object]:
    """A line under the names of the record's fields."""
    fields = {key: item for key, item in value.items() if key not in ("messages", "conversation", "components")}
    if "messages" in value:
        fields["conversation"] = {"messages": value["messages"]}
    if "judge_values" in value:
        fields["components"] = value["judge_values"]
    return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a conversation: all that most statistics need of it."""

    scenario_id: str
    """Of the scenario."""
    seed: int
    """Of the conversation."""
    end_reason: EndReason
    """Why it ended."""
    reward: float | None
    """The judges' score in [0, 1]; None when not judged or the judge failed."""
    fault: Fault | None
    """What went wrong, without its detail; None if nothing did."""

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the conversation within a file: scenario id and seed."""
        return (self.scenario_id, self.seed)

    @property
    def counts(self) -> bool:
        """Whether the reward may enter a mean."""
        return self.end_reason in COMPLETE and self.reward is not None


class StoredTranscripts(Sequence[Transcript]):
    """The conversations of a JSONL file, each once, read from their places whenever they are asked for.

    All lines are read and checked once, when it is made. What stays in memory is an `Outcome` and a place, some 200
    bytes a conversation, so that a run of any size can be counted, compared and shown in part. Indexing reads one
    conversation, iteration one after the other, and a slice is another `StoredTranscripts`.

    A torn last line (no newline at its end: the writer was killed) is skipped; any other bad line is an error. Of lines
    that hold the same conversation twice one is read; if a conversation was cut off by a fault and had again, the later
    line replaces the earlier one.
    """

    def __init__(self, path: str | Path) -> None:
        """Read and check all lines.

        Raises:
            MalformedFile: a complete line cannot be read, or two lines hold different conversations of one scenario
                and seed; the message names the lines.
        """
        self.path = Path(path)
        self.outcomes: list[Outcome] = []
        """What became of each, in order; nothing is read for it."""
        self._file = PlacedValues(path)
        self._places: list[int] = []
        lines: dict[tuple[str, int], tuple[int, int]] = {}
        for placed in self._file.scan():
            transcript = _as_transcript(placed.value, f"{path}, line {placed.line}")
            number, earlier = lines.get(transcript.key, (len(self), 0))
            lines[transcript.key] = (number, placed.line)
            if not earlier:
                self.outcomes.append(transcript.outcome)
                self._places.append(placed.place)
                continue
            complete = self.outcomes[number].end_reason in COMPLETE
            if complete and transcript.content_hash() != self[number].content_hash():
                raise MalformedFile(
                    f"{path}, lines {earlier} and {placed.line}: two conversations of scenario "
                    f"{transcript.scenario.id!r} with seed {transcript.seed}. Two runs were mixed; remove one of them."
                )
            self.outcomes[number], self._places[number] = transcript.outcome, placed.place

    def select(self, numbers: Iterable[int]) -> StoredTranscripts:
        """Those at these places in the order, from 0, as they are named."""
        chosen, numbers = copy(self), list(numbers)
        chosen.outcomes = [self.outcomes[number] for number in numbers]
        chosen._places = [self._places[number] for number in numbers]
        return chosen

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, number: int) -> Transcript: ...
    @overload
    def __getitem__(self, number: slice) -> StoredTranscripts: ...
    def __getitem__(self, number: int | slice) -> Transcript | StoredTranscripts:
        if isinstance(number, slice):
            return self.select(range(*number.indices(len(self))))
        return next(iter(self.select([range(len(self))[number]])))

    def __iter__(self) -> Iterator[Transcript]:
        for value, outcome in zip(self._file.read(self._places), self.outcomes, strict=True):
            transcript = _as_transcript(value, str(self.path))
            if transcript.key != outcome.key:
                raise MalformedFile(f"{self.path} was written anew while it was read. Run the same command again.")
            yield transcript

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"StoredTranscripts({str(self.path)!r}: {len(self)} conversations)"


def _as_transcript(value: Any, where: str) -> Transcript:
    try:
        return Transcript.from_json(value)
    except ConfigurationError as error:
        raise MalformedFile(f"{where}: not a transcript ({error}).") from error


def outcomes(transcripts: Iterable[Transcript]) -> list[Outcome]:
    """What became of conversations, in order; of those in a file nothing is read again."""
    if isinstance(transcripts, StoredTranscripts):
        return transcripts.outcomes
    return [transcript.outcome for transcript in transcripts]


def read_transcripts(path: str | Path) -> Iterator[Transcript]:
    """Yield the transcripts of a JSONL file in order, each conversation once, as `StoredTranscripts` says.

    The whole file is checked before the first one comes.

    Raises:
        MalformedFile: a complete line cannot be read, or two lines hold different conversations of one scenario and
            seed; the message names the lines.
    """
    yield from StoredTranscripts(path)


def transcript_files(source: str | Path) -> list[Path]:
    """Files of a run: itself, or those in the folder of a matrix or another one, by name, files of labels left out."""
    source = Path(source)
    if source.is_file():
        return [source]
    folder = source / "transcripts" if (source / "transcripts").is_dir() else source
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    return [file for file in files if not file.name.endswith(LABELS_ENDING)]


class TranscriptWriter:
    """Appends transcripts to a JSONL file; what was appended survives a kill.

    Use as a context manager: until it is closed, no other process can write the file. An existing file is continued,
    and `written` holds the keys it already has; a new one is created with its first line.
    """

    def __init__(self, path: str | Path) -> None:
        """Lock the file, and read what it has.

        Raises:
            OutputInUse: another process or thread is writing it.
            TranscriptError: it cannot be written.
            MalformedFile: it holds something else.
        """
        self.path = Path(path)
        self._file: IO[bytes] | None = None
        self.written: set[tuple[str, int]] = set()
        with ExitStack() as stack:
            stack.enter_context(lock_output(self.path))
            if not is_special(self.path) and self.path.exists():
                try:
                    cut_torn_line(self.path)
                except OSError as error:
                    raise TranscriptError(f"Cannot write transcripts to {self.path}: {error.strerror}.") from error
                self.written = {outcome.key for outcome in StoredTranscripts(self.path).outcomes}
            self._closing = stack.pop_all()

    def append(self, transcript: Transcript) -> None:
        """Write one line and force it to disk.

        Raises:
            TranscriptError: the disk is full or the file is gone; earlier lines are intact.
        """
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)  # where a folder above is what is locked
                self._file = self._closing.enter_context(self.path.open("ab", buffering=0))
            append_line(self._file, _as_line(transcript))
        except OSError as error:
            raise TranscriptError(
                f"Cannot write to {self.path}: {error.strerror}. Conversations written before are intact; "
                "free some space and run the same command again to go on."
            ) from error
        self.written.add(transcript.key)

    def close(self) -> None:
        self._closing.close()
        self._file = None

    def __enter__(self) -> TranscriptWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _as_line(transcript: Transcript) -> bytes:
    value = transcript.to_json()
    try:
        return (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, which UTF-8 cannot hold and JSON can
        return (json.dumps(value, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def text_hash(text: str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a text: names a version of a prompt, a task, a person."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def write_json(path: str | Path, value: object) -> None:
    """Write a JSON file whole or not at all.

    Raises:
        TranscriptError: it cannot be written.
    """
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
