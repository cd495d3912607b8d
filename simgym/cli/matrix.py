"""`simgym matrix`: every assistant with every simulated user, as a table, results.json and an HTML report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from simgym.cli.experiment_flags import with_experiment
from simgym.cli.matrix_tables import differences_table, forecast_rows, matrix_table, people_rows
from simgym.cli.terminal import complain, facts, shown, stderr, stdout
from simgym.evaluation.config import ExperimentConfig

if TYPE_CHECKING:
    from simgym.evaluation.experiment import Experiment
    from simgym.experiment import Results
    from simgym.transcripts import Transcript


@with_experiment
def matrix(
    config: ExperimentConfig,
    dry_run: Annotated[bool, typer.Option(help="Print what is left to do and what it will cost, and exit.")] = False,
    pilot: Annotated[
        int,
        typer.Option(
            min=0, help="Run N scenarios per cell first to calibrate the estimate; their results are kept.", metavar="N"
        ),
    ] = 0,
    show_conversation: Annotated[bool, typer.Option(help="Print one conversation at the end.")] = True,
) -> None:
    """Evaluate assistants across simulators.

    Writes the generalization matrix as results.json and report.html. Every cell sees the same scenarios with the same
    seeds. Completed conversations are kept: the same command again resumes where it stopped.
    """
    from simgym.cli.progress import ConversationProgress, say_nothing_to_do
    from simgym.evaluation.experiment import Experiment
    from simgym.experiment import evaluate

    experiment = Experiment(config)
    if dry_run:
        _dry_run(experiment, pilot)
        return
    if experiment.complete:
        say_nothing_to_do(experiment.conversations, "conversations", experiment.folder)
    with stderr().status("Loading models"):
        experiment.check_ready()
    with ConversationProgress(experiment.conversations) as progress:
        results = evaluate(experiment, progress=progress.advance_cell)
    _show(results, show_conversation)
    if not any(cell.counted for cell in results.matrix.cells):
        complain("No conversation counts: see why with `simgym view`.")
        raise typer.Exit(1)


def _dry_run(experiment: Experiment, pilot: int) -> None:
    """What is left, after a pilot if one is asked for."""
    from simgym.cli.progress import ConversationProgress

    if pilot:
        experiment.check_ready()
        scenarios = min(pilot, len(experiment.scenarios))
        with ConversationProgress(len(experiment.run.paths) * scenarios) as progress:
            experiment.run_pilot(pilot, progress.advance_cell)
    expected = experiment.forecast()
    stdout().print(facts(forecast_rows(expected)))
    if expected.tokens is None:
        complain("No conversation has been completed to estimate tokens and time from. Add --pilot 2.")


def _example(results: Results) -> Transcript:
    """The first conversation that counts, or the first."""
    from simgym.transcripts import outcomes

    for of_cell in results.transcripts.values():
        for number, outcome in enumerate(outcomes(of_cell)):
            if outcome.counts:
                return of_cell[number]
    return next(iter(results.transcripts.values()))[0]


def _show(results: Results, show_conversation: bool) -> None:
    from simgym.cli.rollout import format_exclusions
    from simgym.cli.view import transcript_view
    from simgym.experiment import REPORT_NAME
    from simgym.judges.people_record import people_warning
    from simgym.report.results import short_name
    from simgym.report.runs import RESULTS_NAME

    console = stdout()
    console.print("Mean reward x 100 ± half of its 95 % interval (conversations counted)")
    console.print(shown(f"Judge: {results.matrix.judge}; measures {results.matrix.measures}", "dim"))
    console.print(matrix_table(results.matrix, console.width))
    if results.matrix.people is not None:
        console.print(facts(people_rows(results.matrix.people)))
    if warning := people_warning(results.matrix.fingerprints["judge"]):
        console.print(shown(warning, "red"))
    excluded = [
        f"  {cell.assistant} / {short_name(cell.simulator)}: {format_exclusions(cell)}"
        for cell in results.matrix.cells
        if cell.excluded
    ]
    if results.matrix.comparisons is not None:
        console.print(differences_table(results.matrix.comparisons))
    console.print(shown("\n".join(["Excluded:", *excluded]) if excluded else "Excluded: none"))
    if show_conversation:
        console.print(shown("\nOne of the conversations:", "bold"))
        console.print(transcript_view(_example(results)))
    console.print()
    for name in (RESULTS_NAME, REPORT_NAME, "transcripts"):
        console.print(shown(str(results.folder / name)), soft_wrap=True)
