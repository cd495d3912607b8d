"""From a name to a language model, one instance per name: roles that name the same model share its weights.

A specification is a `LanguageModel` instance, a string, or a mapping of JSON values (so that it survives
`EnvSpec.to_json`):

* `smollm2-135m-instruct`, a folder, `owner/model` or `owner/model@revision`: in process, through transformers;
* `openai:NAME`: an OpenAI-compatible server; its address in `OPENAI_BASE_URL`;
* `KIND:NAME` for any other registered kind, e.g. `scripted:echo`;
* `{"kind": "openai", "model": "Qwen/Qwen2.5-14B-Instruct", "base_url": "http://localhost:8000/v1"}`: arguments;
* `{"kind": "cached", "model": ..., "path": "answers.sqlite", "mode": "record"}`: remembers the answers of another.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Mapping
from typing import Any

from simgym.errors import ConfigurationError
from simgym.language_models.base import LanguageModel
from simgym.plugins import available, find

LanguageModelSpec = LanguageModel | str | Mapping[str, Any]
"""What every `model=` argument takes."""

_loaded: dict[str, LanguageModel] = {}
_lock = threading.RLock()  # a model round a model loads that one while it is being made


def load_language_model(spec: LanguageModelSpec, **options: Any) -> LanguageModel:
    """The language model that `spec` describes; the same object for the same description.

    Raises:
        UnknownName: the kind is not registered.
        ConfigurationError: the specification has a wrong type or unknown arguments.
    """
    if not isinstance(spec, str | Mapping):
        if _is_language_model(type(spec)):
            return spec
        raise ConfigurationError(
            f"A model is a {type(spec).__name__}, expected a name, a mapping of settings, or a LanguageModel."
        )
    kind, arguments = _read(spec)
    arguments.update(options)
    key = json.dumps([kind, arguments], sort_keys=True, default=repr)
    with _lock:
        if key not in _loaded:
            factory = find("language_models", kind)
            try:
                _loaded[key] = factory(**arguments)
            except TypeError as error:
                raise ConfigurationError(f"The language model {spec!r} cannot be made: {error}.") from error
        return _loaded[key]


def unwrapped(model: LanguageModel) -> LanguageModel:
    """The model inside others, for what only some models can do; see `CachedLM`."""
    inner: LanguageModel = getattr(model, "unwrapped", model)
    return inner


def forget_language_models() -> None:
    """Drop the shared instances, so that their memory can be freed."""
    with _lock:
        _loaded.clear()


@functools.cache
def _is_language_model(kind: type) -> bool:
    # asked at every call of every role, and Python looks through the whole protocol each time
    return issubclass(kind, LanguageModel)


def _read(spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, Mapping):
        arguments = dict(spec)
        kind = str(arguments.pop("kind", "transformers"))
        return kind, arguments
    kind, colon, name = spec.partition(":")
    if colon and kind in available("language_models"):
        return kind, {"model": name}
    return "transformers", {"model": spec}
