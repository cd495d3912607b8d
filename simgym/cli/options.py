"""Options that several verbs share, declared once, in bundles: a verb that has a bundle has all of its options.

A bundle is a frozen dataclass whose fields are options; `with_bundles` unfolds it into the verb's signature, for typer,
and folds what was typed into an instance. What the texts mean is known by the library (`ModelSpec`, `load_assistant`,
`evaluation.axes`), not here.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from simgym.cli.completion import complete_judge, complete_scenarios, complete_simulator
from simgym.errors import ConfigurationError

if TYPE_CHECKING:
    from simgym.conversation import Scenario
    from simgym.evaluation.axes import Column
    from simgym.language_models.base import SamplingParams
    from simgym.language_models.model_spec import AnswerCache
    from simgym.rollout import RunSettings

ASSISTANT_HELP = (
    "[NAME=]MODEL[+PROMPT]; PROMPT is clarify or a text file. Instead of a model: an assistant (`simgym assistants` "
    "lists them) or py:module:Class."
)
MODEL_HELP = "a name, folder, openai:NAME[@URL], or a JSON object"

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
JudgeModel = Annotated[
    str | None,
    typer.Option(help=f"Model of the judge: {MODEL_HELP}. Default: the judge's own.", show_default=False),
]
JudgeOption = Annotated[
    list[str] | None,
    typer.Option(help="KEY=VALUE for the judge; VALUE is read as JSON if it is. Repeatable.", show_default=False),
]
ResultsFile = Annotated[Path | None, typer.Option("--output", "-o", help="JSON file of the results.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Conversations that run at the same time.")]


@dataclass(frozen=True)
class ConversationOptions:
    """What every conversation needs."""

    scenarios: Annotated[
        str | None,
        typer.Option(
            help="A scenario set (`simgym scenarios` lists them), a JSONL file, or py:module:name. Default: the "
            "environment's.",
            show_default=False,
            autocompletion=complete_scenarios,
        ),
    ] = None
    max_turns: Annotated[
        int | None, typer.Option(min=1, help="Assistant turns after which a conversation ends.", show_default="5")
    ] = None
    answer_last_words: Annotated[
        bool,
        typer.Option(
            "--answer-last-words/--no-answer-last-words",
            help="Whether the assistant replies to the user's parting words.",
            show_default="yes",
        ),
    ] = True

    @property
    def env_options(self) -> dict[str, object]:
        """Arguments of the environment."""
        limit = {} if self.max_turns is None else {"max_turns": self.max_turns}
        return {**limit, "answer_last_words": self.answer_last_words}

    def load_scenarios(self, env_id: str, limit: int | None = None) -> list[Scenario]:
        """The scenarios asked for, or those of the environment."""
        import gymnasium

        from simgym.data.scenario_sets import load_scenarios
        from simgym.envs.settings import ConversationSettings

        row = gymnasium.registry.get(env_id)
        default = row.kwargs.get("scenarios") if row is not None else None
        return load_scenarios(self.scenarios or default or str(ConversationSettings.scenarios), limit=limit)


@dataclass(frozen=True)
class CacheOptions:
    """Whether responses of models are kept."""

    response_cache: Annotated[
        Path | None,
        typer.Option(help="SQLite cache of responses from the configured models.", show_default=False),
    ] = None
    cache_mode: Annotated[
        Literal["off", "read", "record", "replay"],
        typer.Option(help="record: ask for what is not cached; read: the same, writing nothing; replay: never ask."),
    ] = "record"

    @property
    def cache(self) -> AnswerCache:
        """The cache as models take it."""
        from simgym.language_models.model_spec import AnswerCache

        return AnswerCache(self.response_cache, self.cache_mode)

    def model(self, text: str | None) -> Any:
        """A model as typed, behind the cache; None if none was given."""
        from simgym.language_models.model_spec import ModelSpec, check_named_model

        if text is None:
            return None
        check_named_model(text)
        return self.cache.around(ModelSpec.parse(text)).to_json()


@dataclass(frozen=True)
class JudgeOptions:
    """Who judges."""

    judge: Annotated[
        str | None,
        typer.Option(
            help="Judge: a name (`simgym judges` lists them) or py:module:Class.",
            show_default="reward_head",
            autocompletion=complete_judge,
        ),
    ] = None
    judge_model: JudgeModel = None
    judge_option: JudgeOption = None

    def env_options(self, cache: CacheOptions) -> dict[str, object]:
        """Arguments of an environment; what was not given is left to the environment."""
        from simgym.evaluation.axes import read_pairs

        given = {
            "judge": self.judge,
            "judge_model": cache.model(self.judge_model),
            "judge_options": read_pairs(self.judge_option or (), "--judge-option") or None,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class UserOptions:
    """Who plays the user, in verbs with one simulator."""

    simulator: Annotated[
        str | None,
        typer.Option(
            help="Simulator instead of an environment id: a name (`simgym simulators` lists them) or py:module:Class.",
            show_default=False,
            autocompletion=complete_simulator,
        ),
    ] = None
    model: Annotated[
        str | None,
        typer.Option(
            help=f"Model of the simulated user: {MODEL_HELP}. Default: the simulator's own.", show_default=False
        ),
    ] = None
    simulator_option: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE for the simulator; VALUE is read as JSON if it is. Repeatable.", show_default=False
        ),
    ] = None

    def column(self, env: str | None, cache: AnswerCache, default: str | None = None) -> Column:
        """The simulator that `--env` or `--simulator` names, else `default`, with its arguments."""
        from simgym.evaluation.axes import fill_columns, name_columns

        if env is not None and self.simulator is not None:
            raise ConfigurationError(f"Got the environment {env} and --simulator {self.simulator}. Give one of them.")
        env_ids = [name for name in (env or (None if self.simulator else default),) if name is not None]
        columns = name_columns(env_ids, [self.simulator] if self.simulator else [])
        models = [self.model] if self.model is not None else []
        return fill_columns(columns, models, self.simulator_option or [], cache=cache)[0]


@dataclass(frozen=True)
class ColumnOptions:
    """Who plays the user, in verbs with several simulators side by side."""

    simulator: Annotated[
        list[str] | None,
        typer.Option(
            help="[NAME=]SIMULATOR, by name or py:module:Class, as a column of its own. Repeatable.",
            show_default=False,
            autocompletion=complete_simulator,
        ),
    ] = None
    model: Annotated[
        list[str] | None,
        typer.Option(help=f"[ENV=]MODEL of all simulators or of one: {MODEL_HELP}. Repeatable.", show_default=False),
    ] = None
    simulator_option: Annotated[
        list[str] | None,
        typer.Option(help="[ENV:]KEY=VALUE for all simulators or for one. Repeatable.", show_default=False),
    ] = None
    user_max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest user turn, tokens, the frame of a JSON reply included.")
    ] = 256

    def columns(self, env_ids: list[str] | None, cache: AnswerCache) -> list[Column]:
        """The columns with the arguments of their simulators."""
        from simgym.evaluation.axes import fill_columns, name_columns

        return fill_columns(
            name_columns(env_ids or [], self.simulator or []),
            self.model or [],
            self.simulator_option or [],
            max_new_tokens=self.user_max_new_tokens,
            cache=cache,
        )


@dataclass(frozen=True)
class SamplingOptions:
    """How the assistant's replies are drawn."""

    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest assistant turn, tokens.")] = 256
    temperature: Annotated[
        float, typer.Option(min=0.0, help="Temperature of the assistant; 0 picks the most likely token.")
    ] = 1.0

    @property
    def sampling(self) -> SamplingParams:
        """As models take it."""
        from simgym.language_models.base import SamplingParams

        return SamplingParams(temperature=self.temperature, max_new_tokens=self.max_new_tokens)


