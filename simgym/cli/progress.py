"""How far a run is: a bar on a terminal, a line now and then in a log; both on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from simgym.cli.terminal import plain, shown, stderr
from simgym.rollout.progress import Tally
from simgym.rollout.readiness import check_all_ready
from simgym.transcripts import Transcript

_LINES_PER_RUN = 10
"""In a log: about so many lines, whatever the length of the run."""
_SECONDS_BETWEEN_LINES = 60.0


def load_models(parts: Iterable[tuple[str, Any]]) -> None:
    """As `check_all_ready`, saying so meanwhile."""
    with stderr().status("Loading models"):
        check_all_ready(parts)


def say_nothing_to_do(count: int, what: str, place: object) -> None:
    """What a run says on stderr that has found everything done, e.g. of 8 `conversations` in a file."""
    stderr().print(shown(f"All {count:,} {what} are already in {place}; nothing to do."), soft_wrap=True)


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over `total` pieces of work, advanced by calling what it gives; in a log, a line a minute."""
    console = stderr()
    started = last_line = time.monotonic()
    done = 0
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(plain(what), total=total)

        def advance(count: int) -> None:
            nonlocal done, last_line
            bar.update(task, advance=count)
            done += count
            now = time.monotonic()
            if not console.is_terminal and now - last_line >= _SECONDS_BETWEEN_LINES:
                console.print(f"{plain(what)}: {done} of {total}, {now - started:.0f} s", soft_wrap=True)
                last_line = now

        yield advance


class ConversationProgress:
    """Counts finished conversations; use as a context manager and call `advance` with each."""

    def __init__(self, total: int) -> None:
        """Say how many there will be."""
        self._total = total
        self._tally = Tally()
        self._console = stderr()
        self._last_line = time.monotonic()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[mean]}", markup=False),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("talking", total=total, mean="")

    def advance(self, transcript: Transcript, description: str = "") -> None:
        """Count one conversation; `description` says to what it belongs, and the mean shown is that of its like."""
        self._tally.count(transcript, description)
        mean, done = self._tally.mean(description), self._tally.done
        self._bar.update(self._task, completed=done, description=plain(description) or "talking", mean=mean)
        if not self._console.is_terminal:
            self._line(description, mean)

    def advance_cell(self, assistant: str, env_id: str, transcript: Transcript) -> None:
        """Count one conversation of a cell of a matrix."""
        from simgym.report.results import short_name

        self.advance(transcript, f"{assistant} / {short_name(env_id)}")

    def __enter__(self) -> ConversationProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def _line(self, description: str, mean: str) -> None:
        now, tally = time.monotonic(), self._tally
        every = max(1, self._total // _LINES_PER_RUN)
        if tally.done % every and tally.done < self._total and now - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        parts = [f"{tally.done} of {self._total} conversations", f"{tally.seconds:.0f} s", mean, plain(description)]
        self._console.print(", ".join(part for part in parts if part), soft_wrap=True)
