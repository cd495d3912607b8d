"""`simgym matrix`: every assistant with every simulated user, as a table, results.json and an HTML report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simgym.cli import options
from simgym.cli.matrix_tables import differences_table, forecast_rows, matrix_table
from simgym.cli.terminal import complain, facts, shown, stderr, stdout
from simgym.errors import ConfigurationError

if TYPE_CHECKING:
    from simgym.assistants.language_model_assistant import LanguageModelAssistant
    from simgym.conversation import Scenario
    from simgym.evaluation.budget import Price
    from simgym.evaluation.matrix import CellCollector, Matrix, MatrixRun
    from simgym.report.results import MatrixResults
    from simgym.transcripts import Transcript

_QUESTION = "How well does each assistant do with simulated users, and does it depend on which simulator plays them?"


def matrix(
    assistant: Annotated[list[str], typer.Option(help=f"{options.ASSISTANT_HELP} Repeatable: one row each.")],
    env: Annotated[list[str], typer.Option(help="Environment id. Repeatable: one column each.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; an existing run is continued.")],
    scenarios: options.Scenarios = None,
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="Use the first so many scenarios. Default: all.", show_default=False)
    ] = None,
    seed: options.Seed = 0,
    max_turns: options.MaxTurns = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="[ENV=]MODEL of the simulated users, in all environments or in one. Repeatable.",
            show_default=False,
        ),
    ] = None,
    simulator_option: Annotated[
        list[str] | None, typer.Option(help="[ENV:]KEY=VALUE for the simulators. Repeatable.", show_default=False)
    ] = None,
    judge: options.Judge = None,
    judge_model: options.JudgeModel = None,
    max_new_tokens: options.MaxNewTokens = 256,
    user_max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest user turn, tokens, for simulators that write with a model.")
    ] = 256,
    temperature: options.Temperature = 1.0,
    batch_size: options.BatchSize = 32,
    reference: Annotated[
        str | None, typer.Option(help="The assistant that others are compared with.", show_default="the first")
    ] = None,
    trained_on: Annotated[
        list[str] | None,
        typer.Option(help="ASSISTANT=ENV: what it was trained with, for the gap. Repeatable.", show_default=False),
    ] = None,
    free_running: options.FreeRunning = False,
    response_cache: options.ResponseCache = None,
    cache_mode: options.CacheMode = "record",
    ray: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster, or `local`: hold the conversations there.", show_default=False),
    ] = None,
    ray_resources: Annotated[
        str | None,
        typer.Option(help="What a task on the cluster needs, JSON.", show_default='{"num_cpus": 1}'),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Say what is left to do and what it will take, and leave.")] = False,
    pilot: Annotated[
        int, typer.Option(min=0, help="Hold so many scenarios of each cell before a dry run; they are kept.")
    ] = 0,
    price: Annotated[
        list[str] | None,
        typer.Option(help="ROLE=READ,WRITTEN: cost of a million tokens. Repeatable.", show_default=False),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Stop when all roles together have used so many.", show_default=False)
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(min=0.0, help="Stop when it has cost so much; needs --price.", show_default=False)
    ] = None,
    show_conversation: Annotated[bool, typer.Option(help="Print one conversation at the end.")] = True,
) -> None:
    """Evaluate assistants across simulators.

    Writes the generalization matrix as results.json and report.html. Every cell sees the same scenarios with the same
    seeds. Finished conversations are kept: the same command again goes on where it stopped.
    """
    from simgym.cli.progress import ConversationProgress
    from simgym.cli.rollout import nothing_to_do
    from simgym.evaluation.budget import Budget
    from simgym.evaluation.comparisons import compare_cells
    from simgym.evaluation.forecast import forecast
    from simgym.evaluation.matrix import MatrixRun
    from simgym.output_files import lock_output
    from simgym.report.html import write_report
    from simgym.report.results import describe_matrix, short_name
    from simgym.transcripts import write_json

    started = time.monotonic()
    rows = read_assistants(assistant, max_new_tokens, temperature)
    columns = list(dict.fromkeys(env))
    common = options.env_options(
        judge=judge,
        judge_model=judge_model,
        max_turns=max_turns,
        response_cache=response_cache,
        cache_mode=cache_mode,
    )
    of_column = read_columns(columns, model or [], simulator_option or [], user_max_new_tokens)
    for row in rows.values():
        row.model_spec = options.remembered(row.model_spec, response_cache, cache_mode)
    for given in of_column.values():
        if "model" in given:
            given["model"] = options.remembered(given["model"], response_cache, cache_mode)
    chosen = options.load(columns[0], scenarios, n)
    home = read_home(trained_on or [], rows, columns)
    if reference is not None and reference not in rows:
        raise ConfigurationError(f"--reference is {reference!r}, expected one of {', '.join(rows)}.")
    prices = read_prices(price or [])
    limited = max_tokens is not None or max_cost is not None
    budget = Budget(max_tokens, max_cost, prices) if limited else None

    def plan(scenarios: Sequence[Scenario]) -> MatrixRun:
        return MatrixRun(
            rows,
            columns,
            scenarios,
            folder=output,
            seed=seed,
            env_options=common,
            simulator_options=of_column,
        )

    def hold(run: MatrixRun) -> Matrix:
        _load_models(rows)
        with ConversationProgress(len(run.paths) * len(run.scenarios)) as progress:
            return run.hold(
                batch_size=batch_size,
                budget=budget,
                collector=read_collector(ray, ray_resources, free_running),
                progress=lambda row, column, one: progress.advance(one, f"{row} / {short_name(column)}"),
            )

    run = plan(chosen)
    if dry_run:
        if pilot:
            hold(plan(chosen[:pilot]))
        found = forecast(run, prices)
        stdout().print(facts(forecast_rows(found)))
        if found.tokens is None:
            complain("Nothing has been held to estimate tokens and time from. Add --pilot 2.")
        return
    conversations = len(run.paths) * len(run.scenarios)
    if sum(map(len, run.found().values())) == conversations:
        stderr().print(shown(nothing_to_do(conversations, output)), soft_wrap=True)
    with lock_output(output, folder=True):  # its numbers and its report belong to its conversations
        filled = hold(run)
        results = replace(
            describe_matrix(
                filled, question=_QUESTION, scenarios=chosen[0].source, seed=seed, seconds=time.monotonic() - started
            ),
            comparisons=compare_cells(filled, reference=reference, trained_on=home, seed=seed),
        )
        write_json(output / "results.json", results.to_json())
        write_report(output / "report.html", results, filled.transcripts, max_conversations=5)
    _show(results, filled.transcripts, output, show_conversation)
    if not any(cell.counted for cell in filled.cells):
        complain("No conversation counts: see why with `simgym view`.")
        raise typer.Exit(1)


def read_assistants(texts: Sequence[str], max_new_tokens: int, temperature: float) -> dict[str, LanguageModelAssistant]:
    """Assistants by name.

    Raises:
        ConfigurationError: two have the same name.
    """
    from simgym.assistants.language_model_assistant import assistant_from_text

    rows: dict[str, LanguageModelAssistant] = {}
    for text in texts:
        name, assistant = assistant_from_text(text, options.sampling(max_new_tokens, temperature))
        if name in rows:
            raise ConfigurationError(f"Two assistants are called {name!r}. Name them: --assistant NAME=MODEL[+PROMPT].")
        rows[name] = assistant
    return rows


def read_home(texts: Sequence[str], rows: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str]:
    """Environment id by assistant.

    Raises:
        ConfigurationError: there is no such row or column.
    """
    home = {name: str(env_id) for name, env_id in options.read_pairs(texts, "--trained-on").items()}
    for name, env_id in home.items():
        if name not in rows or env_id not in columns:
            raise ConfigurationError(
                f"--trained-on is {name}={env_id}, expected ASSISTANT=ENV with one of {', '.join(rows)} and one of "
                f"{', '.join(columns)}."
            )
    return home


def read_prices(texts: Sequence[str]) -> dict[str, Price]:
    """Prices by role, of `ROLE=READ,WRITTEN`.

    Raises:
        ConfigurationError: not two numbers, or no such role.
    """
    from simgym.evaluation.budget import Price

    prices = {}
    for text in texts:
        role, _, numbers = text.partition("=")
        try:
            read, written = (float(number) for number in numbers.split(","))
        except ValueError:
            raise ConfigurationError(
                f"--price is {text!r}, expected ROLE=READ,WRITTEN, e.g. judge=0.15,0.60 (for a million tokens)."
            ) from None
        prices[role] = Price(read, written)
    return prices


def read_collector(ray: str | None, resources: str | None, free_running: bool) -> CellCollector:
    """Who holds the conversations: this process, or a Ray cluster.

    Raises:
        ConfigurationError: the resources are no JSON object of numbers, or there are options of both.
    """
    import functools

    if ray is not None and free_running:
        raise ConfigurationError("--ray holds batches in step. Leave out --free-running, or --ray.")
    if ray is None and resources is not None:
        raise ConfigurationError("--ray-resources are those of a cluster's tasks. Give --ray, too.")
    if ray is not None:
        from simgym.rollout.ray_collect import ray_collect_jobs

        return functools.partial(ray_collect_jobs, address=ray, resources=read_resources(resources))
    from simgym.rollout.collect import collect_jobs

    return functools.partial(collect_jobs, free_running=free_running)


def read_resources(text: str | None) -> dict[str, float]:
    """What a task on a cluster needs, of JSON; None: one CPU.

    Raises:
        ConfigurationError: it is no JSON object of numbers.
    """
    try:
        return {str(name): float(number) for name, number in json.loads(text or '{"num_cpus": 1}').items()}
    except (ValueError, TypeError, AttributeError):
        raise ConfigurationError(
            f"The resources of a task are {text!r}, expected a JSON object of numbers, "
            'e.g. {"num_cpus": 2, "num_gpus": 1}.'
        ) from None


def read_columns(
    env_ids: Sequence[str], models: Sequence[str], simulator_options: Sequence[str], user_max_new_tokens: int
) -> dict[str, dict[str, Any]]:
    """Arguments of the simulator of each environment."""
    arguments: dict[str, dict[str, Any]] = {}
    for env_id in env_ids:
        own: list[str] = []
        for text in simulator_options:
            head, colon, rest = text.partition(":")
            if colon and head in env_ids:
                own += [rest] if head == env_id else []
            else:
                own.append(text)
        given = options.read_pairs(own, "--simulator-option")
        if _takes(env_id, "max_new_tokens"):
            given.setdefault("max_new_tokens", user_max_new_tokens)
        if _takes(env_id, "model") and (model := _model_of(env_id, env_ids, models)) is not None:
            given["model"] = model
        arguments[env_id] = given
    return arguments


def _show(
    results: MatrixResults,
    transcripts: Mapping[tuple[str, str], Sequence[Transcript]],
    folder: Path,
    show_conversation: bool,
) -> None:
    from simgym.cli.rollout import exclusions_in_words
    from simgym.cli.view import transcript_view
    from simgym.report.results import short_name

    console = stdout()
    console.print("Mean reward x 100 ± half of its 95 % interval (conversations counted)")
    console.print(shown(f"Judge: {results.judge}; measures {results.measures}", "dim"))
    console.print(matrix_table(results, console.width))
    excluded = [
        f"  {cell.assistant} / {short_name(cell.simulator)}: {exclusions_in_words(cell)}"
        for cell in results.cells
        if cell.excluded
    ]
    if results.comparisons is not None:
        console.print(differences_table(results.comparisons))
    console.print(shown("\n".join(["Excluded:", *excluded]) if excluded else "Excluded: none"))
    if show_conversation:
        counted = [one for several in transcripts.values() for one in several if one.counts]
        everything = [one for several in transcripts.values() for one in several]
        console.print(shown("\nOne of the conversations:", "bold"))
        console.print(transcript_view((counted or everything)[0]))
    console.print()
    for name in ("results.json", "report.html", "transcripts"):
        console.print(shown(str(folder / name)), soft_wrap=True)


def _load_models(rows: Mapping[str, LanguageModelAssistant]) -> None:
    # A row whose model cannot be loaded shall fail now, not when the rows above it are done.
    from simgym.language_models.loading import load_language_model

    with stderr().status("Loading models"):
        for assistant in rows.values():
            load_language_model(assistant.model_spec).generate([])


def _model_of(env_id: str, env_ids: Sequence[str], models: Sequence[str]) -> Any:
    common = own = None
    for text in models:
        head, equals, rest = text.partition("=")
        if equals and head in env_ids:
            own = rest if head == env_id else own
        else:
            common = text
    found = own or common
    return options.read_model(found) if found else None


def _takes(env_id: str, argument: str) -> bool:
    import gymnasium

    from simgym.simulators.loading import takes_option

    row = gymnasium.registry.get(env_id)
    simulator = row.kwargs.get("simulator") if row is not None else None
    return isinstance(simulator, str) and takes_option(simulator, argument)
