"""From a specification to a language model, one instance each: roles that name the same model share its weights.

Models with weights are kept until `clear_language_models`. Clients of servers are cheap to make again, and a trainer
may have a URL for every rollout, so only the `MAX_CLIENTS` that were used last are kept; whoever has one keeps it.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping

from simgym._forks import ForkSafeLock
from simgym.language_models.base import LanguageModel, Purpose
from simgym.language_models.model_spec import ModelSpec, is_language_model
from simgym.language_models.secret import Secret
from simgym.plugins import make

LanguageModelSpec = LanguageModel | str | Mapping[str, object] | ModelSpec
"""What every `model=` argument takes; see `ModelSpec`."""

MAX_CLIENTS = 64
"""Clients of servers that are kept."""
_loaded: dict[str, LanguageModel] = {}
_clients: OrderedDict[str, None] = OrderedDict()
"""Keys of those in `_loaded` that are clients, the one that rested longest first."""
_lock = ForkSafeLock()  # reentrant: a model round a model loads that one while it is being made


def load_language_model(spec: LanguageModelSpec, **options: object) -> LanguageModel:
    """The language model that `spec` describes; the same object for the same description.

    Args:
        spec: A name, a JSON object, a mapping, a `ModelSpec` or an instance, which is returned as it is.
        options: Further constructor arguments, an `api_key` among them; they are kept in memory only.

    Raises:
        UnknownName: the kind is not registered, or has no such argument.
        ConfigurationError: the specification has a wrong type, lacks something, or holds a secret.
    """
    if not isinstance(spec, str | Mapping | ModelSpec) and is_language_model(spec):
        return spec
    parsed = ModelSpec.parse(spec)
    if parsed.instance is not None:
        return parsed.instance
    arguments = {**parsed.arguments, **options}
    key = json.dumps([parsed.kind, arguments], sort_keys=True, default=_identity)
    with _lock:
        if key not in _loaded:
            _loaded[key] = make("language_models", parsed.kind, arguments)
        model = _loaded[key]
        if getattr(unwrapped(model), "is_client", False):
            _clients[key] = None
            _clients.move_to_end(key)
            while len(_clients) > MAX_CLIENTS:
                del _loaded[_clients.popitem(last=False)[0]]
        return model


def _identity(value: object) -> str:
    return f"secret {id(value)}" if isinstance(value, Secret) else repr(value)  # all secrets look alike


def check_language_model(spec: LanguageModelSpec, purpose: Purpose = "chat", *, adapter: str | None = None) -> None:
    """Load a model, or ask its server for a sign of life; see `CheckableModel.check`."""
    check = getattr(load_language_model(spec), "check", None)
    if callable(check):
        check(purpose, adapter=adapter)


def unwrapped(model: LanguageModel) -> LanguageModel:
    """The model inside others, for what only some models can do; see `CachedLM`."""
    inner: LanguageModel = getattr(model, "unwrapped", model)
    return inner


def clear_language_models() -> None:
    """Drop the shared instances, so that their memory can be freed."""
    with _lock:
        _loaded.clear()
        _clients.clear()
