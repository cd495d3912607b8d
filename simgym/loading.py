"""From a name to a simulator or judge: one way for every role that may stand on a language model.

A role is given as an instance, as a registered name, or as `py:module:Class`. A name is looked up among the plug-ins
(see `simgym.plugins`), its options are checked against the constructor, and a model is passed on only to roles that
take one. What comes out is checked against the role's protocol, so that a wrong object is a sentence here instead of an
AttributeError in the middle of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from simgym.errors import ConfigurationError
from simgym.language_models.loading import LanguageModelSpec
from simgym.language_models.model_spec import check_named_model
from simgym.plugins import find, make, options_of, takes_any_option

_Role = TypeVar("_Role")


def load_role(
    kind: str,
    protocol: type[_Role],
    role: object,
    model: LanguageModelSpec | None = None,
    options: Mapping[str, Any] | None = None,
) -> _Role:
    """The plug-in called `role`, or the instance itself.

    Args:
        kind: Group of plug-ins: `simulators` or `judges`.
        protocol: What the object has to implement; can be checked at runtime.
        role: A name, `py:module:Class`, or an instance.
        model: Passed on if the constructor takes a model and `options` has none; None: the constructor's default.
        options: Further constructor arguments.

    Raises:
        UnknownName: there is no such plug-in, or it has no such option.
        ConfigurationError: it does not take these arguments, or the object does not implement the protocol.
    """
    noun = protocol.__name__
    if not isinstance(role, str):
        if not isinstance(role, protocol):
            raise ConfigurationError(
                f"Got a {type(role).__name__}, expected the name of a {noun} or {_methods(protocol)}."
            )
        return role
    arguments = dict(options or {})
    if (model := arguments.get("model", model)) is not None:
        check_named_model(model)
        if takes_option(kind, role, "model"):
            arguments["model"] = model
    loaded = make(kind, role, arguments)
    if not isinstance(loaded, protocol):
        raise ConfigurationError(f"{role} makes a {type(loaded).__name__}, expected {_methods(protocol)}.")
    return loaded


def takes_option(kind: str, name: str, option: str) -> bool:
    """Whether the constructor of a plug-in has an argument `option`, its own or passed on."""
    factory = find(kind, name)
    return option in options_of(factory) or takes_any_option(factory)


def _methods(protocol: type) -> str:
    """The methods of a protocol in the order of their definition, for messages."""
    *names, last = (name for name in vars(protocol) if not name.startswith("_") and callable(vars(protocol)[name]))
    return f"an object with {', '.join(names)} and {last}"
