"""`chitchat-dataset`: conversations between real people, each about a given question.

The wheel ships the data as one JSON file (MIT licence), which is read without importing the package. The person who
opens is the user and the other one takes the assistant's seat; messages that one person sends in a row are one turn,
joined by line breaks. The question that the two were given is the intent. Nothing is rewritten: real people misspell
and trail off, which is the point. Conversations that nobody answered and short ones are dropped; a scenario also needs
an opening of some words. What is dropped is counted by reason.

The conversations are split by user like any other log (`splits.assign_users`), so that a simulator trained on the
train split can be measured on people whose turns it has not learned. Users are those who open: a person of the test
split can sit in the assistant's seat of a train conversation, where a simulator reads the words but is not trained to
write them. `chitchat_strangers` are the people to whom not even that applies.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simgym.conversation import INTENT_PREFIX, Conversation, Message, Role, Scenario, has_surrogates
from simgym.data.foreign_rows import LogRow
from simgym.data.logged import LoggedConversation, unusable
from simgym.data.openings import scenario_of, unusable_opening
from simgym.data.splits import SPLITS, assign_users
from simgym.errors import ConfigurationError, MalformedFile
from simgym.extras import optional_import
from simgym.jsonl import read_json
from simgym.transcripts import text_hash

SOURCE = "chitchat-dataset 0.9.0"
"""The release whose data the extra `chitchat` installs."""
FEWEST_TURNS = 4
"""Two of each person, since turns alternate."""


@dataclass(frozen=True, slots=True)
class ChitchatScenarios:
    """What was read and what became of it."""

    scenarios: tuple[Scenario, ...]
    """In an order that does not depend on the topic (by a hash of the id)."""
    read: int
    """Conversations that were read: all of the dataset, or as many as a limit needs."""
    dropped: Mapping[str, int]
    """Conversations that gave no scenario, by the first reason that applies; `read` = kept + dropped."""


@dataclass(frozen=True, slots=True)
class ChitchatConversations:
    """The conversations that can be learned from, and what became of the others."""

    conversations: tuple[LoggedConversation, ...]
    """With their intents, in an order that does not depend on the topic (by a hash of the id)."""
    skipped: Mapping[str, str]
    """Why each of the others was left out, by id."""
    partners: Mapping[str, str]
    """User key of the person in the assistant's seat, by id of the conversation."""


def chitchat_conversations(path: str | Path | None = None) -> ChitchatConversations:
    """Read the dataset.

    Args:
        path: The dataset's JSON file; None: the one in the installed package.

    Raises:
        MissingDependency: the package is not installed.
        MalformedFile: the file is not the dataset.
    """
    conversations: list[LoggedConversation] = []
    skipped: dict[str, str] = {}
    partners: dict[str, str] = {}
    for entry in _entries(path):
        if entry.logged is None:
            skipped[entry.id] = entry.reason
        else:
            conversations.append(entry.logged)
            partners[entry.id] = text_hash(entry.partner)
    return ChitchatConversations(tuple(conversations), skipped, partners)


def chitchat_scenarios(
    path: str | Path | None = None, *, split: str | None = None, limit: int | None = None
) -> ChitchatScenarios:
    """Make a scenario of every conversation that can serve as one.

    Args:
        path: As for `chitchat_conversations`.
        split: `train`, `validation` or `test` (by user, see `chitchat_splits`); None: all. What belongs to another
            split is counted among the dropped.
        limit: Stop when there are so many; what comes behind is neither read nor counted. None: never.

    Raises:
        ConfigurationError: there is no such split.
        MissingDependency, MalformedFile: as for `chitchat_conversations`.
    """
    if split is not None and split not in SPLITS:
        raise ConfigurationError(f"chitchat has no split {split!r}. Known: {', '.join(SPLITS)}.")
    wanted = None  # all
    if split is not None:
        wanted = {logged.id for logged in chitchat_splits(chitchat_conversations(path).conversations)[split]}
    scenarios: list[Scenario] = []
    read, dropped = 0, Counter[str]()
    for entry in _entries(path):
        if len(scenarios) == limit:
            break
        read += 1
        if entry.logged is None:
            dropped[entry.reason] += 1
        elif wanted is not None and entry.id not in wanted:
            dropped["another split"] += 1
        elif reason := unusable_opening(entry.logged.conversation.messages[0].content):
            dropped[reason] += 1
        else:
            scenarios.append(scenario_of(entry.logged, SOURCE))
    return ChitchatScenarios(tuple(scenarios), read, dict(dropped))


