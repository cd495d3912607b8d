"""The nouns that everything else passes around: Message, Conversation, Scenario.

All are frozen and validated on construction, and go to and from plain JSON values (`to_json` / `from_json`). A
`Scenario` says what a simulated user wants; a `Conversation` is what has been said so far, as the assistant sees
it. The scenario's intent is hidden from the assistant: nothing here puts it into a conversation.

Suffixes used across the package for nested lists and arrays: `_N` conversations, `_G` rollouts of one group,
`_T` turns, `_L` tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from simgym.errors import ConfigurationError, MalformedFile
from simgym.jsonl import read_jsonl
from simgym.notebooks import conversation_html
from simgym.typed_json import from_json, read_as

Role = Literal["system", "user", "assistant"]
"""Who speaks."""
_ROLES = get_args(Role)

INTENT_PREFIX = "You are a user chatting with an assistant language model to "
"""Every intent starts with these words (arXiv 2605.09808)."""

END_OF_CONVERSATION = "<|endconversation|>"
"""What a simulator says when the user leaves; a special token of fine-tuned simulators (arXiv 2605.09808)."""


@dataclass(frozen=True, slots=True)
class Message:
    """One utterance."""

    role: Role
    """Who speaks: `system`, `user` or `assistant`."""
    content: str
    """The text; any Unicode except lone surrogates."""

    def __post_init__(self) -> None:
        if self.role not in _ROLES:
            raise ConfigurationError(f"Message role is {self.role!r}, expected one of {', '.join(_ROLES)}.")
        if not isinstance(self.content, str):
            raise ConfigurationError(f"Message content is a {type(self.content).__name__}, expected str.")

    def to_json(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Message:
        """Read what `to_json` gave; raises ConfigurationError if it is something else."""
        return from_json(cls, value, "message")


@dataclass(frozen=True, slots=True)
class Conversation:
    """What has been said so far, oldest message first; never holds the hidden intent."""

    messages: tuple[Message, ...] = ()
    """The messages in order."""

    def add(self, role: Role, content: str) -> Conversation:
        """A new conversation with one more message."""
        return Conversation((*self.messages, Message(role, content)))

    def said_by(self, role: Role) -> list[str]:
        """All texts of one role, oldest first."""
        return [message.content for message in self.messages if message.role == role]

    def _repr_html_(self) -> str:  # what a notebook shows
        return conversation_html((said.role, said.content) for said in self.messages)

    def to_json(self) -> list[dict[str, str]]:
        return [message.to_json() for message in self.messages]

    @classmethod
    def from_json(cls, value: Iterable[Mapping[str, Any]]) -> Conversation:
        """Read what `to_json` gave; raises ConfigurationError if it is something else."""
        return cls(read_as(tuple[Message, ...], value, "messages"))


@dataclass(frozen=True, slots=True)
class Scenario:
    """What one simulated user wants, and where that comes from."""

    id: str
    """Unique within a set of scenarios; results are paired and resumed by it."""
    intent: str
    """Hidden goal, starting with `INTENT_PREFIX`; seen by simulators and judges, never by assistants."""
    _: KW_ONLY
    opening: str | None = None
    """The user's first message, from a person or written for the scenario; None: the simulator has to write one."""
    persona_seed: int = 0
    """Decides the persona, so that all rollouts of one group meet the same person."""
    source: str = "unknown"
    """Origin of the scenario, e.g. `chitchat-dataset 0.9.0`."""
    history: tuple[Message, ...] = ()
    """The recorded conversation this scenario was made from, if any; replay plays back its user turns."""

    def __post_init__(self) -> None:
        if not self.id or not isinstance(self.id, str):
            raise ConfigurationError(f"Scenario id is {self.id!r}, expected a non-empty string.")
        if not isinstance(self.intent, str) or not self.intent.startswith(INTENT_PREFIX):
            raise ConfigurationError(
                f"The intent of scenario {self.id!r} is {str(self.intent)[:60]!r}. "
                f"Expected a sentence that starts with {INTENT_PREFIX!r}."
            )
        if self.opening is not None and (not isinstance(self.opening, str) or not self.opening.strip()):
            raise ConfigurationError(f"The opening of scenario {self.id!r} is empty. Give a text, or null for none.")

    @classmethod
    def from_goal(cls, goal: str, *, opening: str | None = None, source: str = "unknown") -> Scenario:
        """A scenario from what the user wants in plain words, e.g. `plan a party`; equal words give an equal id.

        Raises:
            ConfigurationError: `goal` is no text or blank, or the opening is.
        """
        if not isinstance(goal, str) or not goal.strip():
            raise ConfigurationError(f"The goal is {goal!r}, expected what the user wants in words.")
        name = hashlib.sha256(goal.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        return cls(name, INTENT_PREFIX + goal.removeprefix(INTENT_PREFIX), opening=opening, source=source)

    @property
    def goal(self) -> str:
        """The intent without its fixed opening words."""
        return self.intent.removeprefix(INTENT_PREFIX)

    def to_json(self) -> dict[str, object]:
        value: dict[str, object] = {
            "id": self.id,
            "intent": self.intent,
            "opening": self.opening,
            "persona_seed": self.persona_seed,
            "source": self.source,
        }
        if self.history:
            value["history"] = [message.to_json() for message in self.history]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Scenario:
        """Read what `to_json` gave; raises ConfigurationError if it is something else."""
        return from_json(cls, value, "scenario")


def up_to_answer(conversation: Conversation) -> Conversation:
    """The conversation up to the assistant's last message, without a user's last words; empty if there is none."""
    answers = [number for number, message in enumerate(conversation.messages, 1) if message.role == "assistant"]
    return Conversation(conversation.messages[: answers[-1] if answers else 0])


def written_out(conversation: Conversation, *, indented: bool = False) -> str:
    """A conversation as plain text, one `USER:` or `ASSISTANT:` paragraph a message.

    Args:
        conversation: What was said.
        indented: Indent all but the first line of a message, so that no words of one can look like another's turn.
    """
    said = [(message.role.upper(), message.content) for message in conversation.messages]
    if indented:
        said = [(role, "\n    ".join(text.splitlines())) for role, text in said]
    return "\n".join(f"{role}: {text}" for role, text in said)


def has_surrogates(text: str) -> bool:
    """Whether the text holds a lone surrogate, so that it has no UTF-8 form and cannot be written to a file."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def read_scenarios(path: str | Path) -> list[Scenario]:
    """Read scenarios from a JSONL file, one object a line, blank lines ignored.

    Raises:
        ConfigurationError: the file is missing, empty, or holds the same id twice.
        MalformedFile: a line is not JSON or not a scenario; the message names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigurationError(f"There is no scenario file {path}. Expected JSONL with one scenario a line.")
    scenarios: list[Scenario] = []
    line_of: dict[str, int] = {}
    for number, value in read_jsonl(path):
        try:
            scenario = Scenario.from_json(value)
        except ConfigurationError as error:
            raise MalformedFile(f"{path}, line {number}: {error} Mend or remove that line.") from error
        if scenario.id in line_of:
            raise MalformedFile(
                f"{path}, line {number}: scenario id {scenario.id!r} was used on line {line_of[scenario.id]}."
            )
        line_of[scenario.id] = number
        scenarios.append(scenario)
    if not scenarios:
        raise ConfigurationError(f"The scenario file {path} is empty. Expected JSONL with one scenario a line.")
    return scenarios
