"""`simgym envs`: which environments there are."""

from __future__ import annotations

from dataclasses import asdict

from simgym.cli.options import Json
from simgym.cli.terminal import print_json, stdout
from simgym.registration import environments


def envs(json: Json = False) -> None:
    """List the environments; other simulators (`simgym simulators`) need no id."""
    if json:
        print_json([asdict(row) for row in environments().values()])
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Id", style="cyan", no_wrap=True)
    table.add_column("Simulator", no_wrap=True)
    table.add_column("What plays the user")
    for row in environments().values():
        table.add_row(row.env_id, row.simulator, row.summary)
    stdout().print(table)
