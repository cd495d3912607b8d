"""Draw what a command printed in a terminal as an SVG that moves: a recording that a page can show without a script.

    python docs/tools/animate.py docs/images/demo.svg --keep runs/demo.cast -- make demo
    python docs/tools/animate.py docs/images/demo.svg --from runs/demo.cast        # draws a recording again

The recording (`terminal_cast.py`) is played faster, so that it takes `SECONDS`; what was printed at once is shown line
by line, and its end stays for a while. Every state of a line of the terminal is drawn once and shown while it lasted;
lines that have left at the top stay, and the picture moves over them. Who asks for less motion sees the end. Needs
pyte, which knows what a terminal does with what it is sent.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from terminal_cast import record

SECONDS = 30.0
"""Of the picture, while the command runs."""
LINE_SECONDS, END_SECONDS = 0.12, 8.0
"""For each line that came at once, and for the end."""
FRAME_SECONDS = 0.25
"""States that last less are not drawn."""
WIDTH, HEIGHT, MARGIN, BAR = 8.4, 18, 12, 26
"""Of a character, of a line, around the text and above it, in pixels."""
COLOURS = {
    "default": "#d4d4d4", "black": "#555555", "red": "#f48771", "green": "#89d185", "brown": "#d7ba7d",
    "blue": "#6cb6ff", "magenta": "#d699d6", "cyan": "#5fd7d7", "white": "#d4d4d4", "brightblack": "#8c8c8c",
    "brightred": "#f48771", "brightgreen": "#89d185", "brightbrown": "#d7ba7d", "brightblue": "#6cb6ff",
    "brightmagenta": "#d699d6", "brightcyan": "#5fd7d7", "brightwhite": "#ffffff",
}  # fmt: skip

Line = tuple[tuple[int, str, str, bool], ...]
"""Runs of equal look: column, text, colour, whether bold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The terminal at one time."""

    start: float
    """Since when, in seconds of the picture."""
    top: int
    """How many lines have left at the top."""
    lines: tuple[Line, ...]
    """All lines, those that have left included."""


def frames(cast: Path) -> Iterator[Frame]:
    """The states of a recording, in the order in which they are shown; those that are too short left out."""
    import pyte

    header, *events = [json.loads(line) for line in cast.read_text(encoding="utf-8").splitlines()]
    screen = pyte.HistoryScreen(header["width"], header["height"], history=100_000)
    screen.set_mode(pyte.modes.LNM)
    stream = pyte.Stream(screen)
    speed = max(1.0, events[-1][0] / SECONDS)
    late, drawn = 0.0, -FRAME_SECONDS
    stream.feed(f"$ {header['command']}\n")
    for seconds, _, printed in events:
        pieces = printed.splitlines(keepends=True)
        for number, piece in enumerate(pieces):
            stream.feed(piece)
            late += LINE_SECONDS * (number > 0 and len(pieces) > 2)
            now = seconds / speed + late
            if now - drawn >= FRAME_SECONDS or len(pieces) > 2:
                drawn = now
                yield _frame(screen, now)
    yield _frame(screen, events[-1][0] / speed + late)


def _frame(screen: Any, now: float) -> Frame:
    left = [_line(row, screen.columns) for row in screen.history.top]
    shown = [_line(screen.buffer[number], screen.columns) for number in range(screen.lines)]
    return Frame(start=now, top=len(left), lines=(*left, *shown))


def _line(row: Any, columns: int) -> Line:
    runs: list[tuple[int, str, str, bool]] = []
    for column in range(columns):
        cell = row[column]
        look = (COLOURS.get(cell.fg, f"#{cell.fg}"), cell.bold)
        if runs and runs[-1][2:] == look:
            runs[-1] = (runs[-1][0], runs[-1][1] + cell.data, *look)
        else:
            runs.append((column, cell.data, *look))
    return tuple(run for run in ((at, text.rstrip(), *look) for at, text, *look in runs) if run[1])


def picture(cast: Path, rows: int) -> str:
    """The SVG of a recording; `rows` lines are seen at a time."""
    states = list(frames(cast))
    seconds = states[-1].start + END_SECONDS
    spans = list(_spans(states, seconds))
    columns = json.loads(cast.read_text(encoding="utf-8").partition("\n")[0])["width"]
    width, height = round(columns * WIDTH + 2 * MARGIN), rows * HEIGHT + 2 * MARGIN + BAR
    names: dict[tuple[float, float], str] = {}
    drawn = []
    for number, line, start, end in spans:
        y = MARGIN + BAR + number * HEIGHT + 13
        name = names.setdefault((start, end), f"s{len(names)}")
        drawn.append(f'<g class="t {name}{" e" * (end == seconds)}">{_text(line, y)}</g>')
    rules = [_rule(name, start / seconds, end / seconds) for (start, end), name in names.items()]
    return _SVG.format(
        width=width, height=height, seconds=f"{seconds:.1f}", rules="".join(rules), scroll=_scroll(states, seconds),
        final=-states[-1].top * HEIGHT, inner=height - BAR - 2 * MARGIN, above=BAR + MARGIN, drawn="\n".join(drawn),
    )  # fmt: skip


def _spans(states: list[Frame], seconds: float) -> Iterator[tuple[int, Line, float, float]]:
    """Number, content, and from when to when, of every state of every line."""
    for number in range(max(len(state.lines) for state in states)):
        content: Line = ()
        since = 0.0
        for state in states:
            now = state.lines[number] if number < len(state.lines) else ()
            if now != content:
                if content:
                    yield number, content, since, state.start
                content, since = now, state.start
        if content:
            yield number, content, since, seconds


def _rule(name: str, start: float, end: float) -> str:
    """Shown from one share of the picture's time to another, or to its end."""
    after = "" if end == 1.0 else f"{end:.2%}{{visibility:hidden}}"
    shown = f"0%{{visibility:hidden}}{start:.2%}{{visibility:visible}}{after}"
    return f"@keyframes {name}{{{shown}}}.{name}{{animation-name:{name}}}"


