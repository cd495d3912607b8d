"""`simgym realism`: simulated users beside held-out people, as a table, results.json and an HTML report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simgym.cli import options
from simgym.cli.matrix import read_columns
from simgym.cli.terminal import plain, shown, stdout
from simgym.extras import require_extra

if TYPE_CHECKING:
    from rich.table import Table

    from simgym.evaluation.scorecard import Scorecard


def realism(
    env: Annotated[list[str], typer.Argument(help="Environment ids of the simulators; `simgym envs` lists them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; an existing run is continued.")],
    reference: Annotated[
        str, typer.Option(help="The people: chitchat[:SPLIT], or a file of `simgym data` with intents.")
    ] = "chitchat",
    conversations: Annotated[int, typer.Option("-n", min=1, help="Conversations of people at most.")] = 60,
    later_turns: Annotated[int, typer.Option(min=1, help="Later turns compared per conversation.")] = 3,
    model: Annotated[
        list[str] | None,
        typer.Option(help="[ENV=]MODEL of the simulators, of all or of one. Repeatable.", show_default=False),
    ] = None,
    simulator_option: Annotated[
        list[str] | None, typer.Option(help="[ENV:]KEY=VALUE for the simulators. Repeatable.", show_default=False)
    ] = None,
    user_max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest user turn, tokens, the frame of a JSON reply included.")
    ] = 256,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 32,
) -> None:
    """Compare simulated users with people.

    Simulators are put in the place of held-out people at the same moments of their conversations. What was simulated is
    kept: the same command again goes on where it stopped.
    """
    from simgym import __version__
    from simgym.cli.progress import counting
    from simgym.evaluation.realism import score_realism
    from simgym.evaluation.reference import load_reference
    from simgym.evaluation.simulated_turns import simulate_turns
    from simgym.output_files import lock_output
    from simgym.report.realism import realism_results, write_realism_report
    from simgym.report.results import short_name
    from simgym.simulators.loading import load_simulator, simulator_of
    from simgym.transcripts import write_json

    require_extra("stats", "The realism scorecard")
    names = list(dict.fromkeys(env))
    registered = {name: simulator_of(name) for name in names}
    arguments = read_columns(names, model or [], simulator_option or [], user_max_new_tokens)
    people = load_reference(reference, conversations=conversations, later_turns=later_turns, seed=seed)
    turns, cards = {}, []
    with lock_output(output, folder=True):  # its numbers and its report belong to its turns
        for name in names:
            simulator = load_simulator(registered[name], None, arguments[name])
            path = output / "turns" / f"{short_name(name)}.jsonl"
            with counting(short_name(name), len(people.moments)) as advance:
                found = simulate_turns(simulator, people, seed=seed, path=path, batch_size=batch_size, advance=advance)
            turns[short_name(name)] = found
            cards.append(score_realism(short_name(name), simulator.fingerprint(), people, found, seed=seed))
        results = realism_results(people, cards, seed=seed, version=__version__)
        write_json(output / "results.json", results)
        write_realism_report(output / "report.html", results, people, cards, turns)
    out = stdout()
    out.print(
        shown(f"{people.people} people, {people.conversations} conversations, {len(people.moments)} moments; "
              f"{people.source}")
    )  # fmt: skip
    out.print(scorecard_table(cards))
    for name in ("results.json", "report.html", "turns"):
        out.print(shown(str(output / name)), soft_wrap=True)


def scorecard_table(cards: Sequence[Scorecard]) -> Table:
    """A row a figure, a column a simulator, people last."""
    from rich import box
    from rich.table import Table

    from simgym.report.realism import in_words, scorecard_rows

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("figure", overflow="fold")
    for name in (*(card.simulator for card in cards), "people"):
        table.add_column(shown(plain(name)), justify="right")
    for row in scorecard_rows(cards):
        estimates = [*(figure.simulated for figure in row.simulated), row.figure.human]
        cells = [(value + (f"\n{interval}" if interval else "")) or "–" for value, interval in map(in_words, estimates)]
        table.add_row(shown(row.figure.title), *map(shown, cells))
    return table
