"""Learning curves: what a training run logged, for the report.

A training folder holds `log.jsonl` with a line an update (`agents/ppo.py`: `update`, `reward`), or the log history of a
TRL trainer with `step` and `reward` (`agents/grpo.py`). The reward of an update is the mean of a judge's, in [0, 1]; a
trainer logs a return, which may be a sum over turns or functions, weighted or shaped: any finite number.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simgym.errors import ConfigurationError, MalformedFile
from simgym.jsonl import read_jsonl
from simgym.typed_json import from_json

LOG_NAME = "log.jsonl"
"""In the folder of a training run."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Reward in training."""

    name: str
    """Of the run."""
    unit: str
    """What `at` counts: `update` or `step`."""
    at: tuple[int, ...]
    """Where the points stand."""
    reward: tuple[float, ...]
    """Mean reward x 100 of the conversations of that update, in [0, 100], or return x 100 of that step; as many."""


@dataclass(frozen=True, slots=True)
class _Point:
    """A line with a reward."""

    at: int
    """Update or step."""
    reward: float
    """Mean of its conversations, finite."""


def read_curve(folder: str | Path, name: str | None = None) -> Curve:
    """The curve of a training run.

    Args:
        folder: Of the run, with `log.jsonl`.
        name: What to call it; None: as the folder.

    Raises:
        MalformedFile: there is no log, or nothing in it has a reward.
    """
    path = Path(folder) / LOG_NAME
    points: list[tuple[int, float]] = []
    unit = "update"
    for number, row in read_jsonl(path):
        try:
            unit = "update" if "update" in row else "step"
            if row.get("reward") is not None and unit in row:
                point = from_json(_Point, {"at": row[unit], "reward": row["reward"]}, "a line", extra="ignore")
                if unit == "update" and not 0 <= point.reward <= 1:
                    raise ConfigurationError(f"the reward of an update is {point.reward}, expected a number in [0, 1]")
                points.append((point.at, 100 * point.reward))
        except (ValueError, TypeError, AttributeError) as error:
            raise MalformedFile(f"{path}, line {number}: not the log of a training run ({error}).") from error
    if not points:
        raise MalformedFile(f"{path} holds no line with a reward.")
    return Curve(name or Path(folder).name, unit, tuple(at for at, _ in points), tuple(value for _, value in points))
