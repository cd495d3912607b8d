"""`simgym realism`: simulated users beside held-out people, as a table, results.json and an HTML report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simgym.cli import options
from simgym.cli.completion import complete_env
from simgym.cli.terminal import plain, shown, stdout
from simgym.extras import require_extra

if TYPE_CHECKING:
    from rich.table import Table

    from simgym.evaluation.behaviours import Behaviours
    from simgym.evaluation.scorecard import Scorecard


@options.with_bundles
def realism(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; an existing run is continued.")],
    users: options.ColumnOptions,
    env: Annotated[
        list[str] | None,
        typer.Argument(
            help="Environment ids of the simulators; `simgym envs` lists them.",
            show_default=False,
            autocompletion=complete_env,
        ),
    ] = None,
    reference: Annotated[
        str,
        typer.Option(
            help="The people: chitchat[:SPLIT], a file of `simgym data` with intents, or FORMAT:FILE of another log "
            "(mirrorbench, simulatorarena, oasst, ...)."
        ),
    ] = "chitchat",
    conversations: Annotated[int, typer.Option("-n", min=1, help="At most this many conversations of people.")] = 60,
    later_turns: Annotated[int, typer.Option(min=1, help="Later turns compared per conversation.")] = 3,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 32,
) -> None:
    """Compare simulated users with people.

    Simulators take the place of held-out people at the same points of their conversations. Simulated turns are kept:
    the same command again resumes where it stopped.
    """
    from simgym import __version__
    from simgym.cli.progress import counting, load_models, say_nothing_to_do
    from simgym.evaluation.behaviours import compare_behaviours
    from simgym.evaluation.realism import score_realism
    from simgym.evaluation.reference import load_reference
    from simgym.evaluation.simulated_turns import has_all_turns, simulate_turns
    from simgym.output_files import lock_output
    from simgym.report.realism import realism_results, write_realism_report
    from simgym.report.results import short_name
    from simgym.simulators.loading import load_simulator, simulator_of
    from simgym.transcripts import write_json

    require_extra("stats", "The realism scorecard")
    columns = users.columns(env, options.CacheOptions().cache)
    simulators = {
        short_name(column.env_id): load_simulator(simulator_of(column.env_id), None, column.options)
        for column in columns
    }
    people = load_reference(reference, conversations=conversations, later_turns=later_turns, seed=seed)
    paths = {name: output / "turns" / f"{name}.jsonl" for name in simulators}
    incomplete = [name for name in simulators if not has_all_turns(people, paths[name])]
    load_models((f"simulator {name}", simulators[name]) for name in incomplete)
    if not incomplete:
        say_nothing_to_do(len(people.moments) * len(simulators), "turns", output)
    turns, cards = {}, []
    with lock_output(output, folder=True):  # its numbers and its report belong to its turns
        for name, simulator in simulators.items():
            with counting(name, len(people.moments)) as advance:
                turns[name] = simulate_turns(
                    simulator, people, seed=seed, path=paths[name], batch_size=batch_size, advance=advance
                )
            cards.append(score_realism(name, simulator.fingerprint(), people, turns[name], seed=seed))
        behaviours = compare_behaviours(people, turns, seed=seed)
        results = realism_results(people, cards, seed=seed, version=__version__)
        results["behaviours"] = behaviours.to_json() if behaviours else None
        write_json(output / "results.json", results)
        write_realism_report(output / "report.html", results, people, cards, turns)
    out = stdout()
    out.print(
        shown(f"{people.people} people, {people.conversations} conversations, {len(people.moments)} moments; "
              f"{people.source}")
    )  # fmt: skip
    out.print(scorecard_table(cards))
    out.print(shown(behaviour_lines(behaviours)), soft_wrap=True)
    for name in ("results.json", "report.html", "turns"):
        out.print(shown(str(output / name)), soft_wrap=True)


def behaviour_lines(behaviours: Behaviours | None) -> str:
    """How far each simulator's behaviour is from people's, and the mixture that comes nearest."""
    if behaviours is None:
        return "Kinds of turns: cannot be told, too few turns. Give more conversations (-n)."
    each = ", ".join(f"{plain(name)} {bits:.3f}" for name, bits in behaviours.divergence.items())
    weights = ", ".join(f"{plain(name)} {weight:.2f}" for name, weight in behaviours.mixture.items())
    return (
        f"Kinds of turns, divergence from people (bits): {each}; people of the other half {behaviours.control:.3f}\n"
        f"Nearest mixture (weights for `mixture`): {weights}; divergence {behaviours.mixture_divergence:.3f}"
    )


def scorecard_table(cards: Sequence[Scorecard]) -> Table:
    """A row a figure, a column a simulator, people last."""
    from rich import box
    from rich.table import Table

    from simgym.report.realism import format_estimate, scorecard_rows

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("metric", overflow="fold")
    for name in (*(card.simulator for card in cards), "people"):
        table.add_column(shown(plain(name)), justify="right")
    for row in scorecard_rows(cards):
        estimates = [*(metric.simulated for metric in row.simulated), row.metric.human]
        texts = [format_estimate(estimate) for estimate in estimates]
        cells = [(value + (f"\n{interval}" if interval else "")) or "–" for value, interval in texts]
        table.add_row(shown(row.metric.title), *map(shown, cells))
    return table
