"""A study as one YAML file: texts, counts, pairs, assistants, tasks, exclusion rules and the randomisation seed.

`load_study` reads and checks it; `Study.hash` is the SHA-256 of its canonical JSON, and is stored with every event, so
that no record can be ascribed to other settings. `study_template` is the commented file that `simgym study init`
writes. The protocol (two replies side by side in random order, a document at the end) is arXiv 2605.09808's.
"""

from __future__ import annotations

import functools
import hashlib
import json
import pkgutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from simgym.errors import ConfigurationError
from simgym.text_files import read_text
from simgym.yaml_files import parse_yaml

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""An identifier: letters, digits, `_`, `.` and `-`."""
Text = Annotated[str, Field(min_length=1, max_length=20_000)]
"""Markdown shown to participants."""


class _Part(BaseModel):
    """Frozen, and no unknown keys: a misspelt setting is an error, not a default."""

    # an error repeats no input: it can be a key
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)


class Texts(_Part):
    """What participants read, Markdown."""

    title: Annotated[str, Field(min_length=1, max_length=200)]
    """Shown on every page."""
    consent: Text
    """What taking part means; agreeing to it starts the study."""
    instructions: Text
    """What there is to do."""
    training: Text
    """What to try in the training exchange."""
    document: Text
    """What the final document should be."""
    done: Text
    """Shown with the completion code."""


class Turns(_Part):
    """How many exchanges."""

    training: Annotated[int, Field(ge=0, le=10)] = 1
    """Training exchanges, a conversation of their own that never counts."""
    minimum: Annotated[int, Field(ge=1, le=100)] = 5
    """Real exchanges before a participant may finish."""
    maximum: Annotated[int, Field(ge=1, le=100)] = 15
    """Real exchanges after which the conversation ends."""

    @model_validator(mode="after")
    def _ordered(self) -> Turns:
        if self.maximum < self.minimum:
            raise ValueError(f"maximum is {self.maximum}, expected at least minimum ({self.minimum}).")
        return self


class MinimumWords(_Part):
    """Shortest texts, words."""

    notes: Annotated[int, Field(ge=0, le=500)] = 10
    """Of the notes before writing."""
    message: Annotated[int, Field(ge=1, le=100)] = 1
    """Of a message to the assistants."""
    reason: Annotated[int, Field(ge=0, le=100)] = 3
    """Of the reason for a choice or rating."""
    document: Annotated[int, Field(ge=0, le=5_000)] = 200
    """Of the final document; 0: there is none."""


class Limits(_Part):
    """Bounds that keep one visitor from taking the server's time or disk."""

    message_characters: Annotated[int, Field(ge=100, le=100_000)] = 8_000
    """Longest message, note or reason."""
    document_characters: Annotated[int, Field(ge=100, le=200_000)] = 40_000
    """Longest document."""
    requests_per_minute: Annotated[int, Field(ge=1)] = 240
    """Of one participant."""
    visitors_per_minute: Annotated[int, Field(ge=1)] = 120
    """New participants from one address (a laboratory shares one)."""
    generations_at_once: Annotated[int, Field(ge=1, le=256)] = 8
    """Model calls under way at the same time."""


class Task(_Part):
    """What a participant may choose to write."""

    id: Name
    """Identifier; a stratum of the randomisation."""
    title: Annotated[str, Field(min_length=1, max_length=200)]
    """One line."""
    description: Text
    """A few sentences, Markdown."""


class AssistantSpec(_Part):
    """Who answers. Nothing of this reaches a browser."""

    model: str | dict[str, Any] | None = None
    """A name, or the arguments of a language model (for a server: `{kind: openai, model: ..., base_url: ...}`)."""
    factory: Annotated[str | None, Field(pattern=r"^[\w.]+:[\w.]+$")] = None
    """Instead of a model: `module:function` that gives any simgym assistant when called without arguments."""
    revision: str | None = None
    """Which version of the weights; recorded, and expected of whoever runs the server."""
    system_prompt: str | None = None
    """Text of the system message."""
    adapter: str | None = None
    """Adapter loaded in the model."""
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.7
    """Of the replies."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus of the replies."""
    max_new_tokens: Annotated[int, Field(ge=1, le=100_000)] = 512
    """Longest reply."""
    aliases: tuple[str, ...] = ()
    """Names by which the model may give itself away, e.g. `SmolLM`; a reply that holds one is flagged."""

    @model_validator(mode="after")
    def _one_source(self) -> AssistantSpec:
        if (self.model is None) == (self.factory is None):
            raise ValueError("an assistant needs either model or factory.")
        if self.model is not None:
            from simgym.language_models.model_spec import ModelSpec

            ModelSpec.parse(self.model)  # a key in it would be stored with the study, and exported
        return self


RuleName = Literal[
    "document_words", "same_side_share", "tie_share", "reason_words", "seconds_per_choice", "copied_share"
]
"""What an exclusion rule looks at; `simgym.study.exclusions` says how."""


