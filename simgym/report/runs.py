"""Finished runs read back from their folders, and joined into one report.

A matrix run is a folder with `results.json` and `transcripts/`, a training run a folder with `log.jsonl`. Matrices that
share seed, turn limit, judge, scenarios and simulators become one matrix, whose rows are compared in pairs. Otherwise
their rows are listed below each other, nothing is compared, and the report says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from simgym.errors import ConfigurationError, MalformedFile
from simgym.evaluation.comparisons import Comparisons, compare_cells
from simgym.evaluation.curves import LOG_NAME, Curve, read_curve
from simgym.evaluation.matrix import Cell, Matrix
from simgym.evaluation.plan import read_plan, short_hash
from simgym.jsonl import read_json
from simgym.report.results import MatrixResults
from simgym.transcripts import StoredTranscripts, Transcript

RESULTS_NAME = "results.json"
"""In the folder of a matrix run."""


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A matrix as it was written."""

    name: str
    """Of its folder."""
    results: MatrixResults
    """Its numbers."""
    transcripts: Mapping[tuple[str, str], Sequence[Transcript]]
    """Its conversations by (assistant, simulator), read from its files when they are asked for."""


def read_runs(folders: Sequence[str | Path]) -> tuple[list[StoredRun], list[Curve]]:
    """The matrices and the learning curves in some folders.

    Raises:
        ConfigurationError: a folder is neither, or there is no matrix among them.
        MalformedFile: a file in one cannot be read.
    """
    runs: list[StoredRun] = []
    curves: list[Curve] = []
    for folder in map(Path, folders):
        if (folder / RESULTS_NAME).is_file():
            runs.append(_read_matrix(folder))
        elif (folder / LOG_NAME).is_file():
            curves.append(read_curve(folder))
        else:
            raise ConfigurationError(
                f"{folder} holds neither {RESULTS_NAME} (a finished matrix) nor {LOG_NAME} (a training run). "
                "If a matrix was stopped there, finish it with the same command."
            )
    if not runs:
        raise ConfigurationError("There is no matrix among the runs. Give a folder that `simgym matrix` has filled.")
    return runs, curves


def join_runs(runs: Sequence[StoredRun], curves: Sequence[Curve] = ()) -> StoredRun:
    """One report's worth of runs.

    Args:
        runs: One or more matrices; title, question and reference assistant are those of the first.
        curves: To be shown beside them.
    """
    first = runs[0]
    if len(runs) == 1:
        return replace(first, results=replace(first.results, curves=(*first.results.curves, *curves)))
    joined = _Joined()
    for run in runs:
        joined.add(run, first)
    fingerprints = {**first.results.fingerprints, **joined.fingerprints}
    results = replace(
        first.results,
        assistants=joined.assistants,
        simulators=joined.simulators,
        cells=tuple(joined.cells.values()),
        seconds=sum(run.results.seconds for run in runs),
        fingerprints=fingerprints,
        comparisons=joined.compare(first, fingerprints),
        plan_hash=short_hash([run.results.plan_hash for run in runs]),
        curves=(*(curve for run in runs for curve in run.results.curves), *curves),
        notes=tuple(joined.notes),
    )
    return StoredRun(", ".join(run.name for run in runs), results, joined.transcripts)


class _Joined:
    """Matrices in the making of one."""

    def __init__(self) -> None:
        self.transcripts: dict[tuple[str, str], Sequence[Transcript]] = {}
        self.cells: dict[tuple[str, str], Cell] = {}
        self.notes: list[str] = []
        self.trained_on: dict[str, str] = {}
        self.fingerprints: dict[str, dict[str, object]] = {"assistants": {}, "simulators": {}}
        self.comparable = True

    @property
    def assistants(self) -> tuple[str, ...]:
        """Rows, in the order in which they were added."""
        return tuple(dict.fromkeys(row for row, _ in self.transcripts))

    @property
    def simulators(self) -> tuple[str, ...]:
        """Columns, in the order in which they were added."""
        return tuple(dict.fromkeys(column for _, column in self.transcripts))

    def add(self, run: StoredRun, first: StoredRun) -> None:
        """Append the rows of a run, and note how it differs from the first."""
        if differing := _differences(first, run):
            self.comparable = False
            self.notes.append(
                f"Not comparable: {run.name} and {first.name} differ in {', '.join(differing)}. "
                "Read the rows of each by themselves; nothing is compared."
            )
        results = run.results
        names = _new_names(run, self.fingerprints["assistants"])
        for (assistant, simulator), transcripts in run.transcripts.items():
            self.transcripts[names[assistant], simulator] = transcripts
        for cell in results.cells:  # of a cell that is in two runs the later version stands
            self.cells[names[cell.assistant], cell.simulator] = replace(cell, assistant=names[cell.assistant])
        assistants = results.fingerprints.get("assistants", {})
        self.fingerprints["assistants"] |= {names[name]: assistant for name, assistant in assistants.items()}
        self.fingerprints["simulators"] |= results.fingerprints.get("simulators", {})
        if results.comparisons is not None:
            self.trained_on |= {names[name]: column for name, column in results.comparisons.trained_on.items()}
        self.notes += [note for note in results.notes if note not in self.notes]

    def compare(self, first: StoredRun, fingerprints: Mapping[str, object]) -> Comparisons | None:
        """All cells with those of the first run's reference; None, with a note, where that cannot be done."""
        if not self.comparable:
            return None
        if len(self.transcripts) < len(self.assistants) * len(self.simulators):
            self.notes.append("Nothing is compared: not every assistant has talked with every simulator.")
            return None
        before = first.results.comparisons
        ordered = {
            (row, column): self.transcripts[row, column] for row in self.assistants for column in self.simulators
        }
        return compare_cells(
            Matrix(tuple(self.cells.values()), ordered, fingerprints),
            reference=before.reference if before is not None else None,
            trained_on=self.trained_on,
            seed=first.results.seed,
        )


