"""Options that several verbs share, declared once, and how their texts become arguments of an environment."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from simgym.errors import ConfigurationError

if TYPE_CHECKING:
    from simgym.conversation import Scenario
    from simgym.language_models.base import Sampling

Scenarios = Annotated[
    str | None,
    typer.Option(
        help="everyday, chitchat, wildchat or a JSONL file. Default: everyday; for Replay chitchat.",
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Model of the simulated user: a name, folder, openai:NAME, or a JSON object. Default: the embedded one.",
        show_default=False,
    ),
]
Judge = Annotated[str | None, typer.Option(help="reward_head, relevance, rubric ...", show_default="reward_head")]
JudgeModel = Annotated[
    str | None, typer.Option(help="Model of the judge. Default: the embedded one.", show_default=False)
]
MaxTurns = Annotated[
    int | None, typer.Option(min=1, help="Assistant turns after which a conversation ends.", show_default="5")
]
SimulatorOption = Annotated[
    list[str] | None,
    typer.Option(help="KEY=VALUE for the simulator; VALUE is read as JSON if it is. Repeatable.", show_default=False),
]
Seed = Annotated[int, typer.Option(help="Decides everything random.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Conversations held at the same time.")]
FreeRunning = Annotated[
    bool, typer.Option(help="Let each conversation go its own way instead of all in step: faster behind servers.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest assistant turn, tokens.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="Of the assistant; 0 picks the most likely token.")]
RetryFaults = Annotated[
    list[str] | None,
    typer.Option(
        help="Run stored conversations with this kind of fault again, e.g. unparsable. Repeatable. Those that an "
        "outage ended are always run again.",
        show_default=False,
    ),
]
ResponseCache = Annotated[
    Path | None,
    typer.Option(
        help="SQLite file that remembers answers of the models that are given (servers, say).", show_default=False
    ),
]
CacheMode = Annotated[
    Literal["off", "read", "record", "replay"],
    typer.Option(help="record: ask for what is not in the file; read: without writing; replay: ask for nothing."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

ASSISTANT_HELP = "[NAME=]MODEL[+PROMPT]; PROMPT is clarify or a text file."


def read_model(text: str) -> Any:
    """A model as typed: a name, or a JSON object of settings."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"The model {text!r} starts like a JSON object but is none: {error}.") from error


def remembered(model: Any, file: Path | None, mode: str) -> Any:
    """A model whose answers are remembered in a file; without a file, the model itself.

    Raises:
        ConfigurationError: there is no file, but a mode that needs one.
    """
    if file is None and mode in ("read", "replay"):
        raise ConfigurationError(f"--cache-mode {mode} needs the file to {mode}. Give --response-cache FILE.")
    return model if file is None else {"kind": "cached", "model": model, "path": str(file), "mode": mode}


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
            pairs[key] = json.loads(value)
        except ValueError:
            pairs[key] = value
    return pairs


def env_options(
    *,
    model: str | None = None,
    judge: str | None = None,
    judge_model: str | None = None,
    max_turns: int | None = None,
    simulator_options: Iterable[str] | None = None,
    response_cache: Path | None = None,
    cache_mode: str = "record",
) -> dict[str, Any]:
    """Arguments of an environment; what was not given is left to the environment."""
    given = {
        "model": remembered(read_model(model), response_cache, cache_mode) if model else None,
        "judge": judge,
        "judge_model": remembered(read_model(judge_model), response_cache, cache_mode) if judge_model else None,
        "max_turns": max_turns,
        "simulator_options": read_pairs(simulator_options or (), "--simulator-option") or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def open_env(env_id: str, scenarios: str | None, options: dict[str, Any], *, limit: int | None = None) -> Any:
    """The environment `env_id` on the first `limit` scenarios of a set."""
    from simgym.evaluation.matrix import make_env

    return make_env(env_id, load(env_id, scenarios, limit), options)


def load(env_id: str, scenarios: str | None, limit: int | None = None) -> list[Scenario]:
    """The scenarios asked for, or those of the environment."""
    import gymnasium

    from simgym.data.scenario_sets import load_scenarios
    from simgym.envs.settings import ConversationSettings

    row = gymnasium.registry.get(env_id)
    default = row.kwargs.get("scenarios") if row is not None else None
    return load_scenarios(scenarios or default or str(ConversationSettings.scenarios), limit=limit)


def sampling(max_new_tokens: int, temperature: float) -> Sampling:
    """How the assistant's replies are drawn."""
    from simgym.language_models.base import Sampling

    return Sampling(temperature=temperature, max_new_tokens=max_new_tokens)
