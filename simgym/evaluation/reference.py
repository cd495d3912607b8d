"""Moments of real conversations at which it was the user's turn, and what the person did: said something, or left.

They are the yardstick of realism: a simulator is put in the person's place with the same intent and the same history,
so that what it says can be compared with what the person said, turn by turn. People are held-out ones: give the
conversations of a test split. Per conversation there are the first turn, the moment the person left (where the log
ends with the assistant; a log that ends with the user does not tell), and a few turns in between, drawn by a seed and
weighted by how many they stand for.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simgym.conversation import Conversation, Scenario
from simgym.data.log_formats import LOG_FORMATS, import_log
from simgym.data.logged import LoggedConversation, read_logged, unusable
from simgym.data.openings import scenario_of, unusable_intent
from simgym.data.splits import SPLITS
from simgym.data.topics import with_topic
from simgym.errors import ConfigurationError
from simgym.seeding import generator
from simgym.transcripts import text_hash

LONGEST_HISTORY = 3000
"""Characters of the history of a moment; later moments of a conversation are left out."""
LONGEST_TURN = 2000
"""Characters of what the person said; moments at which a person pasted more are left out."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One point of a logged conversation at which it is the user's turn."""

    scenario: Scenario
    """Intent and recorded conversation."""
    history: Conversation
    """What was said before; empty, or ends with the assistant."""
    said: str | None
    """What the person said; None: the person left."""
    person: str
    """Key of the person: moments of one person depend on each other."""
    weight: float = 1.0
    """How many moments of the conversation this one stands for: every departure is used, but only some of the turns in
    between, so shares of moments must weigh them."""

    @property
    def key(self) -> str:
        """Identifies the moment within a reference: scenario id and number of the user turn, from 0."""
        return f"{self.scenario.id}#{len(self.history.said_by('user'))}"


@dataclass(frozen=True, slots=True)
class Reference:
    """The human side of a comparison."""

    source: str
    """Where the conversations come from."""
    moments: tuple[Moment, ...]
    """First turns, later turns and departures, conversation by conversation."""
    conversations: int
    """Conversations that the moments come from."""
    people: int
    """Different people among them."""
    left_out: int
    """Conversations that were not usable or had no intent."""

    @property
    def first(self) -> list[Moment]:
        """Those at which the conversation begins."""
        return [moment for moment in self.moments if not moment.history.messages]

    @property
    def later(self) -> list[Moment]:
        """Those with a history, departures included."""
        return [moment for moment in self.moments if moment.history.messages]

    def content_hash(self) -> str:
        """Changes with anything a simulator is shown or compared with."""
        rows = [[moment.key, moment.scenario.intent, moment.history.to_json(), moment.said] for moment in self.moments]
        return text_hash(json.dumps(rows))


def load_reference(source: str, *, conversations: int = 50, later_turns: int = 3, seed: int = 0) -> Reference:
    """The human reference of a data set.

    Args:
        source: `chitchat` (its test split: people whose turns the shipped simulator was not trained to write),
            `chitchat:SPLIT`; a file of `simgym data` with intents, such as the `test.jsonl` of `simgym data split`;
            or `FORMAT:FILE`, a log in one of `data.LOG_FORMATS` (`mirrorbench:...`, `simulatorarena:...`,
            `oasst:...`), whose intents are its own descriptions or else the topics of the openings.
        conversations: Use so many, drawn by the seed, a conversation of everybody before the second of anybody; fewer
            if there are not as many.
        later_turns: Moments per conversation in which the person went on talking.
        seed: Decides which.

    Raises:
        ConfigurationError: there is no such source, or nothing usable in it.
    """
    name, _, split = source.partition(":")
    if name in LOG_FORMATS and split:
        logged, title = _foreign(name, split), f"{Path(split).name}, {name}"
    elif name == "chitchat":
        from simgym.data.chitchat import chitchat_conversations, chitchat_splits

        if (split or "test") not in SPLITS:
            raise ConfigurationError(f"chitchat has no split {split!r}. Known: {', '.join(SPLITS)}.")
        logged = chitchat_splits(chitchat_conversations().conversations)[split or "test"]
        title = f"chitchat-dataset, {split or 'test'} split"
    else:
        if not Path(source).is_file():
            raise ConfigurationError(
                f"The reference {source!r} is neither chitchat nor a file. Give the test.jsonl of `simgym data split`, "
                f"with intents, or FORMAT:FILE with one of {', '.join(LOG_FORMATS)}."
            )
        logged, title = list(read_logged(source)), Path(source).name
    return make_reference(logged, title, conversations=conversations, later_turns=later_turns, seed=seed)


def _foreign(format: str, source: str) -> list[LoggedConversation]:
    """The usable conversations of a log in another format, with intents by rule."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference.jsonl"
        import_log(source, path, format=format)
        return [with_topic(logged) for logged in read_logged(path)]


def make_reference(
    logged: Sequence[LoggedConversation], source: str, *, conversations: int, later_turns: int, seed: int
) -> Reference:
    """The human reference of logged conversations with intents; arguments as for `load_reference`."""
    usable = [
        conversation
        for conversation in logged
        if unusable(conversation.conversation, conversation.intent) is None and not unusable_intent(conversation.intent)
    ]
    if not usable:
        raise ConfigurationError(
            f"{source} has no conversation with an intent. Run `simgym data intents` on it first, or give another file."
        )
    chosen = _by_turns(usable, generator(seed, "reference"))[:conversations]
    moments = [moment for conversation in chosen for moment in _moments(conversation, source, later_turns, seed)]
    people = len({conversation.user_key for conversation in chosen})
    return Reference(source, tuple(moments), len(chosen), people, len(logged) - len(usable))


def _by_turns(logged: Sequence[LoggedConversation], rng: np.random.Generator) -> list[LoggedConversation]:
    """In random order, but a conversation of everybody before the second of anybody: people are what is sampled."""
    met: Counter[str] = Counter()
    ranked: list[tuple[int, int, int]] = []
    for index in rng.permutation(len(logged)):
        ranked.append((met[logged[index].user_key], len(ranked), int(index)))
        met[logged[index].user_key] += 1
    return [logged[index] for _, _, index in sorted(ranked)]


def _moments(logged: LoggedConversation, source: str, later_turns: int, seed: int) -> list[Moment]:
    scenario = scenario_of(logged, source)
    messages = logged.conversation.messages
    length, shown = 0, len(messages)
    for index, message in enumerate(messages):
        length += len(message.content)
        if length > LONGEST_HISTORY:
            shown = index
            break

    def moment(index: int, said: str | None, weight: float = 1.0) -> Moment:
        return Moment(scenario, Conversation(messages[:index]), said, logged.user_key, weight)

    turns = [i for i in range(2, min(shown + 1, len(messages)), 2) if len(messages[i].content) <= LONGEST_TURN]
    rng = generator(seed, "moments", logged.id)
    drawn = sorted(rng.permutation(len(turns))[:later_turns]) if turns else []
    moments = [moment(0, messages[0].content)] if len(messages[0].content) <= LONGEST_TURN else []
    moments += [moment(turns[i], messages[turns[i]].content, len(turns) / len(drawn)) for i in drawn]
    if messages[-1].role == "assistant" and shown == len(messages):
        moments.append(moment(len(messages), None))
    return moments
