"""How far a run is: what has been counted, and how a notebook shows it.

A notebook gets one output that is replaced, at most twice a second, whoever finishes conversations and however many
there are: it neither fills a cell with lines nor the stored notebook with bars. It is HTML without scripts, so that it
needs no widgets. A terminal's bar is the command line's (`simgym.cli.progress`).
"""

from __future__ import annotations

import html
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from simgym.transcripts import Transcript
from simgym.visible_text import visible

_SECONDS_BETWEEN_UPDATES = 0.5


class Tally:
    """Conversations that are finished, and the mean reward of those that belong together."""

    def __init__(self) -> None:
        """Count from now on."""
        self.done = 0
        self._started = time.monotonic()
        self._rewards: dict[str, list[float]] = defaultdict(list)

    def count(self, transcript: Transcript, description: str = "") -> None:
        """Count one; `description` says to what it belongs."""
        self.done += 1
        if transcript.counts and transcript.reward is not None:
            self._rewards[description].append(100 * transcript.reward)

    def mean(self, description: str = "") -> str:
        """`mean reward 41.2` of what belongs to the description; nothing while there is none."""
        rewards = self._rewards[description]
        return f"mean reward {sum(rewards) / len(rewards):.1f}" if rewards else ""

    @property
    def seconds(self) -> float:
        """Since the tally was made."""
        return time.monotonic() - self._started


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this: its outputs are HTML, and it has one event loop running already."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class NotebookBar:
    """Counts conversations, and shows them while it is `showing`; call it with each, and with what it belongs to."""

    def __init__(self) -> None:
        """Count from now on."""
        self._tally = Tally()
        self._total = 0
        self._output: Any = None
        self._shown = 0.0

    def __call__(self, transcript: Transcript, description: str = "") -> None:
        """Count one, and show it if the last time was long enough ago."""
        self._tally.count(transcript, description)
        if self._output is not None and time.monotonic() - self._shown >= _SECONDS_BETWEEN_UPDATES:
            self.show(description)

    def begin(self, total: int) -> None:
        """Make the output, in the cell that is running."""
        from IPython.display import display

        self._total = total
        self._output = display(self._html(""), display_id=True)
        self._shown = time.monotonic()

    def show(self, description: str = "") -> None:
        """Replace the output."""
        self._output.update(self._html(description))
        self._shown = time.monotonic()

    def _html(self, description: str) -> object:
        from IPython.display import HTML

        done, total = self._tally.done, self._total
        parts = [
            f"{done:,} of {total:,} conversations",
            f"{self._tally.seconds:.0f} s",
            self._tally.mean(description),
            html.escape(visible(description)),
        ]
        bar = f'<progress value="{done}" max="{total}"></progress>'
        return HTML(f"<div>{bar} {', '.join(part for part in parts if part)}</div>")


def notebook_bar() -> NotebookBar | None:
    """A bar that is not shown yet; None where there is no notebook."""
    return NotebookBar() if in_notebook() else None


@contextmanager
def showing(bar: NotebookBar | None, total: int) -> Iterator[None]:
    """Show a bar, if there is one, and at the end how far it came."""
    if bar is None:
        yield
        return
    bar.begin(total)
    try:
        yield
    finally:
        bar.show()