@dataclass(frozen=True)
class RunOptions:
    """How conversations are run."""

    seed: Seed = 0
    batch_size: BatchSize = 32
    run_async: Annotated[
        bool,
        typer.Option(
            "--async/--no-async",
            help="Let each conversation advance at its own pace: faster behind servers.",
        ),
    ] = False
    old_spelling: Annotated[bool, typer.Option("--free-running", hidden=True)] = False
    retry_faults: Annotated[
        list[str] | None,
        typer.Option(
            help="Run stored conversations with this kind of fault again, e.g. unparsable. Repeatable. Those that an "
            "outage ended are always run again.",
            show_default=False,
        ),
    ] = None

    @property
    def settings(self) -> RunSettings:
        """As a rollout takes them."""
        from simgym.rollout import RunSettings

        return RunSettings(
            batch_size=self.batch_size,
            asynchronous=self.run_async or self.old_spelling,
            retried_faults=frozenset(self.retry_faults or ()),
        )


def with_bundles(verb: Callable[..., None]) -> Callable[..., None]:
    """Unfold the bundles among a verb's parameters into options."""
    signature = inspect.signature(verb, eval_str=True)
    bundles: dict[str, Any] = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if dataclasses.is_dataclass(parameter.annotation)
    }
    flat: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        flat += _unfolded(bundles[name]) if name in bundles else [parameter.replace(kind=parameter.KEYWORD_ONLY)]

    def unfolded(**typed: Any) -> None:
        folded = {
            name: bundle(**{field.name: typed.pop(field.name) for field in dataclasses.fields(bundle)})
            for name, bundle in bundles.items()
        }
        verb(**typed, **folded)

    return with_parameters(functools.wraps(verb)(unfolded), flat)


def with_parameters(unfolded: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """Show typer these parameters, in place of those of the verb that is wrapped."""
    unfolded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    unfolded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del unfolded.__wrapped__  # type: ignore[attr-defined]
    return unfolded


def _unfolded(bundle: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(bundle, include_extras=True, localns={"Column": Any, "AnswerCache": Any})
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in dataclasses.fields(bundle)
    ]