def _text(line: Line, y: int) -> str:
    drawn = []
    for at, text, colour, bold in line:
        look = "" if colour == COLOURS["default"] else f' fill="{colour}"'
        look += ' font-weight="bold"' if bold else ""
        place = f'x="{MARGIN + at * WIDTH:.1f}" y="{y}" textLength="{len(text) * WIDTH:.1f}"'
        drawn.append(f"<text {place}{look}>{escape(text)}</text>")
    return "".join(drawn)


def _scroll(states: list[Frame], seconds: float) -> str:
    steps, top = ["0%{transform:translateY(0)}"], 0
    for state in states:
        if state.top != top:
            top = state.top
            steps.append(f"{state.start / seconds:.2%}{{transform:translateY({-top * HEIGHT}px)}}")
    return "".join([*steps, f"100%{{transform:translateY({-top * HEIGHT}px)}}"])


_SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">
<style>
text{{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;white-space:pre}}
.t{{visibility:hidden;animation:{seconds}s step-end infinite}}.e{{visibility:visible}}
.scroll{{transform:translateY({final}px);animation:scroll {seconds}s step-end infinite}}
@keyframes scroll{{{scroll}}}
{rules}
@media (prefers-reduced-motion:reduce){{.t,.scroll{{animation:none}}}}
</style>
<rect width="{width}" height="{height}" rx="8" fill="#1e1e1e"/>
<g fill="#5a5a5a"><circle cx="16" cy="16" r="5"/><circle cx="34" cy="16" r="5"/><circle cx="52" cy="16" r="5"/></g>
<svg y="{above}" width="{width}" height="{inner}" viewBox="0 {above} {width} {inner}"><g class="scroll" fill="#d4d4d4">
{drawn}
</g></svg>
</svg>
"""


def main() -> None:
    """Record or read, and draw."""
    output, option, cast, *command = sys.argv[1:]
    if option == "--keep" and command[:1] == ["--"] and command[1:]:
        if code := record(command[1:], Path(cast)):
            raise SystemExit(f"{' '.join(command[1:])} ended with exit code {code}.")
    elif option != "--from" or command:
        raise SystemExit("Usage: animate.py OUTPUT.svg (--keep FILE.cast -- COMMAND ... | --from FILE.cast)")
    rows = json.loads(Path(cast).read_text(encoding="utf-8").partition("\n")[0])["height"]
    Path(output).write_text(picture(Path(cast), rows), encoding="utf-8")


if __name__ == "__main__":
    main()
