"""`simgym report`: finished runs as one HTML report with its results.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simgym.cli.terminal import shown, stdout
from simgym.errors import ConfigurationError


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of matrix runs, and of training runs for their learning curves.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file; its results.json goes beside it.")],
    conversations: Annotated[int, typer.Option(min=0, help="Conversations of each cell in the report.")] = 5,
    all_conversations: Annotated[
        bool, typer.Option(help="Write all conversations, too, to pages in a folder beside the report.")
    ] = False,
) -> None:
    """Combine finished runs into one report.

    Runs that share scenarios, seed, judge and simulators become one matrix and are compared. Others are listed one
    below the other, with a warning.
    """
    from simgym.report.html import write_report
    from simgym.report.runs import join_runs, read_runs
    from simgym.transcripts import write_json

    stored, curves = read_runs(runs)
    joined = join_runs(stored, curves)
    numbers = output.with_name("results.json" if output.name == "report.html" else f"{output.stem}.json")
    if len(stored) > 1 and any(numbers.resolve() == (run / "results.json").resolve() for run in runs):
        raise ConfigurationError(f"{numbers} holds the numbers of one of the runs. Write the report to another folder.")
    write_json(numbers, joined.results.to_json())
    write_report(
        output,
        joined.results,
        joined.transcripts,
        max_conversations=conversations,
        all_conversations=all_conversations,
    )
    for path in (output, numbers):
        stdout().print(shown(str(path)), soft_wrap=True)
