"""`simgym recipe`: a training recipe and its configurations, copied out of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simgym.cli.terminal import plain


def recipe(
    name: Annotated[
        str | None,
        typer.Argument(help="Which one; left out: list them.", autocompletion=lambda: _names(), show_default=False),
    ] = None,
    folder: Annotated[Path, typer.Argument(help="Where to; the documentation's commands expect agents.")] = Path(
        "agents"
    ),
) -> None:
    """Copy a training recipe and its configurations.

    If a file exists already and differs, nothing is written.
    """
    from simgym.recipes import RECIPES, copy_recipe

    if name is None:
        width = max(map(len, RECIPES))
        for known, outcome in RECIPES.items():
            typer.echo(f"{known:{width}}  {outcome}")
        return
    paths = copy_recipe(name, folder)
    for path in paths:
        typer.echo(plain(str(path)))
    configs = [path for path in paths if path.suffix == ".yaml"]
    typer.echo(f"python {plain(str(paths[0]))}" + (f" --config {plain(str(configs[0]))}" if configs else " --help"))


def _names() -> list[str]:
    from simgym.recipes import RECIPES

    return list(RECIPES)
