"""`simgym simulators`, `judges` and `scenarios`: what there is to choose from, and with which options."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from typing import Any

from simgym.cli.options import Json
from simgym.cli.terminal import facts, print_json, shown, stdout
from simgym.errors import SimgymError


def simulators(json: Json = False) -> None:
    """List the simulators, their environment ids and their options (for --simulator-option)."""
    from simgym.registration import ENVIRONMENTS

    ids = {row.simulator: row.env_id for row in ENVIRONMENTS}
    _list_plugins("simulators", json, {name: ("environment", env_id) for name, env_id in ids.items()})


def judges(json: Json = False) -> None:
    """List the judges and their options (for --judge-option)."""
    _list_plugins("judges", json, {})


def scenarios(json: Json = False) -> None:
    """List the scenario sets: size, source, licence and what they need."""
    from simgym.data.scenario_sets import NAMED_SETS

    if json:
        print_json([asdict(named) for named in NAMED_SETS])
        return
    for named in NAMED_SETS:
        size = "known once it is read" if named.size is None else f"{named.size:,} scenarios"
        rows = [("size", size), ("source", named.source), ("licence", named.licence), ("needs", named.needs)]
        stdout().print(shown(named.name, "bold cyan"))
        stdout().print(facts(rows))
    stdout().print(shown("Or the path of a JSONL file with one scenario a line."))


def describe_plugin(kind: str, name: str) -> dict[str, Any]:
    """Name, summary and options of a plug-in; `problem` if it cannot be imported, which concerns it alone."""
    from simgym.plugins import find, options_of, takes_any_option

    try:
        factory = find(kind, name)
    except (ImportError, AttributeError, SimgymError) as error:
        return {"name": name, "summary": "", "options": [], "more_options": False, "problem": str(error)}
    summary = (inspect.getdoc(factory) or "").partition("\n")[0]
    options = [{**asdict(option), "required": option.default is None} for option in options_of(factory).values()]
    more = takes_any_option(factory)
    return {"name": name, "summary": summary, "options": options, "more_options": more, "problem": None}


def _list_plugins(kind: str, json: bool, notes: dict[str, tuple[str, str]]) -> None:
    from simgym.plugins import available

    described = [describe_plugin(kind, name) for name in available(kind)]
    for plugin in described:
        if note := notes.get(plugin["name"]):
            plugin[note[0]] = note[1]
    if json:
        print_json(described)
        return
    for plugin in described:
        title = ", ".join([plugin["name"], *notes.get(plugin["name"], ())[1:]])
        stdout().print(shown(title, "bold cyan"))
        stdout().print(shown(plugin["problem"] or plugin["summary"]))
        stdout().print(facts([(f"  {option['name']}", _option_text(option)) for option in plugin["options"]]))


def _option_text(option: dict[str, Any]) -> str:
    default = "required" if option["required"] else f"default {option['default']}"
    return f"{option['type']}, {default}. {option['help']}".removeprefix(", ")
