"""The matrix as a heat map: inline SVG, byte-identical for the same results.

Colours come from `cividis`, which readers with colour-vision deficiencies see as everybody else does. Every cell also
states its value as text, so colour is never the only carrier, and a colour bar explains the colours. Axes have titles
(who replies, who plays the user), and a legend explains hatching and outlines. Labels take the colour of the
surrounding text and the background is transparent, so the picture fits a light and a dark page; opened alone it is
black on white. Names are plain text: no mathematics, no control characters, long names folded between words.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simgym.evaluation.curves import Curve
from simgym.report.names import name_pieces, training_of
from simgym.report.results import MatrixResults, short_name
from simgym.statistics.intervals import Estimate, format_p_equation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

PAGE_INK = "#010203"
"""What matplotlib writes and `as_svg` replaces by the colour of the page's text."""
PEOPLE = "people"
"""Name of the column of a study's participants."""
SIGNIFICANT = 0.05
"""Corrected p-values below this are called significant."""
NOT_SIGNIFICANT = "not significant: corrected p ≥ 0.05, or none"
TRAINING_SIMULATOR = "the simulator it was trained with"
_CELL_WIDTH, _CELL_HEIGHT = 1.55, 0.85
"""Inches."""
_LABEL_WIDTH = 22
"""Characters in a line of a label."""
_LEAST_SPAN = 5.0
"""Points of reward x 100 that the colour scale covers at least: nearly equal cells should look nearly equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """Colours of values."""

    low: float
    """Value of the first colour."""
    high: float
    """Value of the last."""
    colours: str
    """Name of a colour map."""
    ends: tuple[float, float]
    """Part of the map that is used, in [0, 1]."""
    title: str
    """What the values are."""

    def map(self, steps: int = 256) -> Colormap:
        """The part of the colour map in so many steps."""
        from matplotlib import colormaps
        from matplotlib.colors import ListedColormap

        first, last = self.ends
        whole = colormaps[self.colours]
        return ListedColormap([whole(first + (last - first) * at / (steps - 1)) for at in range(steps)])

    def colour(self, value: float) -> tuple[float, ...]:
        """Colour of a value, with alpha."""
        colour: tuple[float, ...] = self.map()((value - self.low) / (self.high - self.low))
        return colour


def matrix_heatmap_svg(results: MatrixResults) -> str:
    """Rows assistants, columns simulators; each cell with mean, half-width of its interval and n.

    Returns:
        An `<svg>` element without XML prolog or date. Cells without data say so; where an assistant meets the simulator
        it was trained with, the cell is outlined.
    """
    people = results.people.estimates if results.people is not None else {}
    estimates = [*(cell.estimate for cell in results.cells), *people.values()]
    values = [estimate.value for estimate in estimates if estimate.value is not None] or [50.0]
    middle, span = (min(values) + max(values)) / 2, max(max(values) - min(values), _LEAST_SPAN)
    scale = _Scale(
        low=middle - span / 2, high=middle + span / 2, colours="cividis", ends=(0.0, 1.0), title="mean reward × 100"
    )

    def draw(axes: Axes, x: int, y: int, row: str, column: str) -> None:
        cell = results.cell(row, column)
        estimate = people.get(row) if column == PEOPLE else cell.estimate if cell is not None else None
        if estimate is None or estimate.value is None:
            _draw_nothing(axes, x, y)
        else:
            counted = estimate.n if column == PEOPLE or cell is None else cell.counted
            _draw_cell(axes, x, y, _CellText(estimate=estimate, remark=f"n = {counted}"), scale)

    described = "Generalization matrix; the table below holds the same numbers"
    columns = (*results.simulators, PEOPLE) if results.people is not None else results.simulators
    return _heatmap(results, results.assistants, draw, scale, described, columns=columns)


def difference_heatmap_svg(results: MatrixResults) -> str | None:
    """Paired differences from the reference assistant, row by row as in the matrix; None if there are none.

    A cell is hatched unless its corrected p-value is below `SIGNIFICANT`. Orange is a loss, violet a gain (`PuOr`),
    which all colour vision tells apart.
    """
    compared = results.comparisons
    if compared is None:
        return None
    values = [
        abs(difference.estimate.value) for difference in compared.differences if difference.estimate.value is not None
    ]
    largest = max([_LEAST_SPAN, *values])
    # the ends of the map are too dark to tell from each other
    title = f"difference from {' '.join(_label(compared.reference).split())}, reward × 100"
    scale = _Scale(low=-largest, high=largest, colours="PuOr", ends=(0.1, 0.9), title=title)

    def draw(axes: Axes, x: int, y: int, row: str, column: str) -> None:
        difference = compared.difference(row, column)
        estimate = difference.estimate if difference is not None else None
        if difference is None or estimate is None or estimate.value is None:
            _draw_nothing(axes, x, y)
            return
        unsure = difference.p_adjusted is None or difference.p_adjusted >= SIGNIFICANT
        remark = format_p_equation(difference.p_adjusted)
        _draw_cell(axes, x, y, _CellText(estimate=estimate, remark=remark, signed=True, hatched=unsure), scale)

    rows = [row for row in results.assistants if row != compared.reference]
    return _heatmap(results, rows, draw, scale, "Differences; the table below holds the same numbers", hatching=True)


def curves_svg(curves: Sequence[Curve]) -> str | None:
    """Rewards in training, a small picture for each run on the same scale; None if there are none."""
    if not curves:
        return None
    from matplotlib.figure import Figure

    across = min(3, len(curves))
    down = -(-len(curves) // across)
    low = min(min(curve.reward) for curve in curves)
    high = max(max(curve.reward) for curve in curves)
    with _page_style():
        figure = Figure(figsize=(3.4 * across, 2.6 * down), layout="constrained")
        for number, curve in enumerate(curves, 1):
            axes = figure.add_subplot(down, across, number)
            axes.plot(curve.at, curve.reward, ".", color="#8a94a0", markersize=4)
            axes.plot(curve.at, _smoothed(curve.reward), color=PAGE_INK, lw=1.6)
            axes.set_ylim(low - 2, high + 2)
            axes.set_title(_label(curve.name), fontsize=11, color=PAGE_INK)
            axes.set_xlabel(curve.unit, fontsize=10, color=PAGE_INK)
            axes.tick_params(labelsize=9, colors=PAGE_INK)
            for side, spine in axes.spines.items():
                spine.set_visible(side in ("left", "bottom"))
                spine.set_color(PAGE_INK)
        return as_svg(figure, "Learning curves; results.json holds the points")


def _smoothed(values: Sequence[float], width: int = 5) -> list[float]:
    """Mean of each value and its neighbours, as many as there are at the ends."""
    half = width // 2
    windows = [values[max(0, at - half) : at + half + 1] for at in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _heatmap(
    results: MatrixResults,
    rows: Sequence[str],
    draw: Callable[..., None],
    scale: _Scale,
    described: str,
    *,
    hatching: bool = False,
    columns: Sequence[str] | None = None,
) -> str:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    columns = results.simulators if columns is None else columns
    trained_on = results.comparisons.trained_on if results.comparisons is not None else {}
    with _page_style():
        figure = Figure(figsize=(_CELL_WIDTH * len(columns), _CELL_HEIGHT * len(rows)))
        axes = figure.add_axes((0, 0, 1, 1))  # labels lie outside; the picture is cut round them when it is saved
        for y, row in enumerate(rows):
            for x, column in enumerate(columns):
                draw(axes, x, y, row, column)
                if trained_on.get(row) == column:
                    frame = Rectangle((x + 0.02, y + 0.03), 0.96, 0.94, fill=False, edgecolor=PAGE_INK, lw=2.5)
                    axes.add_patch(frame)
        axes.set_xlim(0, len(columns))
        axes.set_ylim(len(rows), 0)
        axes.set_xticks([x + 0.5 for x in range(len(columns))], [_label(short_name(name)) for name in columns])
        axes.set_yticks([y + 0.5 for y in range(len(rows))], [_row_label(results, name) for name in rows])
        axes.tick_params(length=0, labelsize=12, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.tick_params(labelcolor=PAGE_INK)
        axes.xaxis.set_label_position("top")
        axes.set_xlabel("Simulator (plays the user)", fontsize=13, fontweight="bold", color=PAGE_INK, labelpad=8)
        axes.set_ylabel("Assistant (replies)", fontsize=13, fontweight="bold", color=PAGE_INK, labelpad=8)
        for spine in axes.spines.values():
            spine.set_visible(False)
        _draw_colour_bar(axes, scale, len(rows), len(columns))
        _draw_legend(axes, len(rows), hatching=hatching, outlined=any(trained_on.get(row) in columns for row in rows))
        return as_svg(figure, described)


def _draw_colour_bar(axes: Axes, scale: _Scale, rows: int, columns: int) -> None:
    """Below the cells, at most 3.4 inches wide."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    wide, inch = min(1.0, 3.4 / (_CELL_WIDTH * columns)), 1 / (_CELL_HEIGHT * rows)
    place = axes.inset_axes((0, -0.30 * inch, wide, 0.15 * inch))
    colours = ScalarMappable(Normalize(scale.low, scale.high), scale.map(32))
    bar = axes.figure.colorbar(colours, cax=place, orientation="horizontal")
    if bar.solids is not None:
        bar.solids.set_edgecolor("face")  # else the page shines through between two steps
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=11, colors=PAGE_INK, length=3)
    bar.ax.locator_params(nbins=5)
    bar.ax.set_title(scale.title, fontsize=11, color=PAGE_INK, loc="left", y=-3.9)