def chitchat_splits(conversations: Sequence[LoggedConversation]) -> dict[str, list[LoggedConversation]]:
    """The conversations by split, no user in two, in unchanged order; what the shipped simulator was trained on."""
    split_of = assign_users((logged.id, logged.user_key, logged.country) for logged in conversations).split_of
    return {name: [logged for logged in conversations if split_of[logged.user_key] == name] for name in SPLITS}


def chitchat_strangers(data: ChitchatConversations) -> set[str]:
    """User keys of the test split who sit in neither seat of any train conversation."""
    splits = chitchat_splits(data.conversations)
    met = {logged.user_key for logged in splits["train"]} | {data.partners[logged.id] for logged in splits["train"]}
    return {logged.user_key for logged in splits["test"]} - met


def merge_turns(messages: Iterable[Iterable[LogRow]]) -> list[tuple[str, str]]:
    """Sender and text of each turn.

    Consecutive messages by one sender are joined by a line break, also across the groups of the file: groups alternate
    between the two people in release 0.9.0, but dropping a blank message can bring two of one person together.
    """
    turns: list[tuple[str, str]] = []
    for message in (message for group in messages for message in group):
        text, sender = str(message["text"]).strip(), str(message["sender"])
        if not text:
            continue
        if turns and turns[-1][0] == sender:
            turns[-1] = (sender, f"{turns[-1][1]}\n{text}")
        else:
            turns.append((sender, text))
    return turns


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A conversation of the dataset."""

    id: str
    """As `LoggedConversation.id`."""
    logged: LoggedConversation | None = None
    """What can be learned from; None if nothing."""
    reason: str = ""
    """Why it is left out."""
    partner: str = ""
    """The person in the assistant's seat."""


def _entries(path: str | Path | None) -> Iterator[_Entry]:
    """The dataset's conversations in their fixed order, each made as it is asked for."""
    path = Path(path) if path is not None else _installed()
    try:
        values = read_json(path)
        for identifier in sorted(values, key=lambda identifier: hashlib.sha256(identifier.encode()).digest()):
            yield _entry(identifier, values[identifier])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MalformedFile(
            f"{path} is not the chitchat dataset: {error}. Reinstall chitchat-dataset==0.9.0."
        ) from error


def _entry(identifier: str, value: LogRow) -> _Entry:
    """A conversation, or why it is left out."""
    turns = merge_turns(value["messages"]) if str(value.get("prompt") or "").strip() else []
    outcome = _logged(identifier, value, turns)
    if isinstance(outcome, str):
        return _Entry(id=f"chitchat-{identifier}", reason=outcome)
    return _Entry(id=outcome.id, logged=outcome, partner=turns[1][0])


def _logged(identifier: str, value: LogRow, turns: Sequence[tuple[str, str]]) -> LoggedConversation | str:
    prompt = " ".join(str(value.get("prompt") or "").split())
    if not prompt:
        return "no question given"
    if len({sender for sender, _ in turns}) > 2:
        return "more than two people"
    if has_surrogates(prompt):
        return "lone surrogates"
    if len(turns) < FEWEST_TURNS:
        return f"fewer than {FEWEST_TURNS} turns"
    roles: tuple[Role, Role] = ("user", "assistant")
    talk = Conversation(tuple(Message(roles[number % 2], text) for number, (_, text) in enumerate(turns)))
    return unusable(talk) or LoggedConversation(
        id=f"chitchat-{identifier}",
        user_key=text_hash(turns[0][0]),
        country="",
        language="English",
        conversation=talk,
        intent=f"{INTENT_PREFIX}chat about this question: {prompt}",
    )


def _installed() -> Path:
    specification = importlib.util.find_spec("chitchat_dataset")
    if specification is None or specification.origin is None:
        optional_import("chitchat_dataset", "chitchat")  # raises the sentence that names the extra
        raise MalformedFile("chitchat_dataset has no files. Reinstall chitchat-dataset==0.9.0.")
    return Path(specification.origin).parent / "dataset.json"
