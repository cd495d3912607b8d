"""`simgym init`: a small tested package to start a plug-in, or a study, from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simgym.cli.terminal import plain


def init(
    kind: Annotated[
        str,
        typer.Argument(help="simulator, judge, assistant, scenarios or study.", autocompletion=lambda: _kinds()),
    ],
    name: Annotated[str, typer.Argument(help="Name of the package: lower-case letters, digits, hyphens.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder to make. Default: the name.", show_default=False)
    ] = None,
) -> None:
    """Write a package with an entry point and tests, to start from."""
    from simgym.scaffolds import write_scaffold

    folder = Path(name) if output is None else output
    for path in write_scaffold(kind, name, folder):
        typer.echo(plain(str(path)))
    install = "pip install 'simgym[study]' pytest" if kind == "study" else "pip install -e '.[test]'"
    typer.echo(f"cd {plain(str(folder))} && {install} && pytest")


def _kinds() -> list[str]:
    from simgym.scaffolds import KINDS

    return list(KINDS)
