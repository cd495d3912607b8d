"""Conversations of people with assistants, with what the people thought of them.

A row is a logged conversation in the columns of WildChat whose `annotations` name the assistant (`model`) and hold a
rating, as in SimulatorArena (arXiv 2510.05444). Rows that cannot be used are left out and counted by reason: the log of
a study is data, and one bad row must not cost the rest. The same person is known by `annotations.person` or
`hashed_ip`; where neither is recorded every conversation is a person of its own.

Labels of `simgym view --web` are ratings, too: of two conversations the better one has 1, the other 0, and each of a
tie 1/2.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from simgym.conversation import INTENT_PREFIX, Conversation, Scenario, has_surrogates
from simgym.errors import ConfigurationError, MalformedFile
from simgym.evaluation._counted_rows import drawn, read_counted
from simgym.evaluation.agreement import PeopleRating, Reward
from simgym.evaluation.labels import holds_labels, labels_that_count
from simgym.evaluation.run_file import RunFile
from simgym.faults import Fault
from simgym.jsonl import read_jsonl
from simgym.judges.base import Judge
from simgym.rollout.outages import ask_in_batches
from simgym.seeding import derive_seed
from simgym.transcripts import text_hash

RATING_KEYS = ("rating", "overall_rating", "overall_interaction_rating")
"""Where a rating is looked for in `annotations`, in this order."""
SCALE = (1.0, 10.0)
"""Smallest and largest rating."""


@dataclass(frozen=True, slots=True)
class RatedConversation:
    """A conversation and what the person in it thought of the assistant."""

    scenario: Scenario
    """What the person wanted, as far as it is written down."""
    conversation: Conversation
    """Of user and assistant."""
    rating: PeopleRating
    """Its `item` is the scenario's id."""


@dataclass(frozen=True, slots=True)
class JudgeScore:
    """What a judge gave a conversation, as it is kept in a file."""

    key: str
    """Hash of the conversation and what the person wanted."""
    score: float | None
    """In [0, 1]; None when the judge failed."""
    fault: str | None
    """Why there is no score."""


@dataclass(frozen=True, slots=True)
class RatedConversations:
    """The usable rows of a file."""

    conversations: tuple[RatedConversation, ...]
    """In the order of the file."""
    left_out: Mapping[str, int]
    """Rows by why they are not used."""


def read_rated_conversations(
    path: str | Path,
    *,
    keys: Sequence[str] = RATING_KEYS,
    scale: tuple[float, float] = SCALE,
    limit: int | None = None,
    seed: int = 0,
) -> RatedConversations:
    """The rated conversations in a log.

    Args:
        path: JSONL with `conversation`, `annotations`, and optionally `conversation_hash`, `intent` and `hashed_ip`; or
            labels, for which neither `keys` nor `scale` matters.
        keys: Where the rating is looked for in `annotations`; the first that is there counts.
        scale: Smallest and largest rating.
        limit: Take so many, drawn by the seed; None: all.
        seed: Of the drawing.

    Raises:
        ConfigurationError: there is no such file, or no row in it can be used; the message counts the reasons.
        MalformedFile: a line is not JSON.
    """
    rated = _labelled(path) if holds_labels(path) else _annotated(path, keys, scale)
    return RatedConversations(tuple(drawn(rated.conversations, limit, seed, "rated")), rated.left_out)


def _annotated(path: str | Path, keys: Sequence[str], scale: tuple[float, float]) -> RatedConversations:
    keys_named = ", ".join(keys)
    seen: set[str] = set()

    def read_row(row: Mapping[str, object], number: int) -> RatedConversation | str:
        """The row, unless it is there twice: somebody who counts twice would make the intervals too narrow."""
        entry = _read_row(row, f"{Path(path).stem}-{number}", keys, scale)
        if isinstance(entry, str):
            return entry
        content = text_hash(json.dumps([row["conversation"], row["annotations"], row.get("hashed_ip")], sort_keys=True))
        if content in seen:
            return "repeated"
        seen.add(content)
        return entry

    kept, left_out = read_counted(
        path,
        read_row,
        what="rated conversation",
        expected=f"annotations with model and one of {keys_named}, from {scale[0]:g} to {scale[1]:g}",
    )
    return RatedConversations(kept, left_out)


def has_annotations(path: str | Path) -> bool:
    """Whether a file holds logged conversations with annotations, or labels, by its first line."""
    if holds_labels(path):
        return True
    if not Path(path).is_file():
        return False
    try:
        _, row = next(iter(read_jsonl(path)))
    except (StopIteration, MalformedFile):
        return False
    return isinstance(row, Mapping) and "conversation" in row and "annotations" in row


