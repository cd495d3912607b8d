"""How a language model is named: one record and one parser for flags, YAML files, `gym.make` and Python.

| written | meaning |
|---|---|
| `smollm2-135m-instruct`, a folder, `owner/model`, `owner/model@revision` | in process, through transformers |
| `openai:NAME` | an OpenAI-compatible server, its address in `OPENAI_BASE_URL` |
| `openai:NAME@URL`, e.g. `openai:Qwen/Qwen2.5-14B-Instruct@http://localhost:8000/v1` | a server at that address |
| `KIND:NAME`, e.g. `scripted:echo` | any other registered kind |
| `py:module:Class` | a class of yours that implements `LanguageModel` |
| `{"model": "openai:NAME@URL", "timeout": 30}` | any of these with further arguments; a mapping, or JSON as text |
| `{"kind": "cached", "model": ..., "path": "answers.sqlite"}` | the kind by itself |

A `LanguageModel` instance is a specification, too, but cannot be written as JSON. API keys stand in the environment
(`OPENAI_API_KEY`, or the variable that `api_key_env` names), never in a specification: specifications end in plans,
configuration files and shell histories.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from simgym.errors import ConfigurationError, UnknownName
from simgym.jsonl import parse_json
from simgym.language_models.base import LanguageModel
from simgym.language_models.secret import NO_SECRETS, Secret
from simgym.language_models.server_headers import read_headers
from simgym.plugins import PYTHON_PREFIX, available, check_options, unknown

_ADDRESS = re.compile(r"@(?=https?://)")
_BARE_ADDRESS = re.compile(r"@(?P<address>[\w.-]+:\d+(?:/\S*)?|[\w.-]+/v1/?)$")
_SECRETS = re.compile(
    r"(?:api|access|secret|auth)[_-]?(?:key|token)|authorization|password|secret|token", re.IGNORECASE
)
_SECRET_IN_TEXT = re.compile(rf"((?:{_SECRETS.pattern})[\"']?\s*[:=]\s*)([\"']?)[^\"',}}\s]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A language model that has been named and not loaded."""

    kind: str = "transformers"
    """Registered name of the implementation, or `py:module:Class`."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Its constructor arguments; JSON values unless they were given in Python."""
    instance: LanguageModel | None = None
    """The model itself, if one was given; then the other fields say nothing."""

    def __post_init__(self) -> None:
        _refuse_secrets(self.arguments)

    @classmethod
    def parse(cls, value: Any) -> ModelSpec:
        """Read a name, a JSON object, a mapping, a `LanguageModel` or a `ModelSpec`.

        Raises:
            UnknownName: there is no such kind.
            ConfigurationError: the value is none of these, has broken JSON, or holds a secret.
        """
        if isinstance(value, ModelSpec):
            return value
        if isinstance(value, str):
            return _of_text(value)
        if isinstance(value, Mapping):
            return _of_mapping(value)
        if is_language_model(value):
            return cls(kind="instance", instance=value)
        raise ConfigurationError(
            f"A model is a {type(value).__name__}, expected a name, a mapping of settings, or a LanguageModel."
        )

    @property
    def innermost(self) -> ModelSpec:
        """The model inside a response cache, or this one."""
        return ModelSpec.parse(self.arguments["model"]).innermost if self.kind == "cached" else self

    @property
    def name(self) -> str:
        """What to call the model: its name, after the kind if it is not an in-process one."""
        spec = self.innermost
        if spec.instance is not None:
            return str(getattr(spec.instance, "name", type(spec.instance).__name__))
        model = str(spec.arguments.get("model", ""))
        return model if spec.kind == "transformers" else f"{spec.kind}:{model}".rstrip(":")

    def to_json(self) -> dict[str, object]:
        """Kind and arguments as one mapping, which `parse` reads again.

        Raises:
            ConfigurationError: the model is an object, which no file can hold.
        """
        if self.instance is not None:
            raise ConfigurationError(
                f"A {type(self.instance).__name__} cannot be written as JSON. Name the model, or give its settings."
            )
        plain: dict[str, object] = {"kind": self.kind}
        for key, value in self.arguments.items():
            if isinstance(value, Secret):
                plain[f"{key}_env"] = value.to_json()
            else:
                plain[key] = value.to_json() if isinstance(value, ModelSpec) else value
        return plain

    def check_arguments(self) -> None:
        """Compare the arguments with what the kind takes; nothing is loaded.

        Raises:
            UnknownName: there is no such argument; the message has the nearest one.
            ConfigurationError: an argument is missing.
        """
        if self.instance is None:
            check_options("language_models", self.kind, self.arguments)
            if self.kind == "cached":
                ModelSpec.parse(self.arguments["model"]).check_arguments()


@dataclass(frozen=True, slots=True)
class AnswerCache:
    """An SQLite file of a model's responses, and how it is used; see `CachedLM`."""

    path: Path | None = None
    """The file; None: responses are not cached."""
    mode: Literal["off", "read", "record", "replay"] = "record"
    """`record`: ask for what is not in the file; `read`: the same, writing nothing; `replay`: ask for nothing."""

    def __post_init__(self) -> None:
        if self.path is None and self.mode in ("read", "replay"):
            raise ConfigurationError(
                f"--cache-mode {self.mode} needs the file to {self.mode}. Give --response-cache FILE."
            )

    def around(self, spec: ModelSpec) -> ModelSpec:
        """The model behind this cache."""
        if self.path is None:
            return spec
        inner = spec.instance if spec.instance is not None else spec.to_json()
        return ModelSpec(kind="cached", arguments={"model": inner, "path": str(self.path), "mode": self.mode})


