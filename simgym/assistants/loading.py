"""From what is typed on a command line to an assistant: `[NAME=]MODEL[+PROMPT]`.

`MODEL` is anything that `ModelSpec` reads (a name, `openai:NAME@URL`, a JSON object). In its place may stand an
assistant that is more than a model with a prompt: a plug-in's name, `{"assistant": NAME, ...}` with its options,
`py:module:Class`, a class or function that makes an assistant or a language model, or the folder of a trained
assistant, whose `simgym.json` names it. `PROMPT` is a system prompt that is shipped, or a text file. JSON and addresses
may contain the same signs: a `+` begins a prompt only where a prompt of that name exists, and what contains an address
or JSON is not taken for a NAME.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from simgym.assistants.base import Assistant
from simgym.assistants.language_model_assistant import LanguageModelAssistant, prompt_exists, read_prompt
from simgym.assistants.trained import load_trained
from simgym.assistants.training_record import read_training_record
from simgym.errors import ConfigurationError
from simgym.jsonl import parse_json
from simgym.language_models.base import SamplingParams
from simgym.language_models.model_spec import AnswerCache, ModelSpec, check_named_model, is_language_model
from simgym.plugins import PYTHON_PREFIX, available, find, make, options_of

_EXPECTED = "Expected [NAME=]MODEL[+PROMPT]."


@dataclass(frozen=True, slots=True)
class NamedAssistant:
    """An assistant and what to call it in results."""

    name: str
    """As given, from the record of its training, or made of model and prompt."""
    assistant: Assistant
    """Who answers."""


def load_assistant(text: str, sampling: SamplingParams, *, cache: AnswerCache = AnswerCache()) -> NamedAssistant:  # noqa: B008
    """Read `[NAME=]MODEL[+PROMPT]`; no model is loaded.

    Args:
        text: As typed.
        sampling: How the assistant's replies are sampled; a plug-in without an option `sampling`, and a trained
            policy, sample in their own way.
        cache: Where responses of the model are kept; default: nowhere.

    Raises:
        UnknownName: there is no such prompt, assistant, kind of model, or setting; the message has the nearest name.
        ConfigurationError: there is no model, or the JSON is broken.
        MalformedFile: the record of a trained assistant cannot be read.
    """
    name, rest = split_name(text)
    model, prompt = _split_prompt(rest)
    if not model or name == "":
        raise ConfigurationError(f"The assistant {text!r} has no model. {_EXPECTED}")
    if not model.startswith("{") and (training := read_training_record(model)) is not None:
        system_prompt = read_prompt(prompt) if prompt else None
        trained = load_trained(model, training, sampling, system_prompt=system_prompt, cache=cache)
        return NamedAssistant(name or "+".join(filter(None, (training.name, prompt))), trained)
    own = None
    if (plugin := _read_plugin(model)) is not None:
        own = _make_plugin(plugin, prompt, sampling, cache)
        if isinstance(own, Assistant):
            shown = text if model == plugin.name else "+".join(filter(None, (plugin.name, prompt)))
            return NamedAssistant(name or shown, own)
    check_named_model(own or model)
    spec = ModelSpec.parse(own or model)
    assistant = LanguageModelAssistant(
        _plain(cache.around(spec)), system_prompt=read_prompt(prompt) if prompt else None, sampling=sampling
    )
    return NamedAssistant(name or _default_name(text, model, spec, prompt), assistant)


@dataclass(frozen=True, slots=True)
class _Plugin:
    """An assistant that is found among the plug-ins."""

    name: str
    """Registered name, or `py:module:Class`."""
    options: dict[str, Any]
    """Constructor arguments as given."""


def _read_plugin(model: str) -> _Plugin | None:
    """The plug-in that is named; None if this is a model."""
    if model.startswith(PYTHON_PREFIX) or model in available("assistants"):
        return _Plugin(model, {})
    if not model.startswith("{"):
        return None
    try:
        options = parse_json(model)
    except ValueError:
        return None  # ModelSpec says what is wrong with it
    if "assistant" not in options:
        return None
    name = options.pop("assistant")
    if not isinstance(name, str):
        raise ConfigurationError(f"The assistant is called {name!r}, expected a name. `simgym assistants` lists them.")
    return _Plugin(name, options)


def _make_plugin(plugin: _Plugin, prompt: str, sampling: SamplingParams, cache: AnswerCache) -> object:
    """The assistant, or the language model that is to be one; prompt and sampling go to those that take them."""
    taken, arguments = options_of(find("assistants", plugin.name)), dict(plugin.options)
    if "model" in arguments and "model" in taken:
        check_named_model(arguments["model"])
        arguments["model"] = _plain(cache.around(ModelSpec.parse(arguments["model"])))
    if "sampling" in taken:
        arguments.setdefault("sampling", sampling)
    if prompt and "system_prompt" in taken:
        arguments["system_prompt"] = read_prompt(prompt)
    assistant = make("assistants", plugin.name, arguments)
    if is_language_model(assistant):
        return assistant
    if not isinstance(assistant, Assistant):
        raise ConfigurationError(
            f"{plugin.name} makes a {type(assistant).__name__}, expected an assistant (respond and fingerprint) or a "
            "language model (generate, loglikelihood and fingerprint)."
        )
    if prompt and "system_prompt" not in taken:
        raise ConfigurationError(
            f"{plugin.name} is an assistant of its own, which takes no prompt. Leave +{prompt} out."
        )
    return assistant


def split_name(text: str) -> tuple[str | None, str]:
    """The NAME before a `=`, None if there is none, and the rest."""
    head, equals, rest = text.partition("=")
    kind, colon, _ = head.partition(":")
    starts_a_model = head.lstrip().startswith("{") or "://" in head or (
        bool(colon) and (kind == "py" or kind in available("language_models"))
    )  # fmt: skip
    return (None, text) if not equals or starts_a_model else (head, rest)


def _split_prompt(text: str) -> tuple[str, str]:
    """Model and prompt; the prompt is empty if there is none."""
    if text.lstrip().startswith("{"):
        try:
            _, end = json.JSONDecoder().raw_decode(text.lstrip())
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(
                f"The assistant {text[:120]!r} starts like a JSON object but is none: {error}."
            ) from error
        model, rest = text.lstrip()[:end], text.lstrip()[end:].strip()
        if rest and not rest.startswith("+"):
            raise ConfigurationError(f"Behind the JSON object of the assistant stands {rest!r}. {_EXPECTED}")
        return model, rest[1:]
    places = [match.start() for match in re.finditer(r"\+", text)]
    for place in places:
        if prompt_exists(text[place + 1 :]):
            return text[:place], text[place + 1 :]
    _, at, address = text.partition("://")
    if not places or (at and "+" in address and "/" in address.rpartition("+")[2]):
        return text, ""
    place = places[-1] if at else places[0]
    return text[:place], text[place + 1 :]


def _default_name(text: str, model: str, spec: ModelSpec, prompt: str) -> str:
    """The text itself, unless it holds settings or an address, which are too long for a table."""
    if "://" not in model and not model.lstrip().startswith("{"):
        return text
    return f"{spec.name}+{prompt}" if prompt else spec.name


def _plain(spec: ModelSpec) -> Any:
    # a name stays the text that it was, which transcripts of earlier versions were made with
    if spec.instance is not None:
        return spec.instance
    return spec.arguments["model"] if spec.kind == "transformers" and set(spec.arguments) == {"model"} else spec
