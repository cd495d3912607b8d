"""A prompted user: an instruction-tuned model told to play a person with a hidden goal.

One prompt holds the task, a persona prompt (how this person behaves), the intent and the chat so far, in this order, so
that what does not change between turns comes first and can be cached. The reply is a JSON object {current_answer,
thought, response} (constrained by schema where the model can), and `response` is the user turn. This is the
role-playing user of arXiv 2605.09808, with prompts of our own; settings (T = 0.7, top-p 0.9) as published.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, Literal

from simgym.almost_json import read_objects
from simgym.conversation import END_OF_CONVERSATION, Conversation, Message, Scenario, written_out
from simgym.errors import ConfigurationError
from simgym.language_models.base import LanguageModel, Request, SamplingParams, object_schema
from simgym.language_models.loading import LanguageModelSpec, check_language_model, load_language_model
from simgym.language_models.weights import DEFAULT_MODEL
from simgym.seeding import generator
from simgym.simulators._attempts import attempt_turns
from simgym.simulators.base import ForcedTurn, UserTurn
from simgym.text_files import read_text
from simgym.transcripts import text_hash

PERSONAS = ("default", "impatient", "typos", "side_questions")
"""Persona prompts of `persona`; each is a text file `prompts/persona_NAME.txt`."""
_LONGEST_ASIDE = 80
"""Characters of `current_answer` and `thought` each: a small model rambles there and never gets to the response."""
_TOKENS_BESIDE_RESPONSE = 90
"""Tokens that the JSON frame and the two asides may take."""
_CHARACTERS_PER_TOKEN = 3
_FRAME = '{"current_answer": "", "thought": "", "response": "'


def reply_schema(max_new_tokens: int) -> dict[str, object]:
    """JSON schema of a reply whose response is bounded so that the object closes within `max_new_tokens`."""
    longest = max(40, _CHARACTERS_PER_TOKEN * (max_new_tokens - _TOKENS_BESIDE_RESPONSE))
    aside = {"type": "string", "maxLength": _LONGEST_ASIDE}
    return object_schema(current_answer=aside, thought=aside, response={"type": "string", "maxLength": longest})


class RolePlay:
    """Plays users by prompt; implements `UserSimulator`."""

    def __init__(
        self,
        model: LanguageModelSpec = DEFAULT_MODEL,
        *,
        opening: Literal["simulated", "real"] = "simulated",
        persona_prompts: Sequence[str] = ("default",),
        template: str | None = None,
        temperature: float = 0.7,
        top_p: float = 0.9,
        max_new_tokens: int = 1024,
        max_attempts: int = 3,
    ) -> None:
        """Choose who plays and how.

        Args:
            model: A name, settings or instance; see `load_language_model`.
            opening: `simulated`: the model writes the first turn from the intent; `real`: the scenario's opening.
            persona_prompts: Built-in names (`default`, `impatient`, `typos`, `side_questions`) or paths of text files.
                Of several, the scenario's persona seed draws one uniformly, so a group of rollouts meets one person.
            template: Path of a text file to use instead of the built-in prompt, with the placeholders
                `$persona_prompt`, `$intent`, `$history` and `$end`.
            temperature: Of the user's sampling.
            top_p: Nucleus of the user's sampling.
            max_new_tokens: Bound of the whole JSON reply.
            max_attempts: Tries per turn before a fault is reported, >= 1.
        """
        if opening not in ("simulated", "real"):
            raise ConfigurationError(f"opening is {opening!r}, expected 'simulated' or 'real'.")
        if max_attempts < 1:
            raise ConfigurationError(f"max_attempts is {max_attempts}, expected >= 1.")
        if not persona_prompts:
            raise ConfigurationError("persona_prompts is empty, expected at least one name or path.")
        self.model_spec = model
        self.opening = opening
        self.persona_prompts = {name: _text(f"persona_{name}.txt", name) for name in persona_prompts}
        self.template = _text("role_play.txt", template)
        self.sampling = SamplingParams(temperature, top_p, max_new_tokens)
        self.schema = reply_schema(max_new_tokens)
        self.max_attempts = max_attempts
        self._check_template()

    def open(self, scenarios: Sequence[Scenario], *, seeds: Sequence[int]) -> list[UserTurn]:
        """First user turns: the real openings, or written by the model from the intent.

        Raises:
            ConfigurationError: `opening="real"` and a scenario has none.
        """
        if self.opening == "real":
            return real_openings(scenarios)
        return self.reply(scenarios, [Conversation()] * len(scenarios), seeds=seeds)

    def reply(
        self, scenarios: Sequence[Scenario], conversations: Sequence[Conversation], *, seeds: Sequence[int]
    ) -> list[UserTurn]:
        return attempt_turns(
            load_language_model(self.model_spec),
            scenarios,
            conversations,
            seeds,
            request=self._request,
            read=read_reply,
            max_attempts=self.max_attempts,
        )

    def language_model(self) -> LanguageModel:
        return load_language_model(self.model_spec)

    def force(self, scenario: Scenario, conversation: Conversation, said: str) -> ForcedTurn:
        """The reply's JSON frame is given, with empty asides, and the turn stands in it as a JSON string."""
        text = json.dumps(said, ensure_ascii=False)[1:-1]
        return ForcedTurn(self._request(scenario, conversation, 0, 0), _FRAME, text)

    def check_scenarios(self, scenarios: Sequence[Scenario]) -> None:
        """Refuse scenarios without an opening where a real one is needed."""
        if self.opening == "real":
            real_openings(scenarios)

    def persona_of(self, scenario: Scenario) -> str:
        """Name of the persona prompt that the scenario's persona seed draws."""
        return drawn_persona(list(self.persona_prompts), scenario)

    def check(self) -> None:
        """Load the model, or ask its server for a sign of life; see `check_ready`."""
        check_language_model(self.model_spec)

    def fingerprint(self) -> dict[str, object]:
        return {
            "simulator": "role_play",
            "model": load_language_model(self.model_spec).fingerprint(),
            "opening": self.opening,
            # What is hashed keeps the spelling of earlier versions, so that their runs can be continued.
            "prompt_hash": text_hash(self.template.replace("$persona_prompt", "$guideline")),
            "guideline_hashes": {name: text_hash(text) for name, text in self.persona_prompts.items()},
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "max_new_tokens": self.sampling.max_new_tokens,
            "max_attempts": self.max_attempts,
        }

    def _request(self, scenario: Scenario, conversation: Conversation, attempt: int, seed: int) -> Request:
        persona_prompt = self.persona_prompts[self.persona_of(scenario)].strip()
        prompt = Template(self.template).substitute(
            persona_prompt=persona_prompt,
            guideline=persona_prompt,  # its name in templates for earlier versions
            intent=scenario.intent,
            history=written_out(conversation) or "(nothing yet; you write the first message)",
            end=END_OF_CONVERSATION,
        )
        return Request((Message("user", prompt.strip()),), self.sampling, seed, json_schema=self.schema)

    def _check_template(self) -> None:
        try:
            Template(self.template).substitute(persona_prompt="", guideline="", intent="", history="", end="")
        except (KeyError, ValueError) as error:
            raise ConfigurationError(
                f"The role-play template has an unknown or broken placeholder ({error}). "
                "Known: $persona_prompt, $intent, $history, $end; write $$ for a dollar sign."
            ) from error