def _draw_legend(axes: Axes, rows: int, *, hatching: bool, outlined: bool) -> None:
    from matplotlib.patches import Patch

    keys = []
    if hatching:
        keys.append(Patch(facecolor="none", edgecolor=PAGE_INK, lw=0.6, hatch="///", label=NOT_SIGNIFICANT))
    if outlined:
        keys.append(Patch(facecolor="none", edgecolor=PAGE_INK, lw=2.4, label=TRAINING_SIMULATOR))
    if keys:
        below = -0.95 / (_CELL_HEIGHT * rows)
        axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(0, below), frameon=False, fontsize=11,
                    labelcolor=PAGE_INK, borderpad=0, borderaxespad=0, handleheight=1.2)  # fmt: skip


@contextmanager
def _page_style() -> Iterator[None]:
    from matplotlib import rc_context

    settings: Any = {
        "svg.hashsalt": "simgym",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "text.parse_math": False,
        "hatch.linewidth": 0.6,
    }
    with rc_context(settings), warnings.catch_warnings():
        # The browser draws the letters, with its own fonts; what matplotlib's font lacks does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def as_svg(figure: Figure, described: str) -> str:
    """A figure for a page: bare `<svg>`, `PAGE_INK` in the colour of the text, with a description."""
    buffer = io.StringIO()
    figure.savefig(
        buffer,
        format="svg",
        metadata={"Date": None, "Creator": None},
        transparent=True,
        bbox_inches="tight",
        pad_inches=0.05,
    )
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], count=1, flags=re.DOTALL)
    svg = svg.replace(f"fill: {PAGE_INK}", "fill: currentColor").replace(f"stroke: {PAGE_INK}", "stroke: currentColor")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{described}" ', 1)


