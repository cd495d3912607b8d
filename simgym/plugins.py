"""Names to objects: whatever can be exchanged is found through entry points, or imported by `py:`.

Built-ins are declared in simgym's own `pyproject.toml` in the groups `simgym.language_models`, `simgym.simulators`,
`simgym.judges`, `simgym.assistants`, `simgym.scenario_sets`, `simgym.environments` and `simgym.exporters`; another
package adds its own by declaring the same groups. `py:module:Class` names a class or function without any declaration;
its module may lie in the working directory. Nothing is imported until its name is asked for. The constructor's
signature and docstring say which options there are, so that an unknown one is an error before any work begins.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from simgym.errors import ConfigurationError, UnknownName

PYTHON_PREFIX = "py:"
"""Marks a reference to Python code, `py:module:Class`."""
_REFERENCE = re.compile(r"py:(?P<module>[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginOption:
    """One constructor argument of a plug-in."""

    name: str
    """The keyword."""
    type: str
    """Annotation as it stands in the code; empty if there is none."""
    default: str | None
    """Default as Python writes it; None if the option has to be given."""
    help: str
    """What the docstring says; empty if it does not."""


@functools.cache  # the metadata of every installed package is read for it, and it is asked for at every step
def available(kind: str) -> Mapping[str, EntryPoint]:
    """All plug-ins of one kind (`simulators`, `scenario_sets`, ...), by name; looked up once a process.

    Raises:
        ConfigurationError: there is none, not even simgym's own: its metadata are older than its code.
    """
    entries = entry_points(group=f"simgym.{kind}")
    if not entries:
        raise ConfigurationError(_outdated(kind))
    return {entry.name: entry for entry in sorted(entries, key=lambda entry: entry.name)}


def find(kind: str, name: str) -> Any:
    """Import the class or factory registered as `name`, or the one that `py:module:Class` points to.

    Raises:
        UnknownName: nothing of that kind has the name; the message lists the known ones.
        ConfigurationError: the module of a `py:` reference cannot be imported, or simgym has to be installed again.
    """
    if name.startswith(PYTHON_PREFIX):
        return _imported(name)
    known = available(kind)
    if name not in known:
        raise UnknownName(f"{unknown(_noun(kind), name, list(known))} Or install a plug-in, or give py:module:Class.")
    try:
        return known[name].load()
    except (ModuleNotFoundError, AttributeError) as error:
        value = known[name].value
        if not value.startswith("simgym.") or getattr(error, "name", None) != value.partition(":")[0]:
            raise  # another package's affair, or something that the module needs
        raise ConfigurationError(_outdated(kind)) from error


def make(kind: str, name: str, arguments: Mapping[str, Any]) -> Any:
    """The plug-in called `name`, made with these arguments.

    Raises:
        UnknownName: there is no such plug-in, or it has no such option; the message has the nearest name.
        ConfigurationError: an option is missing, or the constructor refuses the values.
    """
    factory = find(kind, name)
    check_options(kind, name, arguments)
    try:
        return factory(**arguments)
    except TypeError as error:
        raise ConfigurationError(f"The {_noun(kind)} {name!r} cannot be made: {error}.") from error


def check_options(kind: str, name: str, arguments: Iterable[str]) -> None:
    """Compare the names of arguments with the constructor's signature; nothing is made.

    Raises:
        UnknownName: there is no such plug-in, or it has no such option.
        ConfigurationError: an option without a default is missing.
    """
    factory, given = find(kind, name), set(arguments)
    if not callable(factory):
        raise ConfigurationError(f"{name} is a {type(factory).__name__}, expected a class or a function.")
    options, title = options_of(factory), f"{_noun(kind)} {name!r}"
    for key in sorted(given - set(options)):
        if not takes_any_option(factory):
            known = ", ".join(options) or "none"
            raise UnknownName(f"The {title} has no option {key!r}.{did_you_mean(key, options)} Known: {known}.")
    if missing := [option.name for option in options.values() if option.default is None and option.name not in given]:
        raise ConfigurationError(f"The {title} needs the option {missing[0]!r}, which is missing.")


def options_of(factory: object) -> dict[str, PluginOption]:
    """Options of a class or function by name; of a function with `**options`, also those of the class it returns."""
    parameters = _parameters(factory)
    texts = _documented(factory)
    options = {
        parameter.name: PluginOption(
            name=parameter.name,
            type=_type_name(parameter.annotation),
            default=None if parameter.default is parameter.empty else _default(parameter.default),
            help=texts.get(parameter.name, ""),
        )
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    returned = _returned_class(factory)
    if returned is None:
        return options
    return {**options_of(returned), **{name: option for name, option in options.items() if option.help}}


def takes_any_option(factory: object) -> bool:
    """Whether a constructor accepts names that its signature does not tell."""
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in _parameters(factory)) and not _returned_class(
        factory
    )


def check_ready(part: object) -> None:
    """Let a simulator, judge or assistant say whether it can begin: it may have `check()`, or `language_model()`.

    Raises:
        ConfigurationError: it lacks something, such as a tokenizer.
        ServerUnavailable: a server that it needs does not answer.
    """
    if callable(check := getattr(part, "check", None)):
        check()
    elif callable(language_model := getattr(part, "language_model", None)):
        check_ready(language_model())


def unknown(what: str, name: str, known: list[str]) -> str:
    """A sentence for a name that does not exist, with the nearest one that does."""
    return f"Unknown {what} {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean ...?` with the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _outdated(kind: str) -> str:
    return (
        f"simgym's own {kind.replace('_', ' ')} are not where its installed metadata say, which are older than "
        "its code. Install it again; in a clone: pip install -e ."
    )


def _noun(kind: str) -> str:
    return kind.removesuffix("s").replace("_", " ")


def _imported(reference: str) -> object:
    parts = _REFERENCE.fullmatch(reference)
    if parts is None:
        raise ConfigurationError(f"{reference!r} is no reference to Python code. Expected py:module:Class.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # at the end: a file here must not hide an installed package
    module_name, name = parts["module"], parts["name"]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it imports is not
        raise ConfigurationError(
            f"There is no module {error.name!r} for {reference}. Install it, or run the command in its folder ({here})."
        ) from error
    if not hasattr(module, name):
        public = [known for known in vars(module) if not known.startswith("_")]
        where = getattr(module, "__file__", None) or "no file"
        raise UnknownName(f"The module {module_name} ({where}) has no {name!r}.{did_you_mean(name, public)}")
    return getattr(module, name)


def _parameters(factory: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(factory).parameters.values())
    except ValueError:  # written in C, without a signature: it may take anything
        return [inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)]


def _returned_class(factory: object) -> type | None:
    """The class whose options a function passes on."""
    if inspect.isclass(factory):
        return None
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in _parameters(factory)):
        return None
    try:
        returned = typing.get_type_hints(factory).get("return")
    except NameError:  # an annotation that exists for type checkers only
        return None
    return returned if inspect.isclass(returned) else None


def _documented(factory: object) -> dict[str, str]:
    """Texts of the section `Args:` of a Google docstring, by argument."""
    documented = factory.__init__ if inspect.isclass(factory) else factory
    _, marker, section = (inspect.getdoc(documented) or "").partition("Args:\n")
    texts: dict[str, str] = {}
    name = ""
    for line in section.splitlines() if marker else ():
        if not line.strip() or not line.startswith("    "):
            break
        if entry := re.match(r" {4}(\w+)(?: \(.*?\))?: (.*)", line):
            name = entry[1]
            texts[name] = entry[2].strip()
        elif name:
            texts[name] += f" {line.strip()}"
    return texts


def _type_name(annotation: object) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    name = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return name.replace("LanguageModelSpec", "model")


def _default(value: object) -> str:
    return str(value) if isinstance(value, type) else repr(value)
