"""What the verbs print, and how texts of models are kept from doing more than being read.

A text from a model, a file or a person is shown as a `rich.text.Text` without markup and with control characters
written out (`visible_text`): it cannot colour, move the cursor, reverse the reading direction, set the window's title
or ring the bell, and a reader sees that it tried. Results go to stdout; progress and complaints go to stderr, so that
`--json` can be piped. What a reader has closed, or a full disk refuses, becomes an error for `cli.main` to tell.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from simgym.statistics.intervals import Estimate, format_interval
from simgym.visible_text import visible

ROLE_STYLES = {"user": "cyan", "assistant": "green", "judge": "magenta", "system": "yellow"}
_INDENTS = {"assistant": (0, 0, 0, 8)}


plain = visible
"""What a text of unknown origin may be printed as."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to `cli.main`, as for everything else that cannot be written."""
        raise BrokenPipeError(errno.EPIPE, "The reader of the output has left")


def stdout() -> Console:
    """For results."""
    return _Console(highlight=False, markup=False, emoji=False)


def stderr() -> Console:
    """For progress and complaints."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def shown(text: str, style: str = "") -> Text:
    """A text of unknown origin, as it may be printed."""
    return Text(plain(text), style=style)


def print_facts(rows: Iterable[tuple[str, str]], title: str = "") -> None:
    """`facts` on stdout, under a title in bold if there is one."""
    if title:
        stdout().print(shown(title, "bold"))
    stdout().print(facts(rows))


def complain(sentence: str) -> None:
    """One red sentence on stderr."""
    stderr().print(shown(" ".join(sentence.split()), "red"), soft_wrap=True)


def print_json(value: object) -> None:
    """JSON on stdout; ASCII only, so that no terminal or pipe can garble it."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def gave_json(value: object, output: Path | None, to_stdout: bool) -> bool:
    """Write a result to a file if there is one, and to stdout if that is asked for; returns `to_stdout`."""
    from simgym.transcripts import write_json

    if output is not None:
        write_json(output, value)
    if to_stdout:
        print_json(value)
    return to_stdout


def bubble(role: str, text: str, title: str | None = None) -> RenderableType:
    """One utterance in the colour of its role; the assistant's are indented."""
    panel = Panel(
        shown(text),
        title=shown(title or role),
        title_align="left",
        border_style=ROLE_STYLES.get(role, ""),
        padding=(0, 1),
    )
    return Padding(panel, _INDENTS.get(role, (0, 8, 0, 0)))


def facts(rows: Iterable[tuple[str, str]]) -> RenderableType:
    """Lines of `name  value`, names in bold, values aligned; rows without a value are left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(shown(name), shown(value))
    return table


def format_counts(counts: Mapping[str, int]) -> str:
    """`3 refused, 1 empty`, or `none`."""
    return ", ".join(f"{count} {what}" for what, count in counts.items()) or "none"


def format_estimate(estimate: Estimate, *, percent: bool = False) -> str:
    """`0.62 [0.55, 0.70] (48)` or `62.0 % [55.0, 70.0] (48)`: value, interval and n; or why there is no value."""
    if estimate.value is None:
        return f"none ({estimate.doubt})"
    form, scale, unit = (".1f", 100.0, " %") if percent else (".2f", 1.0, "")
    return f"{scale * estimate.value:{form}}{unit} {format_interval(estimate, form, scale=scale)} ({estimate.n})"
