"""The generalization matrix: every assistant with every simulator, on the same scenarios and seeds.

Rows are assistants, columns are environments; a cell is one transcript file and the mean reward x 100 of its
conversations with a percentile-bootstrap interval (arXiv 2605.09808, Table 3). Conversations that ended in a fault
do not enter the mean; they are counted by reason. Cells are resumed from their files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium

from simgym.assistants.base import Assistant
from simgym.conversation import Scenario
from simgym.errors import ConfigurationError
from simgym.rollout.collect import collect, count_exclusions
from simgym.seeding import derive_seed
from simgym.statistics.intervals import Estimate, bootstrap_mean
from simgym.transcripts import Transcript


@dataclass(frozen=True, slots=True)
class Cell:
    """One assistant with one simulator."""

    assistant: str
    """Name of the assistant."""
    simulator: str
    """Environment id."""
    estimate: Estimate
    """Mean reward x 100, in [0, 100], over the conversations that count."""
    conversations: int
    """Conversations held."""
    counted: int
    """Conversations whose reward entered the mean."""
    excluded: Mapping[str, int]
    """The others, by end reason and fault."""
    tokens: Mapping[str, Mapping[str, int]]
    """Tokens read (`prompt`) and written (`completion`) per role, failed attempts included."""
    mean_assistant_turns: float | None
    """Assistant turns per counted conversation; None if none counted."""
    transcripts: str
    """Path of the JSONL file, relative to the run's folder."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """All cells of a run and the conversations behind them."""

    cells: tuple[Cell, ...]
    """Row by row."""
    transcripts: Mapping[tuple[str, str], Sequence[Transcript]]
    """Conversations by (assistant, environment id), in the order of the scenarios."""
    fingerprints: Mapping[str, Any]
    """Of each assistant and each simulator by name, and of the judge."""


def summarise_cell(assistant: str, simulator: str, transcripts: Sequence[Transcript], *, path: str, seed: int) -> Cell:
    """Statistics of one cell; the interval's random numbers depend on `seed` and the cell's names."""
    counted = [transcript for transcript in transcripts if transcript.counts]
    tokens: dict[str, dict[str, int]] = {}
    for transcript in transcripts:
        for role, numbers in transcript.tokens().items():
            total = tokens.setdefault(role, {"prompt": 0, "completion": 0})
            for kind, number in numbers.items():
                total[kind] += number
    turns = [len(transcript.conversation.said_by("assistant")) for transcript in counted]
    return Cell(
        assistant=assistant,
        simulator=simulator,
        estimate=bootstrap_mean(
            [100 * transcript.reward for transcript in counted if transcript.reward is not None],
            seed=derive_seed(seed, "interval", assistant, simulator),
        ),
        conversations=len(transcripts),
        counted=len(counted),
        excluded=count_exclusions(transcripts),
        tokens=tokens,
        mean_assistant_turns=sum(turns) / len(turns) if turns else None,
        transcripts=path,
    )


def evaluate_matrix(
    assistants: Mapping[str, Assistant],
    simulators: Sequence[str],
    scenarios: Sequence[Scenario],
    *,
    folder: str | Path,
    seed: int = 0,
    batch_size: int = 32,
    env_options: Mapping[str, Any] | None = None,
    simulator_options: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Callable[[str, str, Transcript], None] | None = None,
) -> Matrix:
    """Fill the matrix; every cell sees each scenario once, with the same seed as in every other cell.

    Args:
        assistants: By name, row by row.
        simulators: Environment ids, column by column.
        scenarios: Held in this order.
        folder: Transcripts go to `folder/transcripts/`, and are resumed from there.
        seed: Decides everything random.
        batch_size: Conversations held at the same time.
        env_options: Further arguments of every environment, e.g. `max_turns`, `judge`.
        simulator_options: Further arguments of the simulators, by environment id.
        progress: Called with assistant, simulator and transcript of each finished conversation.

    Raises:
        ConfigurationError: an axis is empty, an id is unknown, or two names give the same file.
    """
    if not assistants or not simulators or not scenarios:
        raise ConfigurationError("The matrix needs at least one assistant, one simulator and one scenario.")
    envs = {
        env_id: make_env(
            env_id, scenarios, {**(env_options or {}), "simulator_options": (simulator_options or {}).get(env_id, {})}
        )
        for env_id in dict.fromkeys(simulators)
    }
    for env in envs.values():
        _ = env.unwrapped.episodes.scenarios  # a column that cannot play a scenario fails now, not hours later
    paths = {(row, column): f"transcripts/{_slug(row)}--{_slug(column)}.jsonl" for row in assistants for column in envs}
    if len(set(paths.values())) < len(paths):
        raise ConfigurationError("Two assistants have names that give the same file name. Rename one of them.")
    cells: list[Cell] = []
    transcripts: dict[tuple[str, str], list[Transcript]] = {}
    for (row, column), path in paths.items():

        def report(transcript: Transcript, row: str = row, column: str = column) -> None:
            if progress is not None:
                progress(row, column, transcript)

        transcripts[row, column] = collect(
            assistants[row], envs[column], seed=seed, path=Path(folder) / path, batch_size=batch_size, progress=report
        )
        cells.append(summarise_cell(row, column, transcripts[row, column], path=path, seed=seed))
    mechanisms = {env_id: env.unwrapped.episodes for env_id, env in envs.items()}
    return Matrix(
        cells=tuple(cells),
        transcripts=transcripts,
        fingerprints={
            "assistants": {name: assistant.fingerprint() for name, assistant in assistants.items()},
            "simulators": {env_id: episodes.simulator.fingerprint() for env_id, episodes in mechanisms.items()},
            "judge": next(iter(mechanisms.values())).judge.fingerprint(),
        },
    )


def make_env(env_id: str, scenarios: Sequence[Scenario], options: Mapping[str, Any]) -> Any:
    """An environment on these scenarios.

    Raises:
        ConfigurationError: no environment has that id, or its arguments are wrong.
    """
    try:
        return gymnasium.make(env_id, scenarios=scenarios, disable_env_checker=True, **options)
    except gymnasium.error.Error as error:
        known = ", ".join(sorted(known for known in gymnasium.registry if known.startswith("UserSim-")))
        raise ConfigurationError(f"Unknown environment {env_id!r}: {error} Known: {known}.") from error


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "unnamed"
