"""One self-contained HTML file: no network, no script, everything escaped.

Autoescape is on for the whole template; only the SVG made by `figures` goes in as it is. A content security policy in
the page forbids scripts and outside requests, whatever a model may have said.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from simgym.errors import TranscriptError
from simgym.report.figures import matrix_heatmap_svg
from simgym.report.results import MatrixResults, short_name
from simgym.transcripts import Transcript


def write_report(
    path: str | Path,
    results: MatrixResults,
    transcripts: Mapping[tuple[str, str], Sequence[Transcript]],
    *,
    max_conversations: int = 4,
) -> None:
    """Write the report whole or not at all.

    Args:
        path: The HTML file.
        results: What to report.
        transcripts: Conversations by (assistant, simulator); the first few of each cell are shown.
        max_conversations: How many per cell.

    Raises:
        TranscriptError: the file cannot be written.
    """
    text = render_report(results, transcripts, max_conversations=max_conversations)
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise TranscriptError(f"Cannot write the report to {path}: {error.strerror}.") from error


def render_report(
    results: MatrixResults,
    transcripts: Mapping[tuple[str, str], Sequence[Transcript]],
    *,
    max_conversations: int = 4,
) -> str:
    """The report as HTML text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("simgym.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = short_name
    shown = {key: list(several[:max_conversations]) for key, several in transcripts.items()}
    return environment.get_template("report.html.j2").render(
        results=results, heatmap=matrix_heatmap_svg(results), shown=shown, roles=("assistant", "user", "judge")
    )