def _read_matrix(folder: Path) -> StoredRun:
    path = folder / RESULTS_NAME
    try:
        results = MatrixResults.from_json(read_json(path))
    except MalformedFile:
        raise
    except ConfigurationError as error:
        raise MalformedFile(f"{path} cannot be read: {error}") from error
    plan = read_plan(folder)
    # a run may have grown behind these numbers, or been cut to its first scenarios
    wanted = None if plan is None else set(list(plan.scenarios)[: results.scenarios_n])
    transcripts: dict[tuple[str, str], StoredTranscripts] = {}
    for cell in results.cells:
        file = (folder / cell.transcripts).resolve()
        if folder.resolve() not in file.parents:
            raise MalformedFile(f"{path} names a file outside its folder: {cell.transcripts}.")
        of_cell = StoredTranscripts(file)
        if wanted is not None:
            of_cell = of_cell.select(
                number for number, outcome in enumerate(of_cell.outcomes) if outcome.scenario_id in wanted
            )
        if len(of_cell) != cell.conversations:
            raise MalformedFile(
                f"{file} holds {len(of_cell)} conversations of the run, {path} counts {cell.conversations}. Run the "
                "same matrix command again to bring them together."
            )
        transcripts[cell.assistant, cell.simulator] = of_cell
    return StoredRun(folder.name, results, _in_one_order(transcripts))


def _in_one_order(transcripts: Mapping[tuple[str, str], StoredTranscripts]) -> dict[tuple[str, str], StoredTranscripts]:
    """Files hold conversations as they ended; cells are compared by scenario and seed."""
    order: dict[tuple[str, int], int] = {}
    ordered = {}
    for cell, of_cell in transcripts.items():
        order = order or {outcome.key: at for at, outcome in enumerate(of_cell.outcomes)}
        places = [order.get(outcome.key, len(order)) for outcome in of_cell.outcomes]
        ordered[cell] = of_cell.select(sorted(range(len(places)), key=places.__getitem__))
    return ordered


def _differences(first: StoredRun, other: StoredRun) -> list[str]:
    """What keeps two runs from being one matrix, in words."""
    ours, theirs = first.results, other.results
    differences = [name for name in ("seed", "max_turns") if getattr(ours, name) != getattr(theirs, name)]
    if _env(first) != _env(other):
        differences.append("settings of the environment")
    if ours.fingerprints.get("judge") != theirs.fingerprints.get("judge"):
        differences.append("judge")
    before, after = (run.fingerprints.get("simulators", {}) for run in (ours, theirs))
    differences += [f"simulator {name}" for name in before if name in after and before[name] != after[name]]
    if _scenarios(first) != _scenarios(other):
        differences.append("set of scenarios")
    return differences


def _env(run: StoredRun) -> dict[str, object]:
    """Settings that the conversations were held under, but for the turn limit."""
    transcripts = next(iter(run.transcripts.values()), ())
    settings = transcripts[0].fingerprints.get("env", {}) if transcripts else {}
    return {name: value for name, value in settings.items() if name != "max_turns"}


def _scenarios(run: StoredRun) -> set[tuple[str, int, str]]:
    transcripts = next(iter(run.transcripts.values()), ())
    return {(*transcript.key, short_hash(transcript.scenario.to_json())) for transcript in transcripts}


def _new_names(run: StoredRun, taken: Mapping[str, object]) -> dict[str, str]:
    """Names of a run's assistants; one that another run has given to somebody else gets the run's name behind it."""
    mine = run.results.fingerprints.get("assistants", {})
    return {
        name: name if name not in taken or taken[name] == mine.get(name) else f"{name} ({run.name})"
        for name in run.results.assistants
    }
