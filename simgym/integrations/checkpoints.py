"""Checkpoints of transformers' `Trainer` (and TRL's) that can be gone on from.

A checkpoint is written file by file, and the trainer's state comes last: a folder without it was being written when the
process was killed, and the trainer would refuse to go on from it.
"""

from __future__ import annotations

import re
from pathlib import Path


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """The folder `checkpoint-N` with the highest N that was written to its end; None if there is none."""
    found = {
        int(match.group(1)): path
        for path in Path(folder).glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and (path / "trainer_state.json").is_file()
    }
    return str(found[max(found)]) if found else None
