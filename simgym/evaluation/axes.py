"""The axes of a matrix as they are typed: assistants, simulators and their models, prices, collectors.

Functions from texts to values, without side effects but one: a simulator that has no environment id is registered under
one of its own, so that it is a column like any other.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from simgym.assistants.base import Assistant
from simgym.assistants.trained import TrainedAssistant
from simgym.errors import ConfigurationError, UnknownName
from simgym.evaluation.matrix import CellCollector
from simgym.jsonl import parse_json
from simgym.language_models.model_spec import AnswerCache, ModelSpec
from simgym.loading import takes_option
from simgym.plugins import PYTHON_PREFIX, available, did_you_mean, unknown
from simgym.registration import register_simulator
from simgym.rollout.budget import Price
from simgym.simulators.loading import simulator_of


@dataclass(frozen=True, slots=True)
class Column:
    """One simulator as it was named."""

    env_id: str
    """Environment id; the simulator's own, or one derived from its name."""
    names: tuple[str, ...]
    """What stands for the column before `=` or `:` in an option: the id, and the text that was typed."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the simulator."""


def read_pairs(texts: Iterable[str], option: str) -> dict[str, Any]:
    """`KEY=VALUE` texts as a mapping; a value that is JSON is read as such, any other is a text.

    Raises:
        ConfigurationError: a text has no `=`, or a key comes twice.
    """
    pairs: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ConfigurationError(f"{option} is {text!r}, expected KEY=VALUE, e.g. temperature=0.5.")
        if key in pairs:
            raise ConfigurationError(f"{option} has {key!r} twice. Give it once.")
        try:
            pairs[key] = parse_json(value)
        except ValueError:
            pairs[key] = value
    return pairs


def name_columns(env_ids: Sequence[str], simulators: Sequence[str]) -> list[Column]:
    """Columns of `--env` and `--simulator`, in this order; what is named twice is one column.

    Raises:
        UnknownName: there is no such environment or simulator.
        ConfigurationError: there is neither, or a derived id stands for another simulator.
    """
    for env_id in env_ids:
        simulator_of(env_id)
    columns = {env_id: Column(env_id, (env_id,)) for env_id in env_ids}
    for text in simulators:
        name, equals, rest = text.partition("=")
        simulator = rest if equals else text
        if not simulator.startswith(PYTHON_PREFIX) and simulator not in (known := available("simulators")):
            raise UnknownName(unknown("simulator", simulator, [*known, "py:module:Class"]))
        env_id = register_simulator(simulator, f"UserSim-{name}-v0" if equals else None)
        columns.setdefault(env_id, Column(env_id, (env_id, name)))
    if not columns:
        raise ConfigurationError(
            "There is no simulator. Give --env ID or --simulator NAME; `simgym simulators` lists them."
        )
    return list(columns.values())


def fill_columns(
    columns: Sequence[Column],
    models: Sequence[str],
    options: Sequence[str],
    *,
    max_new_tokens: int | None = None,
    cache: AnswerCache = AnswerCache(),  # noqa: B008  # frozen
) -> list[Column]:
    """The columns with the arguments of their simulators.

    Args:
        columns: As `name_columns` gives them.
        models: `[COLUMN=]MODEL`; of several that fit, the last one for the column, else the last one for all.
        options: `[COLUMN:]KEY=VALUE`.
        max_new_tokens: Bound of a user turn for simulators that have one; None: their own.
        cache: Where responses of the given models are kept.

    Raises:
        ConfigurationError: a model or an option cannot be read, or names no column.
    """
    names = {name: column.env_id for column in columns for name in column.names}
    filled = []
    for column in columns:
        simulator = simulator_of(column.env_id)
        own = [_aimed(text, names, ":") for text in options]
        given = read_pairs([rest for target, rest in own if target in (None, column.env_id)], "--simulator-option")
        if max_new_tokens is not None and takes_option("simulators", simulator, "max_new_tokens"):
            given.setdefault("max_new_tokens", max_new_tokens)
        aimed = [_aimed(text, names, "=") for text in models]
        mine = [rest for target, rest in aimed if target == column.env_id]
        common = [rest for target, rest in aimed if target is None]
        if (chosen := (mine or common)[-1:]) and takes_option("simulators", simulator, "model"):
            given["model"] = cache.around(ModelSpec.parse(chosen[0])).to_json()
        filled.append(replace(column, options=given))
    return filled


