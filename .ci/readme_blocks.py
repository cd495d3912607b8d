"""Runs the Python blocks of a README that need no server and no trainer, each in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

NEEDS_MORE = ("localhost", "trl", "stable_baselines3")


def main(readme: Path) -> None:
    """Run the blocks in order; exit with the first one that fails."""
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    runnable = [block for block in blocks if not any(word in block for word in NEEDS_MORE)]
    assert runnable, "the README has no block that runs by itself"
    for number, block in enumerate(runnable, 1):
        outcome = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)
        if outcome.returncode or not outcome.stdout.strip():
            sys.exit(f"Block {number} of {len(runnable)} failed:\n{block}\n{outcome.stderr[-2000:]}")
        print(f"block {number} of {len(runnable)}: {outcome.stdout.strip().splitlines()[-1][:100]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
