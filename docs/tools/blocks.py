"""The blocks of README and docs that are run, and what each of them needs.

    python docs/tools/blocks.py README.md docs/*.md    # runs those that the core and the default model are enough for

A Python block runs as it is written, in a process of its own, and prints something. A comment on the line before it
says what it needs more, or why it is not run; a shell block is run if a comment says so:

    <!-- needs: train -->              an extra of simgym beyond `local` and `chitchat`
    <!-- not run: a server ... -->     a reason; something else has to test it
    <!-- continues -->                 it goes on from the block before it, and is run behind it
    <!-- run: study -->                the shell block below is run, too; with an extra, if it needs one

A page that is run elsewhere as a whole (`docs/integrations.md`, by the contract tests) says so once:
`<!-- blocks not run here: ... -->`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

FENCED = re.compile(
    r"(?:^<!-- (?P<mark>needs|not run|continues)(?:: (?P<text>[^\n]*?))? -->\n)?^```python\n(?P<code>.*?)^```",
    re.M | re.S,
)
"""A block of a page with the comment before it."""
_SHELL = re.compile(r"^<!-- run(?:: (?P<needs>[^\n]*?))? -->\n^```bash\n(?P<code>.*?)^```", re.M | re.S)
_PAGE = re.compile(r"^<!-- blocks not run here: (.*?) -->", re.M)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of a page, with those that continue it."""

    page: Path
    """The file that holds it."""
    line: int
    """Where its code begins, from 1."""
    code: str
    """What is run."""
    needs: str
    """An extra of simgym beyond `local` and `chitchat`; empty if there is none."""
    not_run: str
    """Why it is not run; empty if it is."""
    language: Literal["python", "bash"] = "python"
    """What it is written in."""

    def run(self, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run it in `folder`, with this interpreter, and the commands beside it."""
        beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        command = ["bash", "-euc", self.code] if self.language == "bash" else [sys.executable, "-c", self.code]
        return subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**os.environ, "PATH": beside})


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a Markdown page: those of Python in order, then those of the shell."""
    text = page.read_text(encoding="utf-8")
    elsewhere = reason[1] if (reason := _PAGE.search(text)) else ""
    blocks: list[Block] = []
    for match in FENCED.finditer(text):
        if match["mark"] == "continues":
            blocks[-1] = replace(blocks[-1], code=blocks[-1].code + match["code"])
            continue
        blocks.append(
            Block(
                page=page,
                line=text.count("\n", 0, match.start("code")) + 1,
                code=match["code"],
                needs=(match["text"] or "") if match["mark"] == "needs" else "",
                not_run=(match["text"] or "") if match["mark"] == "not run" else elsewhere,
            )
        )
    for match in _SHELL.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        needs = match["needs"] or ""
        blocks.append(Block(page=page, line=line, code=match["code"], needs=needs, not_run="", language="bash"))
    return blocks


def main(pages: list[Path]) -> None:
    """Run the blocks in order; exit with the first one that fails."""
    blocks = [block for page in pages for block in blocks_of(page) if not block.needs and not block.not_run]
    assert blocks, "no page has a block that runs by itself"
    for block in blocks:
        outcome = block.run(Path.cwd())
        if outcome.returncode or not outcome.stdout.strip():
            sys.exit(f"{block.page}:{block.line} failed:\n{block.code}\n{outcome.stderr[-2000:]}")
        print(f"{block.page.name}:{block.line}: {outcome.stdout.strip().splitlines()[-1][:100]}")


if __name__ == "__main__":
    main([Path(page) for page in sys.argv[1:]])
