"""What a person who read conversations thought of them: one JSON line a label, and everything downstream reads it.

Somebody who has two conversations of the same scenario side by side (two assistants, or two forks) says whether the
first is `better` or `worse` than the second, or that neither is (`tie`); of a single conversation they say whether
its user was `human` or `simulated`. `simgym view --web` writes such lines. Each holds the conversations themselves, so
that a label means the same when the run is gone. `simgym judge validate`, `simgym agree` and `simgym labels` read them.

Lines are only ever appended. Of the labels of one person about the same conversations the last counts, and one without
an answer takes it back. A label that was given while names, rewards and model calls were in sight is not `blind`: it
may repeat what the judge said, or what the simulator is called, so figures leave it out and count it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from simgym.conversation import Conversation, Message, Scenario
from simgym.errors import ConfigurationError, MalformedFile, TranscriptError
from simgym.jsonl import append_line, cut_torn_line, read_jsonl
from simgym.output_files import is_special, lock_output
from simgym.transcripts import text_hash
from simgym.typed_json import from_json

SCHEMA = "simgym-label-1"
"""Name of the format, in every line."""
ANSWERS = {"preference": ("better", "worse", "tie"), "origin": ("human", "simulated")}
"""Answers by kind of label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledConversation:
    """A conversation as it was shown."""

    scenario: Scenario
    """What the user wanted, without the recorded conversation that it was made from."""
    seed: int
    """Of the conversation."""
    env_id: str
    """Environment id of the simulator."""
    assistant: str
    """Name of the assistant, as in the matrix."""
    messages: tuple[Message, ...]
    """What was said."""
    human: bool = False
    """Whether a person was the user."""

    @property
    def conversation(self) -> Conversation:
        """What was said."""
        return Conversation(self.messages)

    @property
    def key(self) -> str:
        """Equal for conversations that are the same in everything but what became of them."""
        said = [message.to_json() for message in self.messages]
        return conversation_key(self.assistant, self.env_id, self.scenario.id, self.seed, said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What one person said of one conversation, or of two."""

    kind: Literal["preference", "origin"]
    """`preference`: which of two conversations is better; `origin`: whether the user of one is a person."""
    answer: Literal["better", "worse", "tie", "human", "simulated"] | None
    """Preference: what the first conversation is beside the second. None takes an earlier label back."""
    person: str
    """Who says so; labels of a person are dependent."""
    at: str
    """When, ISO 8601 with offset."""
    blind: bool
    """Whether names, rewards, reasons and model calls were hidden."""
    conversations: tuple[LabelledConversation, ...]
    """One, or two of the same scenario, the first on the left."""
    schema: str = SCHEMA
    """Name of the format."""

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ConfigurationError(
                f"schema is {self.schema!r}, expected {SCHEMA!r}. Install the version that wrote it."
            )
        if self.answer is not None and self.answer not in ANSWERS[self.kind]:
            raise ConfigurationError(
                f"The answer of a label of kind {self.kind} is {self.answer!r}, expected one of "
                f"{', '.join(ANSWERS[self.kind])}, or null."
            )
        if len(self.conversations) != (expected := 2 if self.kind == "preference" else 1):
            raise ConfigurationError(f"The label is of {len(self.conversations)} conversations, expected {expected}.")
        if len({entry.scenario.id for entry in self.conversations}) > 1:
            raise ConfigurationError("The label compares conversations of two scenarios, expected one and the same.")
        if not self.person.strip():
            raise ConfigurationError("The label does not say whose it is.")

    @property
    def subject(self) -> tuple[str, ...]:
        """Kind, person, and the keys of the conversations whatever their order: what a later label replaces."""
        return (self.kind, self.person, *sorted(entry.key for entry in self.conversations))

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        value["conversations"] = [
            {
                **asdict(entry),
                "scenario": replace(entry.scenario, history=()).to_json(),
                "messages": [message.to_json() for message in entry.messages],
            }
            for entry in self.conversations
        ]
        return {"schema": value.pop("schema"), **value}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Label:
        """Read what `to_json` gave; raises ConfigurationError if it is something else."""
        return from_json(cls, value, "label", extra="ignore")


def conversation_key(
    assistant: str, env_id: str, scenario_id: str, seed: int, messages: Sequence[Mapping[str, str]]
) -> str:
    """See `LabelledConversation.key`."""
    return text_hash(json.dumps([assistant, env_id, scenario_id, seed, list(messages)]))


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a file that count."""

    preferences: tuple[Label, ...]
    """Of kind `preference`, in the order of the file; ties are among them."""
    origins: tuple[Label, ...]
    """Of kind `origin`."""
    left_out: Mapping[str, int]
    """Lines that do not count, by reason."""

    def unpaired(self) -> Counter[str]:
        """Lines that say nothing of two conversations, by reason: those left out, and those of kind `origin`."""
        return Counter(self.left_out) + Counter({"of the user, not of two conversations": len(self.origins)})


def holds_labels(path: str | Path) -> bool:
    """Whether a file holds labels, by its first line."""
    if not Path(path).is_file() or is_special(path):
        return False
    try:
        _, row = next(iter(read_jsonl(path, allow_nan=True, errors="surrogateescape")))
    except (StopIteration, MalformedFile):
        return False
    return isinstance(row, Mapping) and str(row.get("schema", "")).startswith("simgym-label-")


def read_labels(path: str | Path) -> list[Label]:
    """All lines of a file of labels, in order; a torn last line is left out, for its writer was killed.

    Raises:
        MalformedFile: a line is not a label; the message names it.
    """
    labels = []
    for number, value in read_jsonl(path, torn="skip"):
        try:
            labels.append(Label.from_json(value))
        except ConfigurationError as error:
            raise MalformedFile(f"{path}, line {number}: not a label ({error})") from error
    return labels


def standing_labels(labels: Iterable[Label]) -> list[Label]:
    """The last label of each person about each subject, without those that were taken back."""
    last: dict[tuple[str, ...], Label] = {}
    for label in labels:
        last.pop(label.subject, None)  # a later label stands where it was given
        last[label.subject] = label
    return [label for label in last.values() if label.answer is not None]


def labels_that_count(path: str | Path) -> Labels:
    """What figures may be made of.

    Raises:
        MalformedFile: a line is not a label; the message names it.
    """
    labels = read_labels(path)
    standing = standing_labels(labels)
    blind = [label for label in standing if label.blind]
    reasons = {"replaced or taken back": len(labels) - len(standing), "not blind": len(standing) - len(blind)}
    return Labels(
        tuple(label for label in blind if label.kind == "preference"),
        tuple(label for label in blind if label.kind == "origin"),
        {reason: count for reason, count in reasons.items() if count},
    )


def append_label(path: str | Path, label: Label) -> None:
    """Write one line and force it to disk.

    Raises:
        OutputInUse: another process is writing the file at this moment.
        TranscriptError: it cannot be written; earlier lines are intact.
    """
    path = Path(path)
    line = (json.dumps(label.to_json(), ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")
    with lock_output(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                cut_torn_line(path)
            with path.open("ab", buffering=0) as file:
                append_line(file, line)
        except OSError as error:
            raise TranscriptError(
                f"Cannot write to {path}: {error.strerror}. Labels given before are intact."
            ) from error
