"""What leaves the store, and what the analysis reads: one JSON value per participant.

`export` makes them from events: no secret, no recruitment id, times in seconds since the participant opened the study,
and an id that says nothing. The fields of a conversation are those of the original study's app (`turns[]` with
`preference` in `model1`, `model2`, `tie`; `is_training`; `model1_name`, `model2_name`), so `read_records` reads either.
`participant_flow` counts how far people came.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from simgym.errors import ConfigurationError, MalformedFile
from simgym.jsonl import read_json, read_jsonl
from simgym.study.config import Study
from simgym.study.journey import Exchange, Journey, follow
from simgym.typed_json import describe, from_json
from simgym.words import count_words

if TYPE_CHECKING:
    from simgym.study.store import Store

ParticipantRecord = Mapping[str, Any]
"""What `export` or another app has written of a participant; `read_records` checks what the analysis reads."""
SCHEMA = "simgym-study-1"
"""Name of the format."""
STEPS = ("opened", "consented", "instructed", "task", "finished", "document", "completed")
"""Steps of the participant flow, in order."""
PREFERENCES = {"model1": 1.0, "model2": 0.0, "tie": 0.5}
"""Outcome of `model1`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One comparison of two assistants by one person."""

    participant: str
    """Whose; votes of a participant are dependent."""
    model1: str
    """First assistant."""
    model2: str
    """Second assistant."""
    outcome: float
    """1: the first is preferred, 0: the second, 0.5: neither."""
    turn: int
    """Which real exchange, from 1."""
    left: str | None
    """Which assistant was on the left; None if it is not recorded."""
    characters: tuple[int, int] | None
    """Lengths of both replies; None if they are not recorded."""
    flagged: bool = False
    """A reply gave away who wrote it."""


@dataclass(frozen=True, slots=True)
class Rating:
    """One rating of one assistant."""

    participant: str
    """Whose."""
    assistant: str
    """Which assistant."""
    rating: int
    """1 to 10."""


async def export(store: Store, *, texts: bool = True) -> list[dict[str, Any]]:
    """Everybody who has not withdrawn, in an order that says nothing; without `texts` there are lengths only."""
    meta = await store.meta()
    study = Study.model_validate(meta.settings)
    journeys = await store.journeys()
    records = [_record(follow(study, events), participant, meta.kind) for participant, events in journeys]
    records.sort(key=lambda record: str(record["participant"]))
    return records if texts else [_without_texts(record) for record in records]


def _record(journey: Journey, participant: str, kind: str) -> dict[str, object]:
    study = journey.study
    opened = journey.events[0].at
    known = {event.key: event for event in journey.events}
    task = known["task"].payload if "task" in known else {}
    conversations = [_conversation(journey, phase, opened) for phase in ("training", "turn") if journey.in_phase(phase)]
    pseudonym = hashlib.blake2b(f"{study.hash}/{participant}".encode(), digest_size=6).hexdigest()
    steps = {key: _passed(opened, known[key].at) for key in STEPS if key in known}
    if "completed" in steps:
        steps.setdefault("finished", steps["completed"])  # after the last possible exchange nobody has to say so
    return {
        "schema": SCHEMA,
        "study": study.name,
        "study_hash": study.hash,
        "kind": kind,
        "design": study.design,
        "participant": pseudonym,
        "steps": steps,
        "task": task.get("task"),
        "notes": task.get("notes"),
        "arm": list(journey.assignment.arm) if journey.assignment else None,
        "conversations": conversations,
        "rating": dict(known["rating"].payload) if "rating" in known else None,
        "document": known["document"].payload["text"] if "document" in known else None,
    }


def _conversation(journey: Journey, phase: str, opened: float) -> dict[str, object]:
    arm = journey.assignment.arm if journey.assignment else ()
    names = {f"model{number}_name": name for number, name in enumerate(arm, 1)}
    turns = [_turn(exchange, arm, opened) for exchange in journey.in_phase(phase)]
    return {"is_training": phase == "training", **names, "turns": turns}


def _turn(exchange: Exchange, arm: Sequence[str], opened: float) -> dict[str, Any]:
    turn: dict[str, Any] = {
        "turn": exchange.number,
        "message": exchange.message,
        "at": _passed(opened, exchange.message_at),
        "failures": exchange.failures,
    }
    by_name = {reply["assistant"]: reply for reply in exchange.replies}
    for number, name in enumerate(arm, 1):
        if name in by_name:
            turn[f"model{number}_response"] = by_name[name]["text"]
            turn[f"model{number}_characters"] = len(by_name[name]["text"])
            turn[f"model{number}_flags"] = list(by_name[name]["flags"])
    shown = [f"model{1 + arm.index(str(reply['assistant']))}" for reply in exchange.replies]
    if len(shown) == 2:
        turn["left"] = shown[0]
    if exchange.choice is not None and exchange.replies_at is not None and exchange.choice_at is not None:
        pick = exchange.choice["pick"]
        turn["pick"] = pick
        turn["preference"] = "tie" if pick == "tie" else shown[0 if pick == "left" else 1]
        turn["continued"] = shown[int(exchange.choice["continued"])]
        turn["reason"] = exchange.choice["reason"]
        turn["seconds_to_choice"] = _passed(exchange.replies_at, exchange.choice_at)
    return turn


def _passed(start: float, end: float) -> float | None:
    """Seconds between two events; None: the clock was set back between them (server restarted), so nobody knows."""
    return round(end - start, 3) if end >= start else None


_TEXTS = ("message", "model1_response", "model2_response", "reason", "notes", "document")


def _without_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: count_words(entry) if key in _TEXTS and isinstance(entry, str) else _without_texts(entry)
            for key, entry in value.items()
        }
    return [_without_texts(entry) for entry in value] if isinstance(value, list) else value


def as_json_lines(records: Iterable[Mapping[str, object]]) -> str:
    """A line a participant."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def read_records(path: str | Path) -> list[dict[str, object]]:
    """Participants from a file or folder: JSON lines, a JSON array, `{"participants": [...]}`, or one a file.

    Raises:
        MalformedFile: it cannot be read, or a value has no `conversations`; the message says where.
    """
    path = Path(path)
    if path.is_dir():
        return [record for file in sorted(path.glob("*.json*")) for record in read_records(file)]
    if path.suffix == ".jsonl":
        unit, values = "line", list(read_jsonl(path))
    else:
        whole = read_json(path)
        participants = whole.get("participants", [whole]) if isinstance(whole, dict) else whole
        entries = list(participants.values()) if isinstance(participants, dict) else participants
        if not isinstance(entries, list):
            raise MalformedFile(
                f"{path} is {describe(entries)}, expected participants: a list, or a JSON object of them."
            )
        unit, values = "participant", list(enumerate(entries, 1))
    for number, value in values:
        try:
            _check(value)
        except ConfigurationError as error:
            raise MalformedFile(f"{path}, {unit} {number}: {error}") from error
        value.setdefault("participant", value.get("participant_id", f"{path.stem}-{number}"))
    return [value for _, value in values]