def check_named_model(spec: object) -> None:
    """Read the name of a model, or of each of several, and compare its arguments with what there is; load nothing.

    Raises:
        ConfigurationError: as `ModelSpec.parse` and `ModelSpec.check_arguments` say.
    """
    for named in spec if isinstance(spec, list | tuple) else [spec]:
        parsed = ModelSpec.parse(named)
        if set(parsed.arguments) - {"model"}:  # to look for others, the implementation has to be imported
            parsed.check_arguments()


def is_language_model(value: object) -> bool:
    """Whether an object is a language model."""
    kind: type = type(value)
    return _implements_language_model(kind)


@functools.cache
def _implements_language_model(kind: type) -> bool:
    # asked at every call of every role, and Python looks through the whole protocol each time
    return issubclass(kind, LanguageModel)


@functools.lru_cache(1024)
def _of_text(text: str) -> ModelSpec:
    if text.lstrip().startswith("{"):
        try:
            value = parse_json(text)
        except ValueError as error:
            raise ConfigurationError(
                f"The model {_shown(text)} starts like a JSON object but is none: {error}."
            ) from error
        return _of_mapping(value)
    if not text.strip():
        raise ConfigurationError("The model is an empty text, expected a name, e.g. smollm2-135m-instruct.")
    if text.startswith(PYTHON_PREFIX):
        return ModelSpec(kind=text)
    kind, colon, name = text.partition(":")
    known = available("language_models")
    if colon and kind in known:
        return ModelSpec(kind=kind, arguments=_located(kind, name))
    if colon and re.fullmatch(r"[A-Za-z_]\w+", kind) and not Path(text).expanduser().exists():
        raise UnknownName(f"{unknown('kind of language model', kind, list(known))} It stands in {_shown(text)}.")
    return ModelSpec(arguments={"model": text})


def _of_mapping(value: Mapping[str, Any]) -> ModelSpec:
    arguments = dict(value)
    _refuse_secrets(arguments)
    named = arguments.get("model")
    if "kind" not in arguments and isinstance(named, str):
        spec = ModelSpec.parse(named)
        return ModelSpec(
            kind=spec.kind, arguments={**spec.arguments, **{k: v for k, v in arguments.items() if k != "model"}}
        )
    kind = arguments.pop("kind", "transformers")
    if not isinstance(kind, str):
        raise ConfigurationError(f"The kind of a language model is {kind!r}, expected a name, e.g. 'openai'.")
    if not kind.startswith(PYTHON_PREFIX) and kind not in (known := available("language_models")):
        raise UnknownName(unknown("kind of language model", kind, list(known)))
    if kind == "cached":
        ModelSpec.parse(arguments.get("model", {}))
    return ModelSpec(kind=kind, arguments=arguments)


def _located(kind: str, name: str) -> dict[str, Any]:
    """Arguments of `KIND:NAME` or `KIND:NAME@URL`."""
    if kind != "openai":
        return {"model": name}
    if (address := _ADDRESS.search(name)) is not None:
        arguments = {"model": name[: address.start()], "base_url": name[address.end() :]}
        if not arguments["model"]:
            raise ConfigurationError(
                f"There is no model name before @{_shown(arguments['base_url'])}. Expected openai:NAME@URL."
            )
        _refuse_secrets(arguments)
        return arguments
    if (bare := _BARE_ADDRESS.search(name)) is not None:
        raise ConfigurationError(
            f"The address in 'openai:{name}' has no scheme. Did you mean "
            f"'openai:{name[: bare.start()]}@http://{bare['address']}'?"
        )
    if not name:
        raise ConfigurationError("'openai:' has no model name. Expected openai:NAME or openai:NAME@URL.")
    return {"model": name}


def _refuse_secrets(arguments: Mapping[str, object]) -> None:
    for key, value in arguments.items():
        if isinstance(value, Secret):
            continue  # written as the name of its variable
        if key == "headers" and isinstance(value, Mapping):
            read_headers(value)  # refuses those that sound like a secret
            continue
        if _SECRETS.fullmatch(str(key)) and value is not None and str(value).lower() not in NO_SECRETS:
            raise ConfigurationError(
                f"The model's settings hold {key!r}, and settings are stored in plans and shell histories. Set "
                "OPENAI_API_KEY, or name another environment variable with api_key_env."
            )
        if isinstance(value, Mapping):
            _refuse_secrets(value)
        if key == "base_url" and isinstance(value, str) and _holds_secret(value):
            raise ConfigurationError(
                "The model's base_url holds a user name, password or key, and settings are stored in plans and shell "
                "histories. Put the whole address into OPENAI_BASE_URL."
            )


def _holds_secret(address: str) -> bool:
    """Does an address name a user, or has it a parameter that sounds like a key?"""
    try:
        parts = urlsplit(address)
    except ValueError:  # no address, which is said when it is used, and may hold anything
        return "@" in address
    return "@" in parts.netloc or any(_SECRETS.search(name) for name, _ in parse_qsl(parts.query))


def _shown(text: str) -> str:
    """A text as a message may quote it: short, and without credentials of an address."""
    return repr(_SECRET_IN_TEXT.sub(r"\1\2••••••", re.sub(r"//[^/@\s]*@", "//", text))[:120])


def recorded_model(model: object) -> str | dict[str, object]:
    """A model as a record can hold it: its name or settings; of one that was given as an object, its name alone."""
    if isinstance(model, str):
        return model
    spec = ModelSpec.parse(model)
    return spec.name if spec.instance is not None else spec.to_json()
