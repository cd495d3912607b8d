"""The realism scorecard as a page and as JSON: figures of simulators beside those of people, and turns side by side.

As in every report nothing is loaded from elsewhere, no script runs, and everything said is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simgym.evaluation.reference import Moment, Reference
from simgym.evaluation.scorecard import MetricRow, Scorecard
from simgym.evaluation.simulated_turns import SimulatedTurn
from simgym.report.page import page_templates, write_page
from simgym.statistics.intervals import Estimate

SCHEMA_VERSION = 2
"""Incremented when a field is renamed or changes its meaning. Version 1 names `metrics` `figures`."""


@dataclass(frozen=True, slots=True)
class Row:
    """A figure across simulators."""

    metric: MetricRow
    """Title and aim; the human value."""
    simulated: tuple[MetricRow, ...]
    """One a simulator, in the order of the columns."""


@dataclass(frozen=True, slots=True)
class SideBySide:
    """What was said at one moment."""

    moment: Moment
    """Intent, history and what the person did."""
    turns: tuple[tuple[str, SimulatedTurn], ...]
    """Simulator and its turn."""


def realism_results(reference: Reference, cards: Sequence[Scorecard], *, seed: int, version: str) -> dict[str, object]:
    """What goes into results.json."""
    return {
        "schema_version": SCHEMA_VERSION,
        "simgym_version": version,
        "seed": seed,
        "reference": {
            "source": reference.source,
            "hash": reference.content_hash(),
            "conversations": reference.conversations,
            "people": reference.people,
            "moments": len(reference.moments),
            "left_out": reference.left_out,
        },
        "scorecards": [card.to_json() for card in cards],
    }


def scorecard_rows(cards: Sequence[Scorecard]) -> list[Row]:
    """The figures of all simulators, row by row."""
    return [Row(metric, tuple(card.metric(metric.name) for card in cards)) for metric in cards[0].metrics]


def format_estimate(estimate: Estimate | None) -> tuple[str, str]:
    """Value of an estimate and its interval, or why there is none, as texts; empty without a value."""
    if estimate is None or estimate.value is None:
        return "", ""
    digits = 1 if abs(estimate.value) >= 10 else 3 if abs(estimate.value) < 1 else 2
    if estimate.doubt:
        return f"{estimate.value:.{digits}f}", f"cannot be told: {estimate.doubt}"
    return f"{estimate.value:.{digits}f}", f"{estimate.low:.{digits}f} to {estimate.high:.{digits}f}"


def write_realism_report(
    path: str | Path,
    results: Mapping[str, object],
    reference: Reference,
    cards: Sequence[Scorecard],
    turns: Mapping[str, Sequence[SimulatedTurn]],
    *,
    max_moments: int = 12,
) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        results: As `realism_results` made them.
        reference: The people.
        cards: One a simulator.
        turns: By simulator, one for each moment of the reference.
        max_moments: How many moments are shown side by side, spread over the reference.

    Raises:
        TranscriptError: the file cannot be written.
    """
    step = max(1, len(reference.moments) // max(1, max_moments))
    shown = [
        SideBySide(reference.moments[index], tuple((name, turn[index]) for name, turn in turns.items()))
        for index in range(0, len(reference.moments), step)
    ][:max_moments]
    templates = page_templates()
    templates.filters["format_estimate"] = format_estimate
    page = templates.get_template("realism.html.j2").render(
        results=results,
        rows=scorecard_rows(cards),
        cards=cards,
        shown=shown,
        fingerprints=json.dumps({card.simulator: card.fingerprint for card in cards}, indent=2, default=str),
    )
    write_page(path, page)
