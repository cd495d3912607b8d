"""`simgym export`: a run, or an environment, in the form that another tool reads. Formats are plug-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simgym.cli.completion import complete_exporter
from simgym.cli.terminal import plain
from simgym.data.training_files import ExportOptions

_FORMATS = (
    "`sft`, `dpo`, `kto`: training files of TRL; `hf`: a dataset folder; `verifiers`, `inspect`: their logs; "
    "`openenv`: a package for the Hub"
)


def export(
    source: Annotated[
        str,
        typer.Argument(help="A file of transcripts or the folder of a matrix; openenv: an environment.", metavar="RUN"),
    ],
    to: Annotated[str, typer.Option("--to", help=f"{_FORMATS}; or a plug-in's.", autocompletion=complete_exporter)],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file or folder to write.")],
    min_reward: Annotated[
        float | None, typer.Option(help="sft: leave out conversations with a lower reward.", show_default=False)
    ] = None,
    min_margin: Annotated[float, typer.Option(help="dpo: leave out pairs whose rewards differ by this or less.")] = 0.0,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="kto: rewards at or above this are good. Default: the median of the run.", show_default=False
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            help="openenv: KEY=VALUE for the environment; VALUE is read as JSON if it is. Repeatable.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a run for trainers, hubs and viewers.

    What is left out is counted by reason, and listed beside the file.
    """
    from simgym.evaluation.axes import read_pairs
    from simgym.plugins import find

    settings = read_pairs(setting or (), "--setting")
    options = ExportOptions(min_reward=min_reward, min_margin=min_margin, threshold=threshold, settings=settings)
    summary = find("exporters", to)(source, output, options)
    typer.echo(f"{plain(str(output))}: {summary.kept} {'row' if summary.kept == 1 else 'rows'}")
    for name, value in summary.details.items():
        typer.echo(f"  {plain(name.replace('_', ' '))}: {plain(str(value))}")
    for reason, count in sorted(summary.skipped.items(), key=lambda pair: -pair[1]):
        typer.echo(f"  skipped {count}: {plain(reason)}")
