"""The matrix, its differences and what is left of a run, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from simgym.cli.terminal import plain, shown
from simgym.statistics.intervals import format_interval

if TYPE_CHECKING:
    from rich.table import Table

    from simgym.evaluation.comparisons import Comparisons
    from simgym.evaluation.forecast import Forecast
    from simgym.report.people import PeopleColumn
    from simgym.report.results import MatrixResults
    from simgym.statistics.intervals import Estimate

PEOPLE = "people"
"""Heading of the column of a study's participants."""


def matrix_table(results: MatrixResults, width: int) -> Table:
    """The matrix in `width` columns: assistants as rows if they fit, else simulators, else one line a cell."""
    from simgym.report.results import short_name

    texts = {
        (cell.assistant, short_name(cell.simulator)): format_estimate(cell.estimate, cell.counted)
        for cell in results.cells
    }
    rows = [plain(row) for row in results.assistants]
    columns = [short_name(column) for column in results.simulators]
    if results.people is not None:
        columns.append(PEOPLE)
        for assistant in results.assistants:
            texts[assistant, PEOPLE] = format_estimate(results.people.estimates.get(assistant))
    texts = {(plain(row), column): text for (row, column), text in texts.items()}
    flipped = {(column, row): text for (row, column), text in texts.items()}
    layouts = [
        ("assistant", rows, columns, texts, "Rows: assistants (reply). Columns: simulators (play the user)."),
        ("simulator", columns, rows, flipped, "Rows: simulators (play the user). Columns: assistants (reply)."),
    ]
    reasons = _reasons("± ?", [cell.estimate for cell in results.cells])
    for corner, down, across, entries, title in layouts:
        needed = max(map(len, [corner, *down])) + sum(
            3 + max(len(name), *(len(entries[row, name]) for row in down)) for name in across
        )
        if needed <= width:
            cells = [[row, *(entries[row, name] for name in across)] for row in down]
            return _table([corner, *across], cells, title=title, caption=reasons)
    cells = [[row, column, texts[row, column]] for row in rows for column in columns]
    title = "Assistants reply, simulators play the user."
    return _table(["assistant", "simulator", "mean"], cells, title=title, caption=reasons)


def format_estimate(estimate: Estimate | None, count: int | None = None) -> str:
    """`43.1 ± 4.1 (20)`: mean reward x 100, half the interval's length, and the count, or else the estimate's n."""
    from simgym.report.results import format_mean

    if estimate is None or estimate.value is None:
        return "none (0)"
    return f"{format_mean(estimate)} ({estimate.n if count is None else count})"


def people_rows(people: PeopleColumn) -> list[tuple[str, str]]:
    """What people's column is; for each simulator, its rank correlation with people, and pairs of assistants in the
    same order.
    """
    from simgym.report.results import short_name

    what = "ratings of 1 to 10 as 0 to 100" if people.kind == "ratings" else "win rate x 100 of choices"
    unused = ", ".join(f"{count} {reason}" for reason, count in people.left_out.items())
    return [
        ("people", f"{what} (people counted), {people.source}; {f'not used: {unused}' if unused else 'all used'}"),
        *(
            (
                f"{short_name(simulator)} and people",
                f"Spearman {_correlation(agreement.systems.spearman)}, pairs in the same order "
                f"{_correlation(agreement.ordered_alike)}",
            )
            for simulator, agreement in people.agreement.items()
        ),
    ]


def _correlation(estimate: Estimate) -> str:
    value = "none" if estimate.value is None else f"{estimate.value:.2f}"
    return f"{value} {format_interval(estimate, '.2f')}"


def differences_table(compared: Comparisons) -> Table:
    """A line for each difference from the reference, and the generalization gap."""
    from simgym.report.results import short_name
    from simgym.statistics.intervals import format_p

    rows = [
        [
            plain(difference.assistant),
            short_name(difference.simulator),
            format_difference(difference.estimate),
            format_p(difference.p_adjusted),
        ]
        for difference in compared.differences
    ]
    if compared.gap is not None:
        rows.append(["generalization gap", "", format_difference(compared.gap), ""])
    header = [f"against {plain(compared.reference)}", "simulator", "difference", "p (Holm)"]
    return _table(header, rows, caption=_reasons("[?]", [difference.estimate for difference in compared.differences]))


def format_difference(estimate: Estimate) -> str:
    """`+3.1 [0.4, 5.9]`, or `+3.1 [?]` where the interval cannot be told."""
    if estimate.value is None:
        return "none"
    interval = "[?]" if estimate.doubt else format_interval(estimate)
    return f"{estimate.value:+.1f} {interval}"


def _reasons(mark: str, estimates: Sequence[Estimate]) -> str:
    """What a mark in the table means, with each reason once; empty if no interval is missing."""
    doubts = dict.fromkeys(estimate.doubt for estimate in estimates if estimate.value is not None and estimate.doubt)
    return f"{mark}: the interval cannot be told ({'; '.join(doubts)})" if doubts else ""


def forecast_rows(forecast: Forecast) -> list[tuple[str, str]]:
    """What is left to do, as names and values."""
    rows = [("conversations", f"{forecast.planned:,} planned, {forecast.done:,} held, {forecast.missing:,} to go")]
    for role, numbers in (forecast.tokens or {}).items():
        rows.append((f"tokens, {role}", f"about {numbers['prompt']:,.0f} read, {numbers['completion']:,.0f} written"))
    if forecast.most_written is not None:
        rows.append(
            ("tokens written", f"at most {forecast.most_written:,} by assistants and simulators, without retries")
        )
    if forecast.seconds is not None:
        rows.append(("time", f"about {_duration(forecast.seconds)}, as long as those that were held"))
    if forecast.cost is not None:
        rows.append(("cost", f"about {forecast.cost:,.2f}"))
    return rows


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", caption: str = "") -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
        title=shown(title, "dim") if title else None,
        title_justify="left",
        caption=shown(caption, "dim") if caption else None,
        caption_justify="left",
    )
    for number, name in enumerate(header):
        names = number == 0 or name == "simulator"
        fits = header[-1] != "mean"  # else the last resort, where long names may fold
        table.add_column(shown(name), no_wrap=fits or not names, overflow="fold", justify="left" if names else "right")
    for row in rows:
        table.add_row(*(shown(text) for text in row))
    return table
