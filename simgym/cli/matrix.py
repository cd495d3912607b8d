"""`simgym matrix`: every assistant with every simulated user, as a table, results.json and an HTML report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simgym.cli import options
from simgym.cli.completion import complete_env
from simgym.cli.matrix_tables import differences_table, forecast_rows, matrix_table
from simgym.cli.terminal import complain, facts, say_nothing_to_do, shown, stderr, stdout
from simgym.errors import ConfigurationError

if TYPE_CHECKING:
    from simgym.evaluation.matrix import CellCollector, Matrix, MatrixRun
    from simgym.report.results import MatrixResults
    from simgym.rollout.budget import Budget, Price
    from simgym.transcripts import Transcript

_QUESTION = "How well does each assistant do with simulated users, and does it depend on which simulator plays them?"


@dataclass(frozen=True)
class ClusterOptions:
    """Whether the conversations run on a Ray cluster."""

    ray: Annotated[
        str | None,
        typer.Option(help="Run on a Ray cluster: its address, or `local`.", show_default=False),
    ] = None
    ray_resources: Annotated[
        str | None,
        typer.Option(help="What a task on the cluster needs, JSON.", show_default='{"num_cpus": 1}'),
    ] = None


@dataclass(frozen=True)
class BudgetOptions:
    """What a run may cost, and what it is expected to."""

    dry_run: Annotated[bool, typer.Option(help="Print what is left to do and what it will cost, and exit.")] = False
    pilot: Annotated[
        int,
        typer.Option(
            min=0, help="Run N scenarios per cell first to calibrate the estimate; their results are kept.", metavar="N"
        ),
    ] = 0
    price: Annotated[
        list[str] | None,
        typer.Option(
            help="ROLE=INPUT,OUTPUT: price per million tokens of assistant, user or judge. Repeatable.",
            show_default=False,
        ),
    ] = None
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Stop once all roles together have used this many tokens.", show_default=False),
    ] = None
    max_cost: Annotated[
        float | None,
        typer.Option(min=0.0, help="Stop once the run has cost this much; needs --price.", show_default=False),
    ] = None

    def prices(self) -> dict[str, Price]:
        """By role."""
        from simgym.evaluation.axes import read_prices

        return read_prices(self.price or [])

    def budget(self) -> Budget | None:
        """None without a limit."""
        from simgym.rollout.budget import Budget

        limited = self.max_tokens is not None or self.max_cost is not None
        return Budget(self.max_tokens, self.max_cost, self.prices()) if limited else None


@options.with_bundles
def matrix(
    assistant: Annotated[list[str], typer.Option(help=f"{options.ASSISTANT_HELP} Repeatable: one row each.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; an existing run is continued.")],
    users: options.ColumnOptions,
    judging: options.JudgeOptions,
    conversations: options.ConversationOptions,
    replies: options.SamplingOptions,
    running: options.RunOptions,
    caching: options.CacheOptions,
    cluster: ClusterOptions,
    spending: BudgetOptions,
    env: Annotated[
        list[str] | None,
        typer.Option(
            help="Environment id; `simgym envs` lists them. Repeatable: one column each.",
            show_default=False,
            autocompletion=complete_env,
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="Use the first N scenarios. Default: all.", show_default=False)
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="The assistant that the others are compared with.", show_default="the first")
    ] = None,
    trained_on: Annotated[
        list[str] | None,
        typer.Option(
            help="ASSISTANT=ENV: its training simulator, for the generalization gap. Repeatable.", show_default=False
        ),
    ] = None,
    show_conversation: Annotated[bool, typer.Option(help="Print one conversation at the end.")] = True,
) -> None:
    """Evaluate assistants across simulators.

    Writes the generalization matrix as results.json and report.html. Every cell sees the same scenarios with the same
    seeds. Completed conversations are kept: the same command again resumes where it stopped.
    """
    from simgym.evaluation import axes
    from simgym.evaluation.comparisons import compare_cells
    from simgym.evaluation.forecast import forecast
    from simgym.evaluation.matrix import MatrixRun
    from simgym.output_files import lock_output
    from simgym.report.html import write_report
    from simgym.report.results import describe_matrix
    from simgym.transcripts import write_json

    started = time.monotonic()
    columns = users.columns(env, caching.cache)
    rows = axes.read_assistants(assistant, replies.sampling, caching.cache)
    training = axes.read_training_simulators(trained_on or [], rows, columns)
    if reference is not None and reference not in rows:
        raise ConfigurationError(f"--reference is {reference!r}, expected one of {', '.join(rows)}.")
    prices, budget = spending.prices(), spending.budget()
    collector = axes.read_collector(cluster.ray, cluster.ray_resources, running.asynchronous)
    scenarios = conversations.load_scenarios(columns[0].env_id, n)
    common = judging.env_options(caching)
    if conversations.max_turns is not None:
        common["max_turns"] = conversations.max_turns
    planned = {
        "folder": output,
        "seed": running.seed,
        "env_options": common,
        "simulator_options": {column.env_id: column.options for column in columns},
    }
    env_ids = [column.env_id for column in columns]
    run = MatrixRun(rows, env_ids, scenarios, **planned)  # type: ignore[arg-type]
    if spending.dry_run:
        if spending.pilot:
            pilot = MatrixRun(rows, env_ids, scenarios[: spending.pilot], **planned)  # type: ignore[arg-type]
            _hold(pilot, running, collector, budget, local=cluster.ray is None)
        expected = forecast(run, prices)
        stdout().print(facts(forecast_rows(expected)))
        if expected.tokens is None:
            complain("No conversation has been completed to estimate tokens and time from. Add --pilot 2.")
        return
    total = len(run.paths) * len(run.scenarios)
    if not running.retry_faults and sum(map(len, run.found().values())) == total:
        say_nothing_to_do(total, "conversations", output)
    with lock_output(output, folder=True):  # its numbers and its report belong to its conversations
        filled = _hold(run, running, collector, budget, local=cluster.ray is None)
        seconds = time.monotonic() - started
        results = replace(
            describe_matrix(
                filled, question=_QUESTION, scenarios=scenarios[0].source, seed=running.seed, seconds=seconds
            ),
            comparisons=compare_cells(filled, reference=reference, trained_on=training, seed=running.seed),
        )
        write_json(output / "results.json", results.to_json())
        write_report(output / "report.html", results, filled.transcripts, max_conversations=5)
    _show(results, filled.transcripts, output, show_conversation)
    if not any(cell.counted for cell in filled.cells):
        complain("No conversation counts: see why with `simgym view`.")
        raise typer.Exit(1)


def _hold(
    run: MatrixRun, running: options.RunOptions, collector: CellCollector, budget: Budget | None, *, local: bool
) -> Matrix:
    """Run what is missing; models are loaded first, unless they are only on a cluster."""
    from simgym.cli.progress import ConversationProgress
    from simgym.report.results import short_name

    if local:
        with stderr().status("Loading models"):
            run.check_ready()
    with ConversationProgress(len(run.paths) * len(run.scenarios)) as progress:
        return run.hold(
            batch_size=running.batch_size,
            budget=budget,
            collector=collector,
            progress=lambda row, column, one: progress.advance(one, f"{row} / {short_name(column)}"),
            retried_faults=running.retry_faults or (),
        )


def _show(
    results: MatrixResults,
    transcripts: Mapping[tuple[str, str], Sequence[Transcript]],
    folder: Path,
    show_conversation: bool,
) -> None:
    from simgym.cli.rollout import format_exclusions
    from simgym.cli.view import transcript_view
    from simgym.report.results import short_name

    console = stdout()
    console.print("Mean reward x 100 ± half of its 95 % interval (conversations counted)")
    console.print(shown(f"Judge: {results.judge}; measures {results.measures}", "dim"))
    console.print(matrix_table(results, console.width))
    excluded = [
        f"  {cell.assistant} / {short_name(cell.simulator)}: {format_exclusions(cell)}"
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
