"""One self-contained HTML file: no network, no script, everything escaped.

Autoescape is on for the whole template; only the SVG made by `figures` goes in as it is. A content security policy in
the page forbids scripts and outside requests, whatever a model may have said. Templates only lay out; whatever has to
be counted or matched (totals, which attempt failed at which turn) is prepared here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simgym.evaluation.matrix import Cell
from simgym.evaluation.plan import short_hash
from simgym.fingerprints import Fingerprint
from simgym.report.conversation_views import (
    ConversationView,
    PageLink,
    choose_pairs,
    filter_rules,
    lay_out,
    pair_filters,
    write_conversation_pages,
)
from simgym.report.figures import curves_svg, difference_heatmap_svg, matrix_heatmap_svg
from simgym.report.names import training_of
from simgym.report.page import page_templates, write_page
from simgym.report.results import MatrixResults, short_name
from simgym.report.turns import ENDINGS
from simgym.statistics.intervals import fewest_units, format_interval, format_p
from simgym.transcripts import Transcript

_ROLES = ("assistant", "user", "judge")
"""Roles of model calls, in the order of the tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSection:
    """The conversations of a cell."""

    assistant: str
    """Row."""
    simulator: str
    """Column, an environment id."""
    cell: Cell | None
    """The cell's numbers."""
    conversations: tuple[ConversationView, ...]
    """The first few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """An assistant, a simulator or the judge, as the report names it."""

    name: str
    """As in the matrix."""
    role: str
    """What it did."""
    model: str | None
    """Its model, if it has one."""
    revision: str | None
    """Of the model."""
    dtype: str | None
    """Numbers that the model calculates with."""
    hash: str
    """Of its whole fingerprint."""


def write_report(
    path: str | Path,
    results: MatrixResults,
    transcripts: Mapping[tuple[str, str], Sequence[Transcript]],
    *,
    max_conversations: int = 5,
    all_conversations: bool = False,
) -> None:
    """Write the report whole or not at all.

    Args:
        path: The HTML file.
        results: What to report.
        transcripts: Conversations by (assistant, simulator); the first few of each cell are shown.
        max_conversations: How many per cell, >= 0.
        all_conversations: Write them all, too, to pages in a folder beside the report that it links to.

    Raises:
        TranscriptError: the file cannot be written.
    """
    pages = write_conversation_pages(path, results, transcripts) if all_conversations else []
    write_page(path, render_report(results, transcripts, max_conversations=max_conversations, pages=pages))


def render_report(
    results: MatrixResults,
    transcripts: Mapping[tuple[str, str], Sequence[Transcript]],
    *,
    max_conversations: int = 5,
    pages: Sequence[PageLink] = (),
) -> str:
    """The report as HTML text."""
    environment = page_templates()
    environment.filters |= {"short": short_name, "p": format_p, "interval": format_interval}
    trained_on = results.comparisons.trained_on if results.comparisons is not None else {}
    filters = pair_filters(results)
    return environment.get_template("report.html.j2").render(
        results=results,
        trainings={name: training_of(results, name) for name in results.assistants},
        trained=any(simulator in results.simulators for simulator in trained_on.values()),
        unsure=any(cell.estimate.value is not None and not cell.estimate.reliable for cell in results.cells),
        fewest=fewest_units(),
        heatmap=matrix_heatmap_svg(results),
        differences=difference_heatmap_svg(results),
        roles=_ROLES,
        endings=ENDINGS,
        endings_seen=[reason for reason in ENDINGS if any(reason in cell.end_reasons for cell in results.cells)],
        curves=curves_svg(results.curves),
        played=[*_models(results.fingerprints)],
        pairs=choose_pairs(results, transcripts),
        filters=filters,
        filter_rules=filter_rules(filters),
        pages=pages,
        spent={
            "seconds": _total(cell.role_seconds for cell in results.cells),
            "calls": _total(cell.calls for cell in results.cells),
            "faults": _total(cell.first_faults for cell in results.cells),
        },
        excluded=dict(sorted(_total(cell.excluded for cell in results.cells).items())),
        tokens={
            role: _total(cell.tokens.get(role, {}) for cell in results.cells)
            for role in _ROLES
            if any(role in cell.tokens for cell in results.cells)
        },
        fingerprints=json.dumps(results.fingerprints, indent=2, ensure_ascii=False, default=str),
        sections=_sections(results, transcripts, max(max_conversations, 0)),
    )


def _sections(
    results: MatrixResults, transcripts: Mapping[tuple[str, str], Sequence[Transcript]], count: int
) -> list[CellSection]:
    return [
        CellSection(
            assistant=assistant,
            simulator=simulator,
            cell=results.cell(assistant, simulator),
            conversations=tuple(lay_out(transcript) for transcript in of_cell[:count]),
        )
        for (assistant, simulator), of_cell in transcripts.items()
    ]


def _total(counts: Iterable[Mapping[str, Any]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for of_cell in counts:
        total.update(of_cell)
    return total


def _models(fingerprints: Fingerprint) -> Iterator[ModelInfo]:
    for role, by_name in (
        ("assistant", fingerprints.get("assistants", {})),
        ("simulator", fingerprints.get("simulators", {})),
        ("judge", {str(fingerprints.get("judge", {}).get("judge", "judge")): fingerprints.get("judge", {})}),
    ):
        for name, fingerprint in by_name.items():
            model = _model_of(fingerprint)
            texts = {key: str(model[key]) for key in ("model", "revision", "dtype") if model.get(key) is not None}
            yield ModelInfo(
                name=short_name(name),
                role=role,
                model=texts.get("model"),
                revision=texts.get("revision"),
                dtype=texts.get("dtype"),
                hash=short_hash(fingerprint),
            )


def _model_of(fingerprint: object) -> Mapping[str, object]:
    """The first model of a language that a fingerprint names, however deep."""
    if not isinstance(fingerprint, Mapping):
        return {}
    if "kind" in fingerprint and "model" in fingerprint:
        return fingerprint
    return next((model for value in fingerprint.values() if (model := _model_of(value))), {})