def read_training_simulators(
    texts: Sequence[str], rows: Mapping[str, Assistant], columns: Sequence[Column], *, reference: str | None = None
) -> dict[str, str]:
    """Environment id by assistant: as the records of trained assistants say, or of `ASSISTANT=COLUMN`, which wins.

    Args:
        texts: As typed.
        rows: Assistants by name.
        columns: Simulators; a record that names another one is passed over.
        reference: Assistant that gains are counted from, whose record is passed over; None: the first.

    Raises:
        ConfigurationError: there is no such row or column.
    """
    names = {name: column.env_id for column in columns for name in column.names}
    reference = reference if reference is not None else next(iter(rows))
    training = {
        row: assistant.training.env_id
        for row, assistant in rows.items()
        if isinstance(assistant, TrainedAssistant) and row != reference and assistant.training.env_id in names.values()
    }
    for text in texts:
        row, _, column = text.partition("=")
        if row not in rows or column not in names:
            raise ConfigurationError(
                f"--trained-on is {text}, expected ASSISTANT=ENV with one of {', '.join(rows)} and one of "
                f"{', '.join(column.env_id for column in columns)}."
            )
        training[row] = names[column]
    return training


def read_prices(texts: Sequence[str]) -> dict[str, Price]:
    """Prices by role, of `ROLE=INPUT,OUTPUT`.

    Raises:
        ConfigurationError: not two numbers, or a negative one.
    """
    prices = {}
    for text in texts:
        role, _, numbers = text.partition("=")
        try:
            input_price, output_price = (float(number) for number in numbers.split(","))
        except ValueError:
            raise ConfigurationError(
                f"--price is {text!r}, expected ROLE=INPUT,OUTPUT, e.g. judge=0.15,0.60 (per million tokens)."
            ) from None
        prices[role] = Price(input_price, output_price)
    return prices


def read_collector(ray: str | None, resources: str | None, asynchronous: bool) -> CellCollector:
    """Who runs the conversations: this process, or a Ray cluster.

    Raises:
        ConfigurationError: the resources are no JSON object of numbers, or there are options of both.
    """
    if ray is not None and asynchronous:
        raise ConfigurationError("--ray runs synchronous batches. Leave out --async, or --ray.")
    if ray is None and resources is not None:
        raise ConfigurationError("--ray-resources are those of a cluster's tasks. Give --ray, too.")
    if ray is not None:
        from simgym.rollout.ray_collect import ray_collect_jobs

        return functools.partial(ray_collect_jobs, address=ray, resources=read_resources(resources))
    from simgym.rollout import collect_jobs

    return collect_jobs


def read_resources(text: str | None) -> dict[str, float]:
    """What a task on a cluster needs, of JSON; None: one CPU.

    Raises:
        ConfigurationError: it is no JSON object of numbers.
    """
    try:
        return {str(name): float(number) for name, number in parse_json(text or '{"num_cpus": 1}').items()}
    except (ValueError, TypeError, AttributeError):
        raise ConfigurationError(
            f"The resources of a task are {text!r}, expected a JSON object of numbers, "
            'e.g. {"num_cpus": 2, "num_gpus": 1}.'
        ) from None


def _aimed(text: str, names: Mapping[str, str], separator: str) -> tuple[str | None, str]:
    """Environment id of the column that an option is for (None: all), and the option without it."""
    for name in sorted(names, key=len, reverse=True):
        if text.startswith(f"{name}{separator}"):
            return names[name], text[len(name) + 1 :]
    head, separated, _ = text.partition(separator)
    if separated and head.startswith("UserSim-"):
        known = [name for name in names if name.startswith("UserSim-")]
        raise UnknownName(
            f"{text!r} is for no column of this run.{did_you_mean(head, known)} Columns: {', '.join(known)}."
        )
    return None, text
