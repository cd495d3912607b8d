"""What an assistant was trained with: `simgym.json` in the folder of its weights.

Trainers write it beside each checkpoint. With it a folder says by itself what to call the assistant, which base model
an adapter belongs on, and against whom it was trained, so that a generalization matrix knows the training simulator.
Folders without the file work as before; nothing in it changes how an assistant answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from simgym._version import __version__
from simgym.errors import ConfigurationError, MalformedFile
from simgym.jsonl import read_json
from simgym.transcripts import write_json
from simgym.typed_json import describe, from_json

RECORD_NAME = "simgym.json"
"""In the folder of a trained assistant."""
SCHEMA_VERSION = 1
"""Incremented when a field changes its meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """How an assistant was trained."""

    method: str
    """What trained it: `grpo`, `ppo`, or what another trainer calls itself."""
    env_id: str
    """Environment of the training, which names the simulated user."""
    base_model: str | Mapping[str, object]
    """The model that was trained or, if it stayed frozen, that writes: a name, or settings that `ModelSpec` reads."""
    seed: int
    """Seed of the training."""
    steps: int
    """Updates so far, >= 0, as the trainer counts them."""
    max_turns: int
    """Assistant turns per conversation at most."""
    simulator: Mapping[str, Any]
    """Fingerprint of the simulator."""
    judge: Mapping[str, object]
    """Fingerprint of the judge whose score was the reward."""
    system_prompt: str | None = None
    """System prompt of the training; None: what the chat template does without one."""
    simgym_version: str = __version__
    """Version that wrote the record."""
    schema_version: int = SCHEMA_VERSION
    """Version of this record."""

    @property
    def name(self) -> str:
        """What to call the assistant in tables, e.g. `grpo-FineTuned-seed0-step40`."""
        simulator = self.env_id.removeprefix("UserSim-").rpartition("-v")[0] or self.env_id
        return f"{self.method}-{simulator}-seed{self.seed}-step{self.steps}"

    def save(self, folder: str | Path) -> None:
        """Write the record into a folder, whole or not at all.

        Raises:
            TranscriptError: it cannot be written.
        """
        write_json(Path(folder) / RECORD_NAME, asdict(self))


def read_training_record(folder: str | Path) -> TrainingRecord | None:
    """The record in a folder; None if there is no such folder, or no record in it.

    Raises:
        MalformedFile: there is a record that cannot be read.
    """
    path = Path(folder) / RECORD_NAME
    try:
        if not path.is_file():
            return None
    except (OSError, ValueError):  # a text that no path can be, such as a long model name
        return None
    value = read_json(path)
    version = value.get("schema_version") if isinstance(value, Mapping) else None
    if version != SCHEMA_VERSION:
        raise MalformedFile(
            f"{path}: schema_version is {describe(version)}, this simgym reads {SCHEMA_VERSION}. Install the version "
            "that wrote it."
        )
    try:
        return from_json(TrainingRecord, value, "training record", extra="ignore")
    except ConfigurationError as error:
        raise MalformedFile(f"{path} is not the record of a training ({error}). Remove it, or train again.") from error
