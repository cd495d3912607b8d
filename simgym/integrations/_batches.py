"""An update as large as the settings say, however many processes share it.

TRL's settings name the batch of one device and how many of them make an update, so the same file updates on twice as
many examples in two processes, and is refused in three. A recipe's file says `effective_batch` instead: the examples of
an update, all processes together. From it follow the batch of a device (at most `per_device_train_batch_size`) and the
gradient accumulation. They have to be known before TRL reads its settings, which it checks at once, so they are flags.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from simgym.errors import ConfigurationError

_SETTINGS = (
    "effective_batch",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "generation_batch_size",
)
_DEFAULT_PER_DEVICE = 8
"""Of transformers' `TrainingArguments`."""
_LARGEST_CLUSTER = 64
"""Numbers of processes that a message proposes."""


def batch_flags(arguments: Sequence[str], *, processes: int | None = None) -> list[str]:
    """Flags that share `effective_batch` among the processes; none without that setting.

    Args:
        arguments: Of the command line; a YAML file in `--config` is read, too.
        processes: How many there are; None: as `torchrun` and `accelerate launch` say in `WORLD_SIZE`.

    Raises:
        ConfigurationError: no batch of a device gives this update with so many processes, or the settings contradict
            each other.
    """
    settings = _read(arguments)
    update = settings.get("effective_batch")
    if update is None:
        return []
    processes = processes or int(os.environ.get("WORLD_SIZE", "1"))
    # what TRL generates at a time is made of whole batches of all devices, as an update is
    shared = math.gcd(update, settings.get("generation_batch_size") or update)
    if shared % processes:
        raise ConfigurationError(_refusal(settings, shared, processes))
    most = settings.get("per_device_train_batch_size") or _DEFAULT_PER_DEVICE
    accumulation = settings.get("gradient_accumulation_steps")
    if accumulation is not None:
        if most * accumulation * processes != update:
            raise ConfigurationError(
                f"per_device_train_batch_size {most} x gradient_accumulation_steps {accumulation} x {processes} "
                f"process(es) is {most * accumulation * processes}, and effective_batch is {update}. Leave "
                "gradient_accumulation_steps out: it follows from the others."
            )
        return []
    each = max(size for size in range(1, min(most, shared // processes) + 1) if shared // processes % size == 0)
    return [
        "--per_device_train_batch_size",
        str(each),
        "--gradient_accumulation_steps",
        str(update // (each * processes)),
    ]


def _refusal(settings: Mapping[str, int], shared: int, processes: int) -> str:
    update, generated = settings["effective_batch"], settings.get("generation_batch_size")
    fitting = [str(number) for number in range(1, min(shared, _LARGEST_CLUSTER) + 1) if shared % number == 0]
    together = f" and a generation_batch_size of {generated}" if generated else ""
    nearest = sorted({max(1, update // processes) * processes, -(-update // processes) * processes})
    instead = " or ".join(map(str, nearest))
    return (
        f"An effective_batch of {update}{together} cannot be shared by {processes} processes. Start "
        f"{', '.join(fitting)} of them, or set effective_batch to {instead}"
        + (f" and generation_batch_size to a multiple of {processes}." if generated else ".")
    )


def _read(arguments: Sequence[str]) -> dict[str, int]:
    """The settings above, those of the command line before those of the file; what is no number is left to TRL."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    for name in _SETTINGS:
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", dest=name)
    flags, _ = parser.parse_known_args(list(arguments))
    values: dict[str, object] = {}
    if flags.config is not None and Path(flags.config).is_file():
        import yaml

        values = yaml.safe_load(Path(flags.config).read_text(encoding="utf-8")) or {}
    values |= {name: value for name, value in vars(flags).items() if value is not None}
    numbers = {name: str(values[name]) for name in _SETTINGS if values.get(name) is not None}
    return {name: int(text) for name, text in numbers.items() if text.isdigit() and int(text) > 0}
