"""The flags of an experiment: one for each field of `ExperimentConfig`, with the field's own description as help.

`with_experiment` replaces a verb's parameter `config` by these flags and `--config FILE`. What is typed wins over the
file; what is neither typed nor in the file has the field's default. So a flag, a line of the file and an argument in
Python are the same setting.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import textwrap
import types
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from simgym.cli.completion import (
    complete_assistant,
    complete_env,
    complete_judge,
    complete_scenarios,
    complete_simulator,
)
from simgym.cli.options import ASSISTANT_HELP, with_parameters
from simgym.evaluation.config import ExperimentConfig


@dataclass(frozen=True, kw_only=True)
class _Flag:
    """How a field is typed, where that does not follow from its name."""

    names: tuple[str, ...]
    """Spellings."""
    default: str | None = None
    """What stands for None in the help."""
    completion: Callable[[str], list[str]] | None = None
    """Values for the shell."""
    help: str | None = None
    """Instead of the field's text."""


_FLAGS = {
    "assistants": _Flag(
        names=("--assistant",), completion=complete_assistant, help=f"{ASSISTANT_HELP} Repeatable: one row each."
    ),
    "output": _Flag(names=("--output", "-o")),
    "envs": _Flag(names=("--env",), completion=complete_env),
    "simulators": _Flag(names=("--simulator",), completion=complete_simulator),
    "models": _Flag(names=("--model",)),
    "simulator_options": _Flag(names=("--simulator-option",)),
    "scenarios": _Flag(names=("--scenarios",), completion=complete_scenarios),
    "n": _Flag(names=("-n",)),
    "answer_last_words": _Flag(names=("--answer-last-words/--no-answer-last-words",), default="yes"),
    "judge": _Flag(names=("--judge",), completion=complete_judge),
    "judge_options": _Flag(names=("--judge-option",)),
    "asynchronous": _Flag(names=("--async/--no-async",)),
    "prices": _Flag(names=("--price",)),
}
_FILE = Annotated[
    Path | None,
    typer.Option("--config", help="YAML file of settings, named as in Python; flags win.", show_default=False),
]
_OLD_SPELLING = Annotated[bool, typer.Option("--free-running", hidden=True)]


def with_experiment(verb: Callable[..., None]) -> Callable[..., None]:
    """Unfold the parameter `config` of a verb into `--config` and a flag for each field."""
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(verb, eval_str=True).parameters.items()
        if name != "config"
    ]
    flags = [_parameter(entry) for entry in fields(ExperimentConfig)]
    for name, annotation, default in (("config_file", _FILE, None), ("old_spelling", _OLD_SPELLING, False)):
        flags.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation))

    @functools.wraps(verb)
    def unfolded(*, config_file: Path | None, old_spelling: bool, **typed: object) -> None:
        given = {entry.name: typed.pop(entry.name) for entry in fields(ExperimentConfig)}
        if old_spelling:
            given["asynchronous"] = True
        verb(read_experiment(config_file, given), **typed)

    return with_parameters(unfolded, [*flags, *own])


def read_experiment(file: Path | None, typed: dict[str, object]) -> ExperimentConfig:
    """The experiment in a file, if there is one, with what was typed; None and no values leave the file's.

    Raises:
        ConfigurationError: see `ExperimentConfig.from_yaml`.
    """
    given = {name: value for name, value in typed.items() if value is not None and value != []}
    return ExperimentConfig.from_mapping(given) if file is None else ExperimentConfig.from_yaml(file, **given)


def _parameter(entry: Field[Any]) -> inspect.Parameter:
    flag = _FLAGS.get(entry.name, _Flag(names=(f"--{entry.name.replace('_', '-')}",)))
    shown = flag.default or ("" if entry.default in (MISSING, None, (), False) else str(entry.default))
    text = flag.help or field_texts(ExperimentConfig)[entry.name].replace("`", "")
    text = text.replace("; None: ", ". Default: ").replace("None: ", "Default: ")  # a flag is left out instead
    option = typer.Option(*flag.names, help=text, show_default=shown or False, autocompletion=flag.completion)
    return inspect.Parameter(
        entry.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[_typed(get_type_hints(ExperimentConfig)[entry.name]) | None, option],
    )


def _typed(hint: Any) -> Any:
    """What typer reads for a field: several values are a list, what may be None is optional anyway."""
    if get_origin(hint) is tuple or hint == get_type_hints(ExperimentConfig)["assistants"]:
        return list[str]
    if get_origin(hint) is types.UnionType:
        (hint,) = (kind for kind in get_args(hint) if kind is not types.NoneType)
    return hint


@functools.cache
def field_texts(cls: type) -> dict[str, str]:
    """The string under each field of a dataclass, as one line; by name."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    return {
        ast.unparse(field.target): " ".join(str(text.value.value).split())
        for field, text in itertools.pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