def role_play_opening(model: LanguageModelSpec = DEFAULT_MODEL, **options: Any) -> RolePlay:
    """Role-play that starts from the scenario's real opening; `options` as for `RolePlay`."""
    return RolePlay(model, **{"opening": "real", **options})


def persona(model: LanguageModelSpec = DEFAULT_MODEL, **options: Any) -> RolePlay:
    """Role-play with a persona per scenario and the real opening (RPUser3 of arXiv 2605.09808); `options` as for
    `RolePlay`. All rollouts of one scenario meet the same person."""
    return RolePlay(model, **{"opening": "real", "persona_prompts": PERSONAS, **options})


def real_openings(scenarios: Sequence[Scenario]) -> list[UserTurn]:
    """The scenarios' own first user turns.

    Raises:
        ConfigurationError: a scenario has no opening.
    """
    for scenario in scenarios:
        if scenario.opening is None:
            raise ConfigurationError(
                f"Scenario {scenario.id!r} has no opening, but this simulator starts from a real one. "
                "Use scenarios with openings, or UserSim-RolePlay-v0, which writes its own."
            )
    return [UserTurn(scenario.opening or "") for scenario in scenarios]


def read_reply(text: str) -> UserTurn:
    """The user turn in a role-play reply: `response` of the first JSON object, with the end mark taken off."""
    objects = read_objects(text, "response")
    if not objects:
        return UserTurn("", fault="unparsable: no JSON object with a response")
    response = objects[0]["response"]
    if not isinstance(response, str):
        return UserTurn("", fault=f"unparsable: response is a {type(response).__name__}")
    return split_end(response)


def split_end(text: str, mark: str = END_OF_CONVERSATION) -> UserTurn:
    """Take the end-of-conversation mark off a user's text; whatever follows it is dropped."""
    said, separator, _ = text.partition(mark)
    said = re.sub(r"[\ud800-\udfff]", "�", said).strip()
    return UserTurn(said, ended=bool(separator))


def drawn_persona(names: Sequence[str], scenario: Scenario) -> str:
    """Which of some persona prompts a scenario's persona seed draws."""
    return names[0] if len(names) == 1 else names[_drawn(scenario.persona_seed, len(names))]


@functools.lru_cache(4096)
def _drawn(persona_seed: int, count: int) -> int:
    return int(generator(persona_seed, "persona").integers(count))


def _text(built_in: str, path: str | None) -> str:
    shipped = resources.files("simgym.simulators") / "prompts" / built_in
    if path is None or (shipped.is_file() and not Path(path).suffix):
        return shipped.read_text(encoding="utf-8")
    try:
        return read_text(path)
    except OSError as error:
        known = sorted(
            entry.name.removeprefix("persona_").removesuffix(".txt")
            for entry in (resources.files("simgym.simulators") / "prompts").iterdir()
            if entry.name.startswith("persona_")
        )
        raise ConfigurationError(
            f"There is no prompt file {path!r} ({error.strerror}). Built-in persona prompts: {', '.join(known)}."
        ) from error