def _check(value: object) -> None:
    """Refuse a participant whose record has another shape than the analysis reads; further keys are passed over."""
    record = from_json(_Participant, value, "participant", extra="ignore")
    if record.rating:
        from_json(_Rated, record.rating, "rating", extra="ignore")
    for at, conversation in enumerate(record.conversations):
        for number, turn in enumerate(
            from_json(_RecordedConversation, conversation, f"conversations[{at}]", extra="ignore").turns
        ):
            from_json(_Turn, turn, f"conversations[{at}].turns[{number}]", extra="ignore")


_Length = str | int | None
"""A text, or how many words it had in an export without texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """What the analysis reads of an exchange; whatever else an app records is passed over."""

    preference: Literal["model1", "model2", "tie"] | None = None
    """Whose reply was preferred; None: nothing was chosen."""
    turn: int = 1
    """Number of the exchange."""
    model1_name: str | int | None = None
    """Here, on the conversation or on the participant; the same for `model2_name`."""
    model2_name: str | int | None = None
    """Likewise."""
    model1_response: _Length = None
    """Reply of the first assistant."""
    model2_response: _Length = None
    """Reply of the second."""
    model1_characters: int | None = None
    """Its length."""
    model2_characters: int | None = None
    """Its length."""
    seconds_to_choice: float | None = None
    """From the replies to the choice; None: the clock was set back."""
    reason: _Length = None
    """Why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _RecordedConversation:
    """What it reads of a conversation."""

    turns: tuple[Mapping[str, object], ...]
    """In order."""
    model1_name: str | int | None = None
    """Who replies, unless the turns say so."""
    model2_name: str | int | None = None
    """Likewise."""