_CORNER, _SIZE = (0.012, 0.02), (0.976, 0.96)
_MIDDLE: dict[str, Any] = {"ha": "center", "va": "center"}


def _draw_nothing(axes: Axes, x: int, y: int) -> None:
    from matplotlib.patches import Rectangle

    corner = (x + _CORNER[0], y + _CORNER[1])
    axes.add_patch(Rectangle(corner, *_SIZE, facecolor="none", edgecolor="#8a94a0", lw=0.8, linestyle=(0, (4, 3))))
    axes.text(x + 0.5, y + 0.5, "no data", fontsize=12, color=PAGE_INK, **_MIDDLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _CellText:
    """What a cell says."""

    estimate: Estimate
    """Value and interval."""
    remark: str
    """Beside the interval."""
    signed: bool = False
    """Gains have a plus sign."""
    hatched: bool = False
    """The value is not significant."""


def _draw_cell(axes: Axes, x: int, y: int, cell: _CellText, scale: _Scale) -> None:
    from matplotlib.patches import Rectangle

    value = cell.estimate.value or 0.0
    colour = scale.colour(value)
    corner = (x + _CORNER[0], y + _CORNER[1])
    axes.add_patch(Rectangle(corner, *_SIZE, facecolor=colour, edgecolor="none"))
    ink = _readable_on(colour)
    if cell.hatched:
        stripe = tuple(0.6 * part + 0.4 * (ink == "#ffffff") for part in colour[:3])  # stands out on any cell
        axes.add_patch(Rectangle(corner, *_SIZE, facecolor="none", edgecolor=stripe, lw=0, hatch="//"))
    box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5} if cell.hatched else None
    interval = f"± {cell.estimate.half_width:.1f}" if cell.estimate.reliable else "± unknown"
    number = f"{value:{'+' if cell.signed else ''}.1f}"
    axes.text(x + 0.5, y + 0.40, number, fontsize=18, fontweight="bold", color=ink, bbox=box, **_MIDDLE)
    axes.text(x + 0.5, y + 0.73, f"{interval} · {cell.remark}", fontsize=11, color=ink, bbox=box, **_MIDDLE)


def _readable_on(colour: tuple[float, ...]) -> str:
    # Relative luminance and contrast ratio as in WCAG 2.2; the better of the two is at least 4.5 on any colour.
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3])
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#000000"


def _row_label(results: MatrixResults, name: str) -> str:
    training = training_of(results, name)
    return f"{_label(name)}\n({_label(training)})" if training else _label(name)


def _label(name: str) -> str:
    """At most three lines; a longer name loses its middle, because names of models differ at both ends."""
    text = " ".join("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name).split())
    longest = 3 * _LABEL_WIDTH - 4
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[-(longest // 2) :]}"
    lines = [""]
    for piece in name_pieces(text):
        while len(lines[-1] + piece.rstrip()) > _LABEL_WIDTH:
            room = 0 if lines[-1] else _LABEL_WIDTH  # a piece is cut only if it does not fit a line of its own
            lines[-1:], piece = [lines[-1] + piece[:room], ""], piece[room:]
        lines[-1] += piece
    return "\n".join(line.strip() for line in lines).strip() or "(no name)"
