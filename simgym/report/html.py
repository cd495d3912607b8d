"""One self-contained HTML file: no network, no script, everything escaped.

Autoescape is on for the whole template; only the SVG made by `figures` goes in as it is. A content security policy in
the page forbids scripts and outside requests, whatever a model may have said. The template lays out; what needs
counting or matching (totals, which attempt failed at which turn) is prepared here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simgym.evaluation.matrix import Cell
from simgym.report.figures import change_heatmap_svg, matrix_heatmap_svg
from simgym.report.page import page_templates, write_page
from simgym.report.results import MatrixResults, short_name
from simgym.transcripts import Transcript

_ROLES = ("assistant", "user", "judge")
"""Roles of model calls, in the order of the tables."""
_ENDINGS = {
    "user_end": "the user ended it",
    "turn_limit": "the turn limit was reached",
    "context_overflow": "it outgrew the model's context",
    "simulator_fault": "the simulated user failed",
    "judge_fault": "the judge failed",
    "assistant_fault": "the assistant failed",
}
"""End reasons in words."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One chat bubble."""

    role: str
    """Who speaks."""
    text: str | None
    """What was said; None if nothing usable came."""
    faults: Mapping[str, int]
    """Attempts at this turn that were not used: why, and how many."""


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation as it is shown."""

    transcript: Transcript
    """Where it comes from."""
    turns: tuple[Turn, ...]
    """In order; turns that failed for good come last."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """The conversations of a cell."""

    assistant: str
    """Row."""
    simulator: str
    """Column, an environment id."""
    cell: Cell | None
    """The cell's numbers."""
    talks: tuple[Talk, ...]
    """The first few."""


def write_report(
    path: str | Path,
    results: MatrixResults,
    transcripts: Mapping[tuple[str, str], Sequence[Transcript]],
    *,
    max_conversations: int = 5,
) -> None:
    """Write the report whole or not at all.

    Args:
        path: The HTML file.
        results: What to report.
        transcripts: Conversations by (assistant, simulator); the first few of each cell are shown.
        max_conversations: How many per cell, >= 0.

    Raises:
        TranscriptError: the file cannot be written.
    """
    write_page(path, render_report(results, transcripts, max_conversations=max_conversations))


def render_report(
    results: MatrixResults,
    transcripts: Mapping[tuple[str, str], Sequence[Transcript]],
    *,
    max_conversations: int = 5,
) -> str:
    """The report as HTML text."""
    environment = page_templates()
    environment.filters["short"] = short_name
    return environment.get_template("report.html.j2").render(
        results=results,
        heatmap=matrix_heatmap_svg(results),
        changes=change_heatmap_svg(results),
        roles=_ROLES,
        endings=_ENDINGS,
        excluded=_total_excluded(results.cells),
        tokens=_total_tokens(results.cells),
        fingerprints=json.dumps(results.fingerprints, indent=2, ensure_ascii=False, default=str),
        chapters=[
            Chapter(*key, results.cell(*key), tuple(map(_lay_out, several[: max(max_conversations, 0)])))
            for key, several in transcripts.items()
        ],
    )


def _lay_out(transcript: Transcript) -> Talk:
    """Put every unused attempt under the turn it was an attempt at."""
    failed: dict[tuple[str, int], Counter[str]] = {}
    for call in transcript.calls:
        if call.fault is not None and call.role != "judge":
            failed.setdefault((call.role, call.turn), Counter())[call.fault] += 1
    spoken: Counter[str] = Counter()
    turns = []
    for message in transcript.conversation.messages:
        turns.append(Turn(message.role, message.content, failed.pop((message.role, spoken[message.role]), {})))
        spoken[message.role] += 1
    turns += [Turn(role, None, faults) for (role, _), faults in failed.items()]
    return Talk(transcript, tuple(turns))


def _total_excluded(cells: Sequence[Cell]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for cell in cells:
        totals.update(cell.excluded)
    return dict(sorted(totals.items()))


def _total_tokens(cells: Sequence[Cell]) -> dict[str, dict[str, int]]:
    totals: dict[str, dict[str, int]] = {}
    for cell in cells:
        for role, numbers in cell.tokens.items():
            total = totals.setdefault(role, {"prompt": 0, "completion": 0})
            for kind in total:
                total[kind] += numbers.get(kind, 0)
    return totals