class Rule(_Part):
    """An exclusion rule; whoever is below `minimum` or above `maximum` is left out of the main analysis."""

    rule: RuleName
    """What it looks at."""
    minimum: float | None = None
    """Lowest value that stays in."""
    maximum: float | None = None
    """Highest value that stays in."""

    @model_validator(mode="after")
    def _bounded(self) -> Rule:
        if self.minimum is None and self.maximum is None:
            raise ValueError(f"the rule {self.rule} has neither minimum nor maximum.")
        return self


class Recruitment(_Part):
    """Where participants come from."""

    parameters: tuple[Name, ...] = ("PROLIFIC_PID", "STUDY_ID", "SESSION_ID")
    """Query parameters kept, apart from all answers and not before consent."""
    unique: Name | None = "PROLIFIC_PID"
    """The parameter that names a person: nobody takes part twice."""
    completion_code: Annotated[str | None, Field(max_length=64)] = None
    """The code that everybody gets at the end; none: a random one each."""

    @model_validator(mode="after")
    def _names_somebody(self) -> Recruitment:
        if self.unique is not None and self.unique not in self.parameters:
            raise ValueError(
                f"unique is {self.unique}, which is not among the parameters ({', '.join(self.parameters)}), so "
                "anybody could take part twice. Add it, name another one, or set unique to null."
            )
        return self


class Study(_Part):
    """One study."""

    name: Name
    """Identifier of the study."""
    design: Literal["pairwise", "rating"] = "pairwise"
    """`pairwise`: two replies a message, one is chosen; `rating`: one assistant, a rating of 1 to 10 at the end."""
    seed: int
    """Decides everything that is drawn: assignment, sides, ties, replies."""
    contact: Annotated[str, Field(min_length=1, max_length=300)]
    """Whom participants can write to."""
    texts: Texts
    """What participants read."""
    turns: Turns = Turns()
    """How many exchanges."""
    minimum_words: MinimumWords = MinimumWords()
    """Shortest texts."""
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    """What there is to choose from."""
    assistants: dict[Name, AssistantSpec]
    """Who answers, by name."""
    pairs: tuple[tuple[Name, Name], ...] = ()
    """Who is compared with whom; a win rate is that of the first."""
    exclusions: tuple[Rule, ...] = ()
    """Applied to what a participant did, never to whom they preferred."""
    equivalence_margin: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Win rates within 0.5 ± margin count as indistinguishable."""
    recruitment: Recruitment = Recruitment()
    """Where participants come from."""
    moderation: Annotated[str | None, Field(pattern=r"^[\w.]+:[\w.]+$")] = None
    """`module:function` that takes a text and its role (`user`, `assistant`); gives a reason to block it, or None."""
    limits: Limits = Limits()
    """Bounds."""

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        if self.design == "pairwise" and not self.pairs:
            raise ValueError("a pairwise study needs pairs, e.g. [[trained, initial]].")
        for pair in self.pairs:
            if pair[0] == pair[1] or any(name not in self.assistants for name in pair):
                raise ValueError(
                    f"the pair {list(pair)} should name two of the assistants {', '.join(sorted(self.assistants))}."
                )
        if len(set(map(frozenset, self.pairs))) < len(self.pairs):
            raise ValueError("a pair comes twice.")
        if len({task.id for task in self.tasks}) < len(self.tasks):
            raise ValueError("two tasks have the same id.")
        if not self.assistants:
            raise ValueError("there are no assistants.")
        return self

    @functools.cached_property
    def hash(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def arms(self) -> tuple[tuple[str, ...], ...]:
        """What participants are assigned to: pairs, or single assistants."""
        return self.pairs if self.design == "pairwise" else tuple((name,) for name in self.assistants)

    def task(self, task_id: str) -> Task | None:
        """The task of that id."""
        return next((task for task in self.tasks if task.id == task_id), None)


def read_study(text: str, source: str) -> Study:
    """A study from YAML.

    Raises:
        ConfigurationError: it is no YAML, or a setting is missing, unknown or out of range; the message names it.
    """
    try:
        return Study.model_validate(parse_yaml(text, source))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, detail['loc'])) or 'study'}: {detail['msg'].removeprefix('Value error, ')}"
            for detail in error.errors()[:5]
        )
        raise ConfigurationError(f"{source} is no study. {problems}") from error


def load_study(path: str | Path) -> Study:
    """As `read_study`, from a file.

    Raises:
        ConfigurationError: the file cannot be read, or see `read_study`.
    """
    try:
        return read_study(read_text(path), str(path))
    except OSError as error:
        raise ConfigurationError(
            f"Cannot read the study {path}: {error}. `simgym study init` writes one to begin with."
        ) from error


def study_template() -> str:
    """The commented YAML that a new study begins with."""
    return (resources.files("simgym.study") / "study.yaml").read_text(encoding="utf-8")


def load_callable(target: str) -> Callable[..., Any]:
    """What `module:function` names.

    Raises:
        ConfigurationError: there is no such module or function.
    """
    try:
        value: Any = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"{target!r} cannot be loaded: {error}. Expected module:function.") from error
    if not callable(value):
        raise ConfigurationError(f"{target!r} is a {type(value).__name__}, expected a function.")
    return value  # type: ignore[no-any-return]
