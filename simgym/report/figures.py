"""The matrix as a heat map: inline SVG, the same bytes for the same results.

Colours are from `cividis`, which people with colour-vision deficiencies read as everybody else does; every cell says
its value in words, so colour is never the only carrier. Labels take the colour of the surrounding text and the
background stays clear, so the picture fits a light and a dark page; opened alone it is black on white. Names are
text: no mathematics, no control characters, long ones folded.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import Any

from simgym.report.results import MatrixResults, short_name

_PAGE_INK, _PAGE_PAPER = "#010203", "#fdfcfb"
"""Colours that matplotlib writes and `_fit_page` replaces by those of the page."""
_CELL_WIDTH, _CELL_HEIGHT = 1.6, 0.95
"""Inches."""
_LABEL_WIDTH = 20
"""Characters in a line of a label."""
_LEAST_SPAN = 5.0
"""Points of reward x 100 that the colour scale covers at least: nearly equal cells should look nearly equal."""


def matrix_heatmap_svg(results: MatrixResults) -> str:
    """Rows assistants, columns simulators; each cell with mean, half-width of its interval and n.

    Returns:
        An `<svg>` element without XML prolog or date; cells without data are hatched.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows, columns = results.assistants, results.simulators
    low, high = _scale(results)
    settings: Any = {
        "svg.hashsalt": "simgym",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "text.parse_math": False,
        "hatch.color": "#8a94a0",
        "hatch.linewidth": 0.6,
    }
    with rc_context(settings), warnings.catch_warnings():
        # The browser draws the letters, with its own fonts; what matplotlib's font lacks does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(2.0 + _CELL_WIDTH * len(columns), 0.7 + _CELL_HEIGHT * len(rows)))
        axes = figure.add_subplot()
        for y, row in enumerate(rows):
            for x, column in enumerate(columns):
                _draw_cell(axes, x, y, results, row, column, low, high)
        axes.set_xlim(0, len(columns))
        axes.set_ylim(len(rows), 0)
        axes.set_xticks([x + 0.5 for x in range(len(columns))], [_label(short_name(name)) for name in columns])
        axes.set_yticks([y + 0.5 for y in range(len(rows))], [_label(name) for name in rows])
        axes.tick_params(length=0, labelsize=12, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.tick_params(labelcolor=_PAGE_INK)
        for spine in axes.spines.values():
            spine.set_visible(False)
        buffer = io.StringIO()
        figure.savefig(
            buffer,
            format="svg",
            metadata={"Date": None, "Creator": None},
            transparent=True,
            bbox_inches="tight",
            pad_inches=0.05,
        )
    return _fit_page(buffer.getvalue())


def _scale(results: MatrixResults) -> tuple[float, float]:
    values = [cell.estimate.value for cell in results.cells if cell.estimate.value is not None] or [50.0]
    middle, span = (min(values) + max(values)) / 2, max(max(values) - min(values), _LEAST_SPAN)
    return middle - span / 2, middle + span / 2


def _draw_cell(
    axes: Any, x: int, y: int, results: MatrixResults, row: str, column: str, low: float, high: float
) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    cell = results.cell(row, column)
    value = cell.estimate.value if cell else None
    corner, width, height = (x + 0.012, y + 0.02), 0.976, 0.96
    middle: dict[str, Any] = {"ha": "center", "va": "center"}
    if cell is None or value is None:
        axes.add_patch(Rectangle(corner, width, height, facecolor="none", edgecolor="#8a94a0", lw=0.6, hatch="///"))
        box = {"facecolor": _PAGE_PAPER, "edgecolor": "none", "pad": 4}
        axes.text(x + 0.5, y + 0.5, "no data", fontsize=12, color=_PAGE_INK, bbox=box, **middle)
        return
    colour = colormaps["cividis"]((value - low) / (high - low))
    axes.add_patch(Rectangle(corner, width, height, facecolor=colour, edgecolor="none"))
    ink = _readable_on(colour)
    half = cell.estimate.half_width
    interval = "no interval" if half is None else f"± {half:.1f}"
    axes.text(x + 0.5, y + 0.40, f"{value:.1f}", fontsize=18, fontweight="bold", color=ink, **middle)
    axes.text(x + 0.5, y + 0.73, f"{interval} · n = {cell.counted}", fontsize=11, color=ink, **middle)


def _readable_on(colour: tuple[float, ...]) -> str:
    # Relative luminance and contrast ratio as in WCAG 2.2; the better of the two is at least 4.5 on any colour.
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3])
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#000000"


def _label(name: str) -> str:
    """At most three lines; a longer name loses its middle, because names of models differ at both ends."""
    text = " ".join("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name).split())
    longest = 3 * _LABEL_WIDTH - 4
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[-(longest // 2) :]}"
    lines = [""]
    for piece in re.findall(r"[^ /_+:.-]*[ /_+:.-]?", text):
        while len(lines[-1] + piece.rstrip()) > _LABEL_WIDTH:
            room = 0 if lines[-1] else _LABEL_WIDTH  # a piece is cut only if it does not fit a line of its own
            lines[-1:], piece = [lines[-1] + piece[:room], ""], piece[room:]
        lines[-1] += piece
    return "\n".join(line.strip() for line in lines).strip() or "(no name)"


def _fit_page(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    svg = svg.replace(f"fill: {_PAGE_INK}", "fill: currentColor").replace(
        f"fill: {_PAGE_PAPER}", "fill: var(--card, #fff)"
    )
    said = 'role="img" aria-label="Generalization matrix; the table below holds the same numbers"'
    return svg.replace("<svg ", f"<svg {said} ", 1)
