"""What recipes on transformers' `Trainer` (and TRL's) share: flags for this machine, settings, where to go on from.

A checkpoint is written file by file, and the trainer's state comes last: a folder without it was being written when the
process was killed, and the trainer would refuse to go on from it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from simgym.errors import ConfigurationError
from simgym.jsonl import parse_json
from simgym.language_models import interrupt_requests
from simgym.typed_json import read_as


def run_script(main: Callable[[], None]) -> None:
    """Run a recipe's `main`; Ctrl-C ends it at once, also while a server hangs, in a sentence and with exit code 130.

    Raises:
        SystemExit: it was interrupted.
    """
    try:
        main()
    except KeyboardInterrupt:
        interrupt_requests()  # other threads wait for their answers, and Python for the threads
        print("Interrupted. What was written is kept; run the same command again to go on from it.", file=sys.stderr)
        raise SystemExit(130) from None


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """The folder `checkpoint-N` with the highest N that was written to its end; None if there is none."""
    checkpoints = {
        int(match.group(1)): path
        for path in Path(folder).glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and (path / "trainer_state.json").is_file()
    }
    return str(checkpoints[max(checkpoints)]) if checkpoints else None


def device_flags() -> list[str]:
    """Flags for what this machine cannot do: training on a GPU, and bfloat16. The reader's own come later, and win."""
    import torch

    if torch.cuda.is_available():
        return [] if torch.cuda.is_bf16_supported() else ["--bf16", "false"]
    return ["--bf16", "false", "--use_cpu", "true"]


def as_mapping(value: str | Mapping[str, object] | None) -> dict[str, object]:
    """A setting with parts: a mapping already (from YAML), or JSON (from a flag); none: empty."""
    try:
        return dict(read_as(dict, parse_json(value) if isinstance(value, str) else value or {}, "The setting"))
    except ValueError as error:
        raise ConfigurationError(f"{str(value)[:120]!r} is no mapping: {error} Expected a JSON object.") from error


def as_model(value: str | Mapping[str, object]) -> str | dict[str, object]:
    """A model in a setting: a name, or its arguments as a mapping (from YAML) or JSON (from a flag)."""
    return as_mapping(value) if not isinstance(value, str) or value.lstrip().startswith("{") else value
