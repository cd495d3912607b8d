"""Scenario sets by name: everyday (embedded), chitchat, wildchat, a plug-in's, or a JSONL file of your own.

A set is found under the entry-point group `simgym.scenario_sets`, or as `py:module:name`. It is a `ScenarioSet`, or a
function that returns scenarios. What the function takes says what can be asked of the set: `limit` (the first so many),
`split`, and `location` (what stands behind the colon in `NAME:LOCATION`); all are optional.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from simgym.conversation import Scenario, read_scenarios
from simgym.errors import ConfigurationError, UnknownName
from simgym.plugins import PYTHON_PREFIX, available, find, options_of, unknown
from simgym.seeding import derive_seed

WILDCHAT_LIMIT = 1000
"""How many scenarios of WildChat are streamed unless a limit is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioSet:
    """A set of scenarios that has a name."""

    load: Callable[..., Sequence[Scenario]]
    """Reads the scenarios; has any of the keyword arguments `limit`, `split` and `location`, each None if not given."""
    source: str
    """Where the texts come from."""
    size: int | None = None
    """How many scenarios; None if that is known only once they are read."""
    licence: str = ""
    """Of the texts; empty if it is not said."""
    needs: str = ""
    """What has to be installed or reached; empty if nothing."""


def load_scenarios(source: str, *, limit: int | None = None, split: str | None = None) -> list[Scenario]:
    """The scenarios of a set, in its fixed order.

    Args:
        source: `everyday` (embedded; written for simgym, not human logs), `chitchat` (real people, from the package
            `chitchat-dataset`), `wildchat` or `wildchat:SOURCE` (a Hugging Face id, or a JSONL or Parquet file in the
            schema of WildChat), a plug-in's name, `py:module:name`, or the path of a JSONL file with one scenario a
            line.
        limit: Take the first so many; None: all (for wildchat the first 1,000).
        split: Split of a dataset on the Hugging Face Hub (None: `train`), or of chitchat (`train`, `validation` or
            `test`, no user in two; None: all). No other set of simgym's is divided into splits.

    Raises:
        UnknownName: there is neither such a set nor such a file.
        ConfigurationError: the limit is not positive, the set is empty, or it has no splits.
        MalformedFile: a line of the file cannot be read.
        MissingDependency: the set needs a package that is not installed.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(f"The limit of scenarios is {limit}, expected >= 1.")
    name, _, location = (source, "", "") if source.startswith(PYTHON_PREFIX) else source.partition(":")
    if name.startswith(PYTHON_PREFIX) or name in available("scenario_sets"):
        return _read(name, location or None, limit, split)
    if not source.endswith(".jsonl") and not Path(source).is_file():
        known = list(available("scenario_sets"))
        raise UnknownName(f"{unknown('scenario set', source, known)} Or give the path of a JSONL file.")
    if split is not None:
        raise ConfigurationError(f"The file {source} has no split {split!r}. Leave the split out.")
    return read_scenarios(source)[:limit]


def find_scenario_set(name: str) -> ScenarioSet:
    """The set that has a name, or that `py:module:name` points to; nothing is read.

    Raises:
        UnknownName: there is no such set.
        ConfigurationError: it is neither a `ScenarioSet` nor a function.
    """
    loaded = find("scenario_sets", name)
    if isinstance(loaded, ScenarioSet):
        return loaded
    if not callable(loaded):
        raise ConfigurationError(
            f"The scenario set {name} is a {type(loaded).__name__}, expected a ScenarioSet or a function that returns "
            "scenarios."
        )
    return ScenarioSet(load=loaded, source=(inspect.getdoc(loaded) or "").partition("\n")[0])


def hold_out(scenarios: Sequence[Scenario], *, parts: int = 5) -> tuple[list[Scenario], list[Scenario]]:
    """Scenarios to train on and to test on: one of `parts` is held out (at least one scenario), by the ids alone.

    So whoever plays the user and whatever the seed of a training, the same scenarios are held out; they come in an
    order that their ids decide, so that the first n of them are a sample.
    """
    order = sorted(scenarios, key=lambda scenario: derive_seed(0, "held out", scenario.id))
    held_out = order[: max(1, len(order) // parts)]
    ids = {scenario.id for scenario in held_out}
    return [scenario for scenario in scenarios if scenario.id not in ids], held_out


def _read(name: str, location: str | None, limit: int | None, split: str | None) -> list[Scenario]:
    scenario_set = find_scenario_set(name)
    asked = {"location": location, "split": split, "limit": limit}
    taken = options_of(scenario_set.load)
    for word in ("location", "split"):
        if asked[word] is not None and word not in taken:
            raise ConfigurationError(f"The scenario set {name!r} has no {word} {asked[word]!r}. Leave the {word} out.")
    read = scenario_set.load(**{word: value for word, value in asked.items() if word in taken})
    scenarios = list(read)[:limit]
    if wrong := [type(scenario).__name__ for scenario in scenarios if not isinstance(scenario, Scenario)]:
        raise ConfigurationError(f"The scenario set {name!r} holds a {wrong[0]}, expected scenarios.")
    if not scenarios:
        raise ConfigurationError(f"The scenario set {name!r} is empty, expected at least one scenario.")
    return scenarios


def _everyday() -> list[Scenario]:
    text = (resources.files("simgym.data") / "scenarios" / "everyday.jsonl").read_text(encoding="utf-8")
    return [Scenario.from_json(json.loads(line)) for line in text.split("\n") if line]


def _chitchat(*, limit: int | None = None, split: str | None = None) -> Sequence[Scenario]:
    from simgym.data.chitchat import chitchat_scenarios

    return chitchat_scenarios(split=split, limit=limit).scenarios


def _wildchat(*, location: str | None = None, limit: int | None = None, split: str | None = None) -> Sequence[Scenario]:
    from simgym.data.wildchat import DEFAULT_SOURCE, wildchat_scenarios

    location = location or DEFAULT_SOURCE
    if split is not None and Path(location).suffix in (".jsonl", ".parquet"):
        raise ConfigurationError(f"The file {location} has no split {split!r}. Leave the split out.")
    outcome = wildchat_scenarios(location, limit=limit or WILDCHAT_LIMIT, split=split or "train")
    if not outcome.scenarios:
        raise ConfigurationError(
            f"{location} gave no scenario: {outcome.read} rows read, dropped {dict(outcome.dropped)}. Give another "
            "source or split."
        )
    return outcome.scenarios


EVERYDAY = ScenarioSet(load=_everyday, size=186, source="written for simgym, not human logs", licence="Apache-2.0")
"""Embedded in the package."""
CHITCHAT = ScenarioSet(
    load=_chitchat,
    size=1676,
    source="chitchat-dataset 0.9.0: real people, with the recorded conversation",
    licence="MIT",
    needs="pip install 'simgym[chitchat]'",
)
"""Read from an installed package."""
WILDCHAT = ScenarioSet(
    load=_wildchat,
    source="allenai/WildChat-1M: real users with a chatbot; also wildchat:FILE or wildchat:OWNER/DATASET",
    licence="ODC-BY 1.0 (WildChat-1M); another source has its own",
    needs="the Hugging Face Hub, or a JSONL or Parquet file",
)
"""Streamed."""
