"""Scenarios from `chitchat-dataset`: conversations between real people, each about a given question.

The wheel ships the data as one JSON file (MIT licence), which is read without importing the package. The person who
opens is the user and the other one takes the assistant's seat; messages that one person sends in a row are one turn,
joined by line breaks. The question that the two were given is the intent. The whole recorded conversation goes into
`Scenario.history`, and nothing is rewritten: real people misspell and trail off, which is the point. Conversations
that nobody answered, short ones and bare greetings are dropped, counted by reason.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simgym.conversation import INTENT_PREFIX, Message, Role, Scenario
from simgym.errors import MalformedFile
from simgym.plugins import optional_import
from simgym.seeding import derive_seed

SOURCE = "chitchat-dataset 0.9.0"
"""The release whose data the extra `chitchat` installs."""
FEWEST_OPENING_WORDS = 5
"""Many openings are a bare "Hi", which says nothing that an assistant could answer."""
FEWEST_TURNS = 4
"""Two of each person, since turns alternate."""
LONGEST_OPENING = 400
"""Characters."""
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class ChitchatScenarios:
    """What was read and what became of it."""

    scenarios: tuple[Scenario, ...]
    """In an order that does not depend on the topic (by a hash of the id)."""
    read: int
    """Conversations in the dataset."""
    dropped: Mapping[str, int]
    """Conversations that gave no scenario, by the first reason that applies; `read` = kept + dropped."""


def chitchat_scenarios(path: str | Path | None = None) -> ChitchatScenarios:
    """Read the dataset and make a scenario of every conversation that can serve as one.

    Args:
        path: The dataset's JSON file; None: the one in the installed package.

    Raises:
        MissingDependency: the package is not installed.
        MalformedFile: the file is not the dataset.
    """
    path = Path(path) if path is not None else _installed()
    try:
        conversations = json.loads(path.read_text(encoding="utf-8"))
        made = [(identifier, _scenario(identifier, value)) for identifier, value in conversations.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MalformedFile(
            f"{path} is not the chitchat dataset: {error}. Reinstall chitchat-dataset==0.9.0."
        ) from error
    made.sort(key=lambda pair: hashlib.sha256(pair[0].encode()).digest())
    return ChitchatScenarios(
        scenarios=tuple(outcome for _, outcome in made if isinstance(outcome, Scenario)),
        read=len(made),
        dropped=dict(Counter(outcome for _, outcome in made if isinstance(outcome, str))),
    )


def merge_turns(messages: Iterable[Iterable[Mapping[str, Any]]]) -> list[tuple[str, str]]:
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


def _scenario(identifier: str, value: Mapping[str, Any]) -> Scenario | str:
    """A scenario, or why there is none."""
    prompt = " ".join(str(value.get("prompt") or "").split())
    if not prompt:
        return "no question given"
    turns = merge_turns(value["messages"])
    if len({sender for sender, _ in turns}) > 2:
        return "more than two people"
    if any(_SURROGATE.search(text) for text in (prompt, *(text for _, text in turns))):
        return "lone surrogates"
    if len(turns) < FEWEST_TURNS:
        return f"fewer than {FEWEST_TURNS} turns"
    opening = turns[0][1]
    if len(_WORD.findall(opening)) < FEWEST_OPENING_WORDS:
        return f"opening of fewer than {FEWEST_OPENING_WORDS} words"
    if len(opening) > LONGEST_OPENING:
        return f"opening of more than {LONGEST_OPENING} characters"
    roles: tuple[Role, Role] = ("user", "assistant")
    return Scenario(
        id=f"chitchat-{identifier}",
        intent=f"{INTENT_PREFIX}chat about this question: {prompt}",
        opening=opening,
        persona_seed=derive_seed(0, identifier),
        source=SOURCE,
        history=tuple(Message(roles[number % 2], text) for number, (_, text) in enumerate(turns)),
    )


def _installed() -> Path:
    specification = importlib.util.find_spec("chitchat_dataset")
    if specification is None or specification.origin is None:
        optional_import("chitchat_dataset", "chitchat")  # raises the sentence that names the extra
        raise MalformedFile("chitchat_dataset has no files. Reinstall chitchat-dataset==0.9.0.")
    return Path(specification.origin).parent / "dataset.json"