@dataclass(frozen=True, slots=True)
class _Rated:
    """The rating of the design with one assistant."""

    rating: int
    """1 to 10."""

    def __post_init__(self) -> None:
        if not 1 <= self.rating <= 10:
            raise ConfigurationError(f"A rating is {self.rating}, expected 1 to 10.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Participant:
    """What it reads of a participant."""

    conversations: tuple[Mapping[str, object], ...]
    """Practice and real ones."""
    participant: str | int = ""
    """Who it is; empty: named by the file."""
    participant_id: str | int = ""
    """What another app calls it."""
    model1_name: str | int | None = None
    """Who replies, unless the conversations say so."""
    model2_name: str | int | None = None
    """Likewise."""
    kind: str = "unknown"
    """`real`, `dry_run` or `synthetic`."""
    study_hash: str = ""
    """Of the study."""
    steps: Mapping[str, float | None] = field(default_factory=dict)
    """When each step was taken, seconds after the first."""
    document: _Length = None
    """The final text."""
    arm: tuple[str, ...] | None = None
    """Names of the assistants."""
    rating: Mapping[str, object] | None = None
    """In the design with one assistant."""


@dataclass(frozen=True, slots=True)
class Distinct:
    """Records without repetitions."""

    records: list[Mapping[str, object]]
    """One a participant, in the order in which they first came."""
    repeated: int
    """How many were left out, because the same participant came before or comes later with more."""


def distinct(records: Iterable[Mapping[str, object]]) -> Distinct:
    """Count nobody twice: a file that is given twice, or joined to itself, or an earlier export beside a later one.

    Of a participant of `simgym study` the record with the most events stays. Records of other apps are repeated only if
    they are equal in everything, their id included.
    """
    kept: dict[str, Mapping[str, object]] = {}
    total = 0
    for record in records:
        total += 1
        if record.get("schema") == SCHEMA:
            identity = json.dumps([record.get("study_hash"), record.get("kind"), record["participant"]], default=str)
        else:
            identity = json.dumps(record, sort_keys=True, default=str)
        before = kept.get(identity)
        if before is None or _progress(record) > _progress(before):
            kept[identity] = record
    return Distinct(list(kept.values()), total - len(kept))


def _progress(record: ParticipantRecord) -> tuple[int, int]:
    turns = [turn for talk in record["conversations"] for turn in talk["turns"]]
    return len(record.get("steps", ())), sum(len(turn) for turn in turns)


def votes_of(records: Iterable[ParticipantRecord]) -> list[Vote]:
    """All real choices, training left out."""
    return [
        _vote(record, talk, turn, int(turn.get("turn", real)))
        for record in records
        for talk in record["conversations"]
        for real, turn in enumerate(real_turns(record, talk), 1)
        if turn.get("preference") is not None
    ]


def real_turns(record: ParticipantRecord, talk: ParticipantRecord) -> list[ParticipantRecord]:
    """The exchanges of a participant's conversation that are no training."""
    return [turn for turn in talk["turns"] if not any(level.get("is_training") for level in (record, talk, turn))]


def _vote(record: ParticipantRecord, talk: ParticipantRecord, turn: ParticipantRecord, number: int) -> Vote:
    names = [str(_first(f"model{number}_name", turn, talk, record)) for number in (1, 2)]
    left = {"model1": names[0], "model2": names[1]}.get(str(turn.get("left")))
    lengths = [turn.get(f"model{number}_characters") for number in (1, 2)]
    if None in lengths:
        replies = [turn.get(f"model{number}_response") for number in (1, 2)]
        lengths = [len(reply) if isinstance(reply, str) else None for reply in replies]
    characters = None if None in lengths else (int(lengths[0] or 0), int(lengths[1] or 0))
    return Vote(
        participant=str(record["participant"]),
        model1=names[0],
        model2=names[1],
        outcome=PREFERENCES[turn["preference"]],
        turn=number,
        left=left,
        characters=characters,
        flagged=bool(turn.get("model1_flags") or turn.get("model2_flags")),
    )


def _first(name: str, *levels: Mapping[str, object]) -> object:
    for level in levels:
        if level.get(name) is not None:
            return level[name]
    raise MalformedFile(f"A turn with a preference has no {name}, on itself, its conversation or its participant.")


def ratings_of(records: Iterable[ParticipantRecord]) -> list[Rating]:
    """All ratings of the design with one assistant."""
    return [
        Rating(str(record["participant"]), str(record["arm"][0]), int(record["rating"]["rating"]))
        for record in records
        if record.get("rating") and record.get("arm")
    ]


def participant_flow(records: Sequence[ParticipantRecord], *, withdrawn: int = 0) -> dict[str, int]:
    """How many took each step, in order; `withdrawn` are not among them."""
    timed = [record["steps"] for record in records if "steps" in record]
    if not timed:
        return {"records": len(records)}
    flow = {step: sum(step in steps for steps in timed) for step in STEPS}
    if not any("document" in steps for steps in timed):
        flow.pop("document")
    return {**flow, "withdrawn": withdrawn}
