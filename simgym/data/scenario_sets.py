"""Scenario sets by name: everyday (embedded), chitchat, wildchat, or a JSONL file of your own."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from simgym.conversation import Scenario, read_scenarios
from simgym.errors import ConfigurationError, UnknownName
from simgym.plugins import unknown

SETS = ("everyday", "chitchat", "wildchat")


def load_scenarios(source: str, *, limit: int | None = None) -> list[Scenario]:
    """The scenarios of a set, in its fixed order.

    Args:
        source: `everyday` (embedded; written for simgym, not human logs), `chitchat` (real people, from the package
            `chitchat-dataset`), `wildchat` or `wildchat:SOURCE` (a Hugging Face id, or a JSONL or Parquet file in the
            schema of WildChat), or the path of a JSONL file with one scenario a line.
        limit: Take the first so many; None: all (for wildchat the first 1,000).

    Raises:
        UnknownName: there is neither such a set nor such a file.
        ConfigurationError: the limit is not positive, or the set is empty.
        MalformedFile: a line of the file cannot be read.
        MissingDependency: the set needs a package that is not installed.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(f"The limit of scenarios is {limit}, expected >= 1.")
    name, _, location = source.partition(":")
    if source == "everyday":
        text = (resources.files("simgym.data") / "scenarios" / "everyday.jsonl").read_text(encoding="utf-8")
        return [Scenario.from_json(json.loads(line)) for line in text.splitlines() if line][:limit]
    if source == "chitchat":
        from simgym.data.chitchat import read_chitchat

        return list(read_chitchat().scenarios[:limit])
    if name == "wildchat":
        from simgym.data.wildchat import DEFAULT_SOURCE, wildchat_scenarios

        return list(wildchat_scenarios(location or DEFAULT_SOURCE, limit=limit or 1000))
    if source.endswith(".jsonl") or Path(source).is_file():
        return read_scenarios(source)[:limit]
    raise UnknownName(f"{unknown('scenario set', source, list(SETS))} Or give the path of a JSONL file.")
