"""The schema of `results.json`: what a matrix run found, with everything needed to say how.

Written once at the end of a run, read by the HTML report and by scripts. Numbers that do not exist are null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from simgym.errors import ConfigurationError
from simgym.evaluation.comparisons import Comparisons
from simgym.evaluation.matrix import Cell
from simgym.statistics.intervals import Estimate

SCHEMA_VERSION = 1
"""Raised when a field changes its meaning; readers refuse versions they do not know."""


@dataclass(frozen=True, slots=True)
class MatrixResults:
    """A generalization matrix and how it was made."""

    title: str
    """Heading of the report."""
    question: str
    """What the matrix is to answer, in a sentence."""
    created: str
    """Time of writing, ISO 8601 with offset."""
    simgym_version: str
    """Version that made it."""
    seed: int
    """Seed of the run."""
    max_turns: int
    """Assistant turns per conversation at most."""
    judge: str
    """Name of the judge."""
    measures: str
    """What the judge's value means, in a sentence."""
    scenario_source: str
    """Where the scenarios come from."""
    scenarios_n: int
    """Scenarios per cell."""
    assistants: tuple[str, ...]
    """Rows."""
    simulators: tuple[str, ...]
    """Columns, environment ids."""
    cells: tuple[Cell, ...]
    """Row by row."""
    seconds: float
    """Wall time of the run that wrote this; a resumed run did only part of the work."""
    fingerprints: Mapping[str, Any] = field(default_factory=dict)
    """Models, settings and prompt hashes: of each assistant, each simulator and the judge."""
    comparisons: Comparisons | None = None
    """Differences between assistants; None for a single one, and in files written before there were any."""
    notes: tuple[str, ...] = ()
    """What a reader has to know before believing a number."""
    schema_version: int = SCHEMA_VERSION
    """Version of this schema."""

    def cell(self, assistant: str, simulator: str) -> Cell | None:
        """The cell of a row and a column, or None."""
        return next((cell for cell in self.cells if (cell.assistant, cell.simulator) == (assistant, simulator)), None)

    def to_json(self) -> dict[str, Any]:
        """JSON values, for `simgym.transcripts.write_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MatrixResults:
        """Read what `to_json` gave.

        Raises:
            ConfigurationError: not a JSON object, another schema version, or a field is missing.
        """
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"results.json holds a {type(value).__name__}, expected a JSON object.")
        if value.get("schema_version") != SCHEMA_VERSION:
            raise ConfigurationError(
                f"results.json has schema_version {value.get('schema_version')!r}, this simgym reads {SCHEMA_VERSION}. "
                "Install the version that wrote it."
            )
        try:
            cells = tuple(Cell(**{**cell, "estimate": Estimate.from_json(cell["estimate"])}) for cell in value["cells"])
            known = {one.name for one in fields(cls)}
            lists = {name: tuple(value[name]) for name in ("assistants", "simulators", "notes")}
            compared = Comparisons.from_json(value["comparisons"]) if value.get("comparisons") else None
            own = {key: item for key, item in value.items() if key in known}
            return cls(**{**own, **lists, "cells": cells, "comparisons": compared})
        except (KeyError, TypeError) as error:
            raise ConfigurationError(f"results.json lacks or misnames a field: {error}.") from error


def short_name(env_id: str) -> str:
    """An environment id without what all of them share: `UserSim-RolePlay-v0` is `RolePlay`."""
    return env_id.removeprefix("UserSim-").removesuffix("-v0")
