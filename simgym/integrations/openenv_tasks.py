"""OpenEnv's Task API over the scenarios of a simulation: all of them are one split, and a task is a scenario's id."""

from __future__ import annotations

from typing import Any

from simgym.simulation import Simulation

SPLIT = "train"
"""The one split: all scenarios."""


class ScenarioTasks:
    """The routes that list tasks."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        """Whose scenarios they are."""

    def list_splits(self) -> list[str]:
        """All scenarios are one split."""
        return [SPLIT]

    def num_tasks(self, split: str) -> int:
        """Number of scenarios."""
        return len(self._tasks(split))

    def get_task(self, split: str, index: int) -> dict[str, Any]:
        """A scenario's id; what the user wants is theirs to say."""
        tasks = self._tasks(split)
        if not 0 <= index < len(tasks):
            raise IndexError(f"There is no task {index}, expected 0 to {len(tasks) - 1}.")
        return {"id": tasks[index], "index": index}

    def list_tasks(self, split: str) -> list[dict[str, object]]:
        """Ids of all scenarios."""
        return [{"id": task, "index": index} for index, task in enumerate(self._tasks(split))]

    def _tasks(self, split: str) -> list[str]:
        if split != SPLIT:
            raise ValueError(f"There is no split {str(split)[:40]!r}, expected {SPLIT}.")
        return list(self.simulation.scenarios)
