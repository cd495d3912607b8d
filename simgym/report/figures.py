"""The matrix as a heat map: inline SVG, the same bytes for the same results.

Colours are from `cividis`, which people with colour-vision deficiencies read as everybody else does; every cell says
its value in words, so colour is never the only carrier.
"""

from __future__ import annotations

import io
import re
from typing import Any

from simgym.report.results import MatrixResults, short_name

_LIGHT_ABOVE = 0.55
"""Share of the colour scale above which dark text is readable."""


def matrix_heatmap_svg(results: MatrixResults) -> str:
    """Rows assistants, columns simulators; each cell with mean, half-width of its interval and n.

    Returns:
        An `<svg>` element without XML prolog or date; cells without data are hatched.
    """
    from matplotlib import colormaps, rc_context
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    rows, columns = results.assistants, results.simulators
    values = [cell.estimate.value for cell in results.cells if cell.estimate.value is not None]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    span = max(high - low, 5.0)  # a matrix of nearly equal cells should look nearly equal
    middle = (low + high) / 2
    low, high = middle - span / 2, middle + span / 2
    colours = colormaps["cividis"]
    settings: Any = {
        "svg.hashsalt": "simgym",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "text.parse_math": False,
    }
    with rc_context(settings):
        figure = Figure(figsize=(2.4 + 1.75 * len(columns), 0.9 + 0.95 * len(rows)))
        axes = figure.add_subplot()
        for y, row in enumerate(rows):
            for x, column in enumerate(columns):
                cell = results.cell(row, column)
                value = cell.estimate.value if cell else None
                if cell is None or value is None:
                    axes.add_patch(Rectangle((x, y), 1, 1, facecolor="#eeeeee", edgecolor="#888888", hatch="///"))
                    axes.text(
                        x + 0.5, y + 0.5, "no data", ha="center", va="center", fontsize=11, backgroundcolor="#ffffff"
                    )
                    continue
                share = (value - low) / (high - low)
                axes.add_patch(Rectangle((x, y), 1, 1, facecolor=colours(share), edgecolor="white", linewidth=2))
                ink = "#111111" if share > _LIGHT_ABOVE else "#ffffff"
                half = cell.estimate.half_width
                width = "no interval" if half is None else f"± {half:.1f}"
                axes.text(x + 0.5, y + 0.40, f"{value:.1f}", ha="center", va="center", fontsize=17, color=ink)
                axes.text(
                    x + 0.5, y + 0.72, f"{width}   n={cell.counted}", ha="center", va="center", fontsize=10, color=ink
                )
        axes.set_xlim(0, len(columns))
        axes.set_ylim(len(rows), 0)
        axes.set_xticks([x + 0.5 for x in range(len(columns))], [_short(short_name(name), 18) for name in columns])
        axes.set_yticks([y + 0.5 for y in range(len(rows))], [_short(name, 22) for name in rows])
        axes.tick_params(length=0, labelsize=12, top=True, labeltop=True, bottom=False, labelbottom=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        figure.tight_layout()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return svg.replace(
        "<svg ", '<svg role="img" aria-label="Generalization matrix; the same numbers are in the table below" ', 1
    )


def _short(name: str, longest: int) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"
