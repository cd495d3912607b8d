"""The human study as a page: participant flow, win rates with intervals, and the rows that a sceptic asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simgym.report.figures import PAGE_INK, as_svg
from simgym.report.page import page_templates, write_page
from simgym.statistics.intervals import Estimate, format_interval, format_p, format_p_equation
from simgym.study.analysis import Pair, StudyResults

KINDS = {
    "synthetic": "Synthetic: scripted participants with a known preference. Nothing here is from people.",
    "dry_run": "Dry run: nothing here counts.",
    "unknown": "Records of another app: what it did not record is not checked here.",
}
"""Notes on records that are not of a real study of this app."""


def write_study_report(path: str | Path, results: StudyResults, *, title: str) -> None:
    """Write the page; one file, nothing loaded from elsewhere, everything escaped.

    Raises:
        TranscriptError: the file cannot be written.
    """
    templates = page_templates()
    templates.filters["percent"] = in_percent
    templates.filters["interval"] = interval
    templates.filters["ends"] = format_interval
    templates.filters["p"] = format_p
    templates.filters["format_p_equation"] = format_p_equation
    page = templates.get_template("study.html.j2").render(
        results=results, title=title, note=KINDS.get(results.kind, ""), figure=forest_svg
    )
    write_page(path, page)


def in_percent(value: float | None) -> str:
    """A share in percent, one decimal."""
    return "–" if value is None else f"{100 * value:.1f} %"


def interval(estimate: Estimate | None) -> str:
    """The ends of an interval of shares in percent, or why it cannot be told; empty without a value."""
    if estimate is None or estimate.value is None:
        return ""
    if estimate.doubt or estimate.low is None or estimate.high is None:
        return f"cannot be told: {estimate.doubt}"
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def forest_svg(pair: Pair) -> str:
    """Win rates of a pair with their intervals, one below the other; the same bytes for the same results."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = [row for row in pair.rows if row.rate is not None and row.rate.value is not None]
    settings: Any = {"svg.hashsalt": "simgym", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 12}
    with rc_context(settings):
        figure = Figure(figsize=(9, 0.9 + 0.42 * len(rows)))
        axes = figure.add_subplot()
        for at, row in enumerate(rows):
            rate: Any = row.rate
            if rate.reliable:
                ends = [100 * rate.low, 100 * rate.high]
                axes.plot(ends, [at, at], color=PAGE_INK, linewidth=1.6, solid_capstyle="butt")
            axes.plot([100 * rate.value], [at], "o" if at else "D", color=PAGE_INK, markersize=7)
        axes.axvline(50, color=PAGE_INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(rows)), [row.title for row in rows])
        axes.set_xlabel("win rate of the first, % (ties count half)", color=PAGE_INK)
        axes.tick_params(color=PAGE_INK, labelcolor=PAGE_INK)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(PAGE_INK)
        return as_svg(figure, "Win rates; the table below holds the same numbers")