def judge_rated(
    judge: Judge,
    rated: Sequence[RatedConversation],
    *,
    seed: int = 0,
    batch_size: int = 16,
    path: str | Path | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> tuple[list[Reward], dict[str, int]]:
    """A judge's rewards of N conversations, and its failures by kind.

    Args:
        judge: Who grades them; conversations of similar length together, so that a model pads little.
        rated: The conversations.
        seed: Of the judge.
        batch_size: Conversations per call.
        path: JSONL file of scores to write, or to complete; one of other conversations is completed, too. None: none.
        advance: Told how many more are done.

    Raises:
        ConfigurationError: the file was made by another judge, or with another seed.
    """
    rewards: list[Reward] = []
    faults: Counter[str] = Counter()
    keys = [_content_key(entry) for entry in rated]
    with RunFile(path, {"judge": judge.fingerprint(), "seed": seed}, JudgeScore) as file:
        done = {key for key, row in file.rows.items() if not Fault.parse(row.get("fault") or "").is_outage}
        pending = [(key, entry) for key, entry in dict(zip(keys, rated, strict=True)).items() if key not in done]
        pending.sort(key=lambda item: sum(len(message.content) for message in item[1].conversation.messages))
        advance(len(rated) - len(pending))

        def ask(batch: Sequence[tuple[str, RatedConversation]]) -> Iterator[JudgeScore]:
            judgements = judge.judge(
                [entry.scenario for _, entry in batch],
                [entry.conversation for _, entry in batch],
                seeds=[derive_seed(seed, "agree", entry.scenario.id) for _, entry in batch],
            )
            for (key, _), judgement in zip(batch, judgements, strict=True):
                yield JudgeScore(key, judgement.score, judgement.fault)

        parts = [("judge", judge)]
        for _, score in ask_in_batches(ask, pending, batch_size=batch_size, noun="conversations", parts=parts):
            file.append(asdict(score))
            advance(1)
        for key, entry in zip(keys, rated, strict=True):
            row = file.rows[key]
            if row["score"] is None:
                faults[(row["fault"] or "unknown").partition(":")[0]] += 1
            else:
                rewards.append(Reward(entry.rating.system, row["score"], entry.rating.item))
    return rewards, dict(faults)


def _content_key(rated: RatedConversation) -> str:
    """The same for the same conversation and wish, in whatever file."""
    turns = [(message.role, message.content) for message in rated.conversation.messages]
    return text_hash(json.dumps([rated.scenario.id, rated.scenario.intent, turns]))


def _labelled(path: str | Path) -> RatedConversations:
    labels = labels_that_count(path)
    left_out = dict(labels.unpaired())
    if not labels.preferences:
        listed = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise ConfigurationError(f"{path} has no label that compares two conversations ({listed}).")
    rated = []
    for label in labels.preferences:
        won = {"better": 1.0, "worse": 0.0, "tie": 0.5}[str(label.answer)]
        for entry, value in zip(label.conversations, (won, 1 - won), strict=True):
            rating = PeopleRating(label.person, entry.assistant, value, entry.key)
            rated.append(RatedConversation(entry.scenario, entry.conversation, rating))
    return RatedConversations(tuple(rated), left_out)


def _read_row(
    row: Mapping[str, object], fallback: str, keys: Sequence[str], scale: tuple[float, float]
) -> RatedConversation | str:
    """The row, or why it cannot be used."""
    annotations = row.get("annotations")
    if not isinstance(annotations, Mapping):
        return "without annotations"
    system = annotations.get("model")
    if not isinstance(system, str) or not system:
        return "without the assistant's name"
    value = next((annotations[key] for key in keys if annotations.get(key) is not None), None)
    if value is None:
        return "without rating"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "rating is not a number"
    if not scale[0] <= value <= scale[1]:
        return f"rating outside {scale[0]:g} to {scale[1]:g}"
    talk = _conversation(row.get("conversation"))
    if isinstance(talk, str):
        return talk
    key = str(row.get("conversation_hash") or fallback)
    intent = str(annotations.get("intent") or row.get("intent") or "").removeprefix(INTENT_PREFIX)
    opening = talk.said_by("user")[0]
    wants = " ".join((intent or opening).split())[:2000]
    person = str(annotations.get("person") or row.get("hashed_ip") or key)
    return RatedConversation(
        Scenario(key, INTENT_PREFIX + wants, opening=opening), talk, PeopleRating(person, system, float(value), key)
    )


def _conversation(turns: object) -> Conversation | str:
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        return "without conversation"
    roles = [turn.get("role") for turn in turns]
    if any(role not in ("system", "user", "assistant") for role in roles):
        return "with turns of tools"
    texts = [turn.get("content") for turn in turns]
    if not all(isinstance(text, str) for text in texts):
        return "with a turn that is not a text"
    if has_surrogates("".join(texts)):  # no tokenizer takes one
        return "not Unicode"
    talk = Conversation()
    for role, text in zip(roles, texts, strict=True):
        talk = talk.add(role, text)  # type: ignore[arg-type]  # checked above
    if not any(text.strip() for text in talk.said_by("user")):
        return "without user"
    if not any(text.strip() for text in talk.said_by("assistant")):
        return "without assistant"
    return talk if talk.said_by("user")[0].strip() else "with an empty opening"
