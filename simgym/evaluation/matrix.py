"""The generalization matrix: every assistant with every simulator, on the same scenarios and seeds.

Rows are assistants, columns are environments; a cell is one transcript file and the mean reward x 100 of its
conversations with a percentile-bootstrap interval (arXiv 2605.09808, Table 3). Conversations that ended in a fault
do not enter the mean; they are counted by reason. Cells are resumed from their files.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import gymnasium

from simgym.assistants.base import Assistant
from simgym.conversation import Scenario
from simgym.envs.unwrapping import env_ids, simulation_of
from simgym.errors import ConfigurationError
from simgym.evaluation.plan import Plan, keep_plan, short_hash
from simgym.evaluation.spending import count_earlier, keep_unwritten
from simgym.fingerprints import Fingerprint
from simgym.output_files import lock_output
from simgym.rollout import collect_jobs
from simgym.rollout.collection import count_exclusions, is_done_again, plan_conversations
from simgym.rollout.progress import NotebookBar, notebook_bar, showing
from simgym.rollout.readiness import check_all_ready
from simgym.rollout.settings import DEFAULTS, Job, RunSettings
from simgym.seeding import derive_seed
from simgym.statistics.intervals import Estimate, bootstrap_mean
from simgym.transcripts import StoredTranscripts, Transcript, outcomes

Progress = Callable[[str, str, Transcript], None] | Literal[False]
"""Called with assistant, environment id and transcript of each completed conversation; False: nothing is shown."""


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
    end_reasons: Mapping[str, int] = field(default_factory=dict)
    """Conversations by end reason, those that do not count included."""
    characters: Mapping[str, float] = field(default_factory=dict)
    """Mean length of an `assistant` and a `user` turn of the counted conversations, characters."""
    first_faults: Mapping[str, int] = field(default_factory=dict)
    """Model calls whose output was not used, by role; most were made up for by another attempt."""
    calls: Mapping[str, int] = field(default_factory=dict)
    """Model calls by role."""
    role_seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time by role, s; of a call for several conversations each has an equal share."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """All cells of a run and the conversations behind them."""

    cells: tuple[Cell, ...]
    """Row by row."""
    transcripts: Mapping[tuple[str, str], Sequence[Transcript]]
    """Conversations by (assistant, environment id), in the order of the scenarios; of a run, read from its files."""
    fingerprints: Fingerprint
    """Of each assistant and each simulator by name, and of the judge."""
    plan_hash: str = ""
    """Of everything the numbers depend on; see `Plan.hash`."""


def summarise_cell(assistant: str, simulator: str, transcripts: Sequence[Transcript], *, path: str, seed: int) -> Cell:
    """Statistics of one cell; the interval's random numbers depend on `seed` and the cell's names."""
    sums = _Sums()
    for transcript in transcripts:
        sums.add(transcript)
    endings = outcomes(transcripts)
    return Cell(
        assistant=assistant,
        simulator=simulator,
        estimate=bootstrap_mean(
            [100 * outcome.reward for outcome in endings if outcome.counts and outcome.reward is not None],
            seed=derive_seed(seed, "interval", assistant, simulator),
        ),
        conversations=len(endings),
        counted=sums.counted,
        excluded=count_exclusions(transcripts),
        tokens=sums.tokens,
        mean_assistant_turns=sums.turns["assistant"] / sums.counted if sums.counted else None,
        transcripts=path,
        end_reasons=dict(sorted(Counter(outcome.end_reason for outcome in endings).items())),
        characters={role: sums.characters[role] / turns for role, turns in sums.turns.items() if turns},
        first_faults=dict(sums.faults),
        calls=dict(sums.calls),
        role_seconds={role: round(seconds, 2) for role, seconds in sums.seconds.items()},
    )


class _Sums:
    """What conversations have taken, and how long those are that count, added up."""

    def __init__(self) -> None:
        self.tokens: dict[str, dict[str, int]] = {}
        self.calls: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.counted = 0
        self.turns = {"assistant": 0, "user": 0}
        self.characters = {"assistant": 0, "user": 0}

    def add(self, transcript: Transcript) -> None:
        """Count a conversation."""
        for role, numbers in transcript.tokens().items():
            total = self.tokens.setdefault(role, {"prompt": 0, "completion": 0})
            for kind, number in numbers.items():
                total[kind] += number
        self.calls.update(call.role for call in transcript.calls)
        self.faults.update(call.role for call in transcript.calls if call.fault is not None)
        self.seconds.update(transcript.role_seconds)
        self.counted += transcript.counts
        for message in transcript.conversation.messages if transcript.counts else ():
            if message.role in self.turns:
                self.turns[message.role] += 1
                self.characters[message.role] += len(message.content)


class CellCollector(Protocol):
    """Holds the conversations of all cells: `collect_jobs`, or `ray_collect_jobs` with its cluster filled in."""

    def __call__(self, jobs: Sequence[Job], settings: RunSettings) -> list[Sequence[Transcript]]:
        """Transcripts of each job, in order."""
        ...


class MatrixRun:
    """A planned matrix: its environments are made, its plan is known, and nothing has been run."""

    def __init__(
        self,
        assistants: Mapping[str, Assistant],
        simulators: Sequence[str],
        scenarios: Sequence[Scenario],
        *,
        folder: str | Path,
        seed: int = 0,
        env_options: Mapping[str, object] | None = None,
        simulator_options: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        """Plan.

        Args:
            assistants: By name, row by row.
            simulators: Environment ids, column by column.
            scenarios: Run in this order; every cell sees each once, with the same seed as in every other cell.
            folder: Gets `plan.json` and `transcripts/`, and is resumed from there.
            seed: Decides everything random.
            env_options: Further arguments of every environment, e.g. `max_turns`, `judge`.
            simulator_options: Further arguments of the simulators, by environment id.

        Raises:
            ConfigurationError: an axis is empty, an id is unknown, a column cannot play a scenario, or two names give
                the same file.
        """
        if not assistants or not simulators or not scenarios:
            raise ConfigurationError("The matrix needs at least one assistant, one simulator and one scenario.")
        self.assistants = dict(assistants)
        self.scenarios = tuple(scenarios)
        self.folder = Path(folder)
        self.seed = seed
        self.envs = {
            env_id: make_env(
                env_id,
                scenarios,
                {**(env_options or {}), "simulator_options": (simulator_options or {}).get(env_id, {})},
            )
            for env_id in dict.fromkeys(simulators)
        }
        simulations = {env_id: simulation_of(env) for env_id, env in self.envs.items()}
        for simulation in simulations.values():
            _ = simulation.scenarios  # a column that cannot play a scenario fails now, not hours later
        self.paths = {
            (row, column): f"transcripts/{file_stem(row, column)}.jsonl"
            for row in self.assistants
            for column in self.envs
        }
        if len(set(self.paths.values())) < len(self.paths):
            raise ConfigurationError(
                "Two assistants, or two simulators, have names that give the same file name. Rename one of them."
            )
        first = next(iter(simulations.values()))
        self.plan = Plan(
            seed=seed,
            max_turns=first.max_turns,
            judge=first.judge.fingerprint(),
            assistants={name: assistant.fingerprint() for name, assistant in self.assistants.items()},
            simulators={env_id: simulation.simulator.fingerprint() for env_id, simulation in simulations.items()},
            scenarios={scenario.id: short_hash(scenario.to_json()) for scenario in self.scenarios},
            answer_last_words=first.answer_last_words,
        )

    def stored(self, *, outages: bool = True) -> dict[tuple[str, str], Sequence[Transcript]]:
        """Planned conversations that are in the files; with `outages`, those that an outage ended included."""
        keys = {(scenario.id, chosen) for scenario, chosen in plan_conversations(self.scenarios, None, self.seed)}
        cells: dict[tuple[str, str], Sequence[Transcript]] = dict.fromkeys(self.paths, ())
        for cell, path in self.paths.items():
            if (self.folder / path).is_file():
                of_cell = StoredTranscripts(self.folder / path)
                cells[cell] = of_cell.select(
                    number
                    for number, outcome in enumerate(of_cell.outcomes)
                    if outcome.key in keys and (outages or not is_done_again(outcome))
                )
        return cells

    def completed(self) -> dict[tuple[str, str], Sequence[Transcript]]:
        """Planned conversations that are finished; those that an outage ended will be run again."""
        return self.stored(outages=False)

    def check_ready(self) -> None:
        """Load or ask the models of every row, column and judge that still has conversations to come.

        Raises:
            ConfigurationError: one lacks something, such as a tokenizer; nothing has been written.
            ServerUnavailable: the server of one does not answer; nothing has been written.
        """
        missing = [cell for cell, of_cell in self.completed().items() if len(of_cell) < len(self.scenarios)]
        rows, columns = (list(dict.fromkeys(names)) for names in (zip(*missing, strict=True) if missing else ((), ())))
        simulations = {env_id: simulation_of(self.envs[env_id]) for env_id in columns}
        check_all_ready(
            [
                *((f"assistant {row}", self.assistants[row]) for row in rows),
                *((f"simulator of {env_id}", simulation.simulator) for env_id, simulation in simulations.items()),
                *(("judge", simulation.judge) for simulation in list(simulations.values())[:1]),
            ]
        )

    def run(
        self,
        settings: RunSettings = DEFAULTS,
        *,
        progress: Progress | None = None,
        collector: CellCollector = collect_jobs,
    ) -> Matrix:
        """Run what is missing, and put the matrix together.

        Args:
            settings: How to run it.
            progress: Called with assistant, simulator and transcript of each completed conversation. None: a bar in a
                notebook, nothing elsewhere; False: nothing.
            collector: Runs the conversations; default: in this process, cell by cell.

        Raises:
            ConfigurationError: the folder holds another experiment.
            BudgetReached: the budget's limit is reached; the same call with a higher one goes on.
            ServerUnavailable: a model's server does not answer; the same call goes on when it is back.
            OutputInUse: another process is writing the folder.
        """
        bar = notebook_bar() if progress is None else None
        if bar is not None:
            progress = functools.partial(_advance, bar)
        jobs = [
            Job(
                assistant=self.assistants[row],
                env=self.envs[column],
                path=self.folder / path,
                progress=functools.partial(progress, row, column) if progress else None,
                seed=self.seed,
            )
            for (row, column), path in self.paths.items()
        ]
        with lock_output(self.folder, folder=True), showing(bar, len(self.paths) * len(self.scenarios)):
            keep_plan(self.plan, self.folder)
            if (budget := settings.budget) is not None:
                count_earlier(budget, itertools.chain(*self.stored().values()), self.folder)
            try:
                collected = collector(jobs, settings)
            finally:
                if budget is not None:
                    keep_unwritten(budget, itertools.chain(*self.stored().values()), self.folder)
        transcripts = dict(zip(self.paths, collected, strict=True))
        return Matrix(
            cells=tuple(
                summarise_cell(*cell, transcripts[cell], path=path, seed=self.seed) for cell, path in self.paths.items()
            ),
            transcripts=transcripts,
            fingerprints={
                "assistants": self.plan.assistants,
                "simulators": self.plan.simulators,
                "judge": self.plan.judge,
            },
            plan_hash=self.plan.hash,
        )


def _advance(bar: NotebookBar, row: str, column: str, transcript: Transcript) -> None:
    bar(transcript, f"{row} / {column}")


def make_env(env_id: str, scenarios: Sequence[Scenario], options: Mapping[str, Any]) -> Any:
    """An environment on these scenarios.

    Raises:
        ConfigurationError: no environment of simgym's has that id, or its arguments are wrong.
    """
    try:
        env = gymnasium.make(env_id, scenarios=scenarios, disable_env_checker=True, **options)
    except gymnasium.error.Error as error:
        known = ", ".join(env_ids())
        raise ConfigurationError(f"Unknown environment {env_id!r}: {error} Known: {known}.") from error
    except TypeError as error:  # it takes no scenarios
        if env_id in (known_ids := env_ids()):
            raise
        known = ", ".join(known_ids)
        raise ConfigurationError(f"{env_id!r} has no simulated users. Expected one of {known}.") from error
    simulation_of(env)
    return env


def file_stem(assistant: str, simulator: str) -> str:
    """Name of the file of a cell's transcripts, without its ending."""
    return f"{_slug(assistant)}--{_slug(simulator)}"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "unnamed"
