"""Scenario sets by name: everyday (embedded), chitchat, wildchat, or a JSONL file of your own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from simgym.conversation import Scenario, read_scenarios
from simgym.errors import ConfigurationError, UnknownName
from simgym.plugins import unknown
from simgym.seeding import derive_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioSet:
    """A set of scenarios that has a name."""

    name: str
    """What `load_scenarios` takes."""
    size: int | None
    """How many scenarios; None if that is known only after a download."""
    source: str
    """Where the texts come from."""
    licence: str
    """Of the texts."""
    needs: str
    """What has to be installed or reached; empty if nothing."""


NAMED_SETS = (
    ScenarioSet(name="everyday", size=186, source="written for simgym, not human logs", licence="Apache-2.0", needs=""),
    ScenarioSet(
        name="chitchat",
        size=1676,
        source="chitchat-dataset 0.9.0: real people, with the recorded conversation",
        licence="MIT",
        needs="pip install 'simgym[chitchat]'",
    ),
    ScenarioSet(
        name="wildchat",
        size=None,
        source="allenai/WildChat-1M: real users with a chatbot; also wildchat:FILE or wildchat:OWNER/DATASET",
        licence="ODC-BY 1.0 (WildChat-1M); another source has its own",
        needs="the Hugging Face Hub, or a JSONL or Parquet file",
    ),
)
"""The sets that have a name."""
SETS = tuple(named.name for named in NAMED_SETS)
"""Names that `load_scenarios` knows."""
WILDCHAT_LIMIT = 1000
"""How many scenarios of WildChat are streamed unless a limit is given."""


def load_scenarios(source: str, *, limit: int | None = None, split: str | None = None) -> list[Scenario]:
    """The scenarios of a set, in its fixed order.

    Args:
        source: `everyday` (embedded; written for simgym, not human logs), `chitchat` (real people, from the package
            `chitchat-dataset`), `wildchat` or `wildchat:SOURCE` (a Hugging Face id, or a JSONL or Parquet file in the
            schema of WildChat), or the path of a JSONL file with one scenario a line.
        limit: Take the first so many; None: all (for wildchat the first 1,000).
        split: Split of a dataset on the Hugging Face Hub (None: `train`), or of chitchat (`train`, `validation` or
            `test`, no user in two; None: all). No other set is divided into splits.

    Raises:
        UnknownName: there is neither such a set nor such a file.
        ConfigurationError: the limit is not positive, the set is empty, or it has no splits.
        MalformedFile: a line of the file cannot be read.
        MissingDependency: the set needs a package that is not installed.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(f"The limit of scenarios is {limit}, expected >= 1.")
    name, _, location = source.partition(":")
    on_the_hub = name == "wildchat" and Path(location).suffix not in (".jsonl", ".parquet")
    if split is not None and not on_the_hub and source != "chitchat":
        raise ConfigurationError(f"The scenario set {source!r} has no split {split!r}. Leave the split out.")
    if name == "wildchat":
        return _wildchat(location, limit or WILDCHAT_LIMIT, split or "train")
    if source == "everyday":
        text = (resources.files("simgym.data") / "scenarios" / "everyday.jsonl").read_text(encoding="utf-8")
        return [Scenario.from_json(json.loads(line)) for line in text.split("\n") if line][:limit]
    if source == "chitchat":
        from simgym.data.chitchat import chitchat_scenarios

        return list(chitchat_scenarios(split=split).scenarios[:limit])
    if source.endswith(".jsonl") or Path(source).is_file():
        return read_scenarios(source)[:limit]
    raise UnknownName(f"{unknown('scenario set', source, list(SETS))} Or give the path of a JSONL file.")


def hold_out(scenarios: Sequence[Scenario], *, parts: int = 5) -> tuple[list[Scenario], list[Scenario]]:
    """Scenarios to train on and to test on: one of `parts` is held out (at least one scenario), by the ids alone.

    So whoever plays the user and whatever the seed of a training, the same scenarios are held out; they come in an
    order that their ids decide, so that the first n of them are a sample.
    """
    order = sorted(scenarios, key=lambda scenario: derive_seed(0, "held out", scenario.id))
    held_out = order[: max(1, len(order) // parts)]
    ids = {scenario.id for scenario in held_out}
    return [scenario for scenario in scenarios if scenario.id not in ids], held_out


def _wildchat(location: str, limit: int, split: str) -> list[Scenario]:
    from simgym.data.wildchat import DEFAULT_SOURCE, wildchat_scenarios

    outcome = wildchat_scenarios(location or DEFAULT_SOURCE, limit=limit, split=split)
    if not outcome.scenarios:
        raise ConfigurationError(
            f"{location or DEFAULT_SOURCE} gave no scenario: {outcome.read} rows read, dropped "
            f"{dict(outcome.dropped)}. Give another source or split."
        )
    return list(outcome.scenarios)
