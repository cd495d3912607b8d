"""Record what a command prints on a terminal as an SVG, text that can be copied and scaled.

    python docs/tools/record.py docs/images/conversations.svg -- simgym view runs/first.jsonl

The command runs as in a terminal of 96 columns, with its colours. The picture names no font of another host.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 96


def recorded(command: list[str]) -> str:
    """What a command prints, as SVG.

    Raises:
        SystemExit: the command fails.
    """
    terminal = {**os.environ, "COLUMNS": str(COLUMNS), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    outcome = subprocess.run(command, env=terminal, stdout=subprocess.PIPE, text=True)
    if outcome.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {outcome.returncode}.")
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {' '.join(command)}"))
    console.print(Text.from_ansi(outcome.stdout))
    svg = console.export_svg(title=command[0], unique_id="recorded")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S).replace("Fira Code", "ui-monospace")


if __name__ == "__main__":
    output, separator, *command = sys.argv[1:]
    if separator != "--" or not command:
        raise SystemExit("Usage: python docs/tools/record.py OUTPUT.svg -- COMMAND ...")
    Path(output).write_text(recorded(command), encoding="utf-8")
