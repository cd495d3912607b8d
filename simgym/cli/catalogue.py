"""`simgym simulators`, `judges`, `assistants` and `scenarios`: what there is to choose from, and with which options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from simgym.cli.options import Json
from simgym.cli.terminal import facts, print_json, shown, stdout
from simgym.errors import SimgymError


def simulators(json: Json = False) -> None:
    """List the simulators, their environment ids and their options (for --simulator-option)."""
    from simgym.registration import environments

    _list_plugins("simulators", json, {row.simulator: row.env_id for row in environments().values()})


def judges(json: Json = False) -> None:
    """List the judges and their options (for --judge-option)."""
    _list_plugins("judges", json)


def assistants(json: Json = False) -> None:
    """List the assistants and their options: --assistant NAME, or --assistant '{"assistant": NAME, OPTION: VALUE}'."""
    _list_plugins("assistants", json)


def scenarios(json: Json = False) -> None:
    """List the scenario sets: size, source, licence and what they need."""
    from simgym.plugins import available

    described = [_describe_set(name) for name in available("scenario_sets")]
    if json:
        print_json(described)
        return
    for named in described:
        size = "known once it is read" if named["size"] is None else f"{named['size']:,} scenarios"
        facts_of_it = [("size", size), *((word, named[word]) for word in ("source", "licence", "needs", "problem"))]
        stdout().print(shown(named["name"], "bold cyan"))
        stdout().print(facts([(word, text) for word, text in facts_of_it if text]))
    stdout().print(shown("Or the path of a JSONL file with one scenario a line, or py:module:name."))


def _describe_set(name: str) -> dict[str, Any]:
    """What is known of a set without reading it; `problem` if its plug-in cannot be imported."""
    from simgym.data import find_scenario_set

    try:
        named = find_scenario_set(name)
    except (ImportError, AttributeError, SimgymError) as error:
        return {"name": name, "size": None, "source": "", "licence": "", "needs": "", "problem": str(error)}
    described = {word: getattr(named, word) for word in ("size", "source", "licence", "needs")}
    return {"name": name, **described, "problem": None}


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


def _list_plugins(kind: str, json: bool, env_ids: Mapping[str, str] | None = None) -> None:
    from simgym.plugins import available

    described = [describe_plugin(kind, name) for name in available(kind)]
    for plugin in described:
        if env_ids and plugin["name"] in env_ids:
            plugin["environment"] = env_ids[plugin["name"]]
    if json:
        print_json(described)
        return
    for plugin in described:
        title = ", ".join(plugin[key] for key in ("name", "environment") if key in plugin)
        stdout().print(shown(title, "bold cyan"))
        stdout().print(shown(plugin["problem"] or plugin["summary"]))
        stdout().print(facts([(f"  {option['name']}", _option_text(option)) for option in plugin["options"]]))


def _option_text(option: dict[str, Any]) -> str:
    default = "required" if option["required"] else f"default {option['default']}"
    return f"{option['type']}, {default}. {option['help']}".removeprefix(", ")
