"""Finished runs read back from their folders, and several of them put into one report.

A matrix run is a folder with `results.json` and `transcripts/`, a training run one with `log.jsonl`. Matrices that
share seed, turn limit, judge, scenarios and simulators are one matrix: their rows are compared in pairs. Where they do
not, the rows stand below each other, nothing is compared, and the report says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from simgym.errors import ConfigurationError, MalformedFile
from simgym.evaluation.comparisons import compare_cells
from simgym.evaluation.curves import LOG_NAME, Curve, read_curve
from simgym.evaluation.matrix import Cell, Matrix
from simgym.evaluation.plan import read_plan, short_hash
from simgym.jsonl import read_json
from simgym.report.results import MatrixResults
from simgym.transcripts import Transcript, read_transcripts

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
    """Its conversations by (assistant, simulator)."""


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
    transcripts: dict[tuple[str, str], Sequence[Transcript]] = {}
    cells: dict[tuple[str, str], Cell] = {}
    notes: list[str] = []
    home: dict[str, str] = {}
    players: dict[str, dict[str, object]] = {"assistants": {}, "simulators": {}}
    comparable = True
    for run in runs:
        if differing := _differences(first, run):
            comparable = False
            notes.append(
                f"Not comparable: {run.name} has another {', another '.join(differing)} than {first.name}. "
                "Read its rows by themselves; nothing is compared."
            )
        names = _new_names(run, players["assistants"])
        for (assistant, simulator), several in run.transcripts.items():
            transcripts[names[assistant], simulator] = several
        for cell in run.results.cells:  # of a cell that is in two runs the later one stands
            cells[names[cell.assistant], cell.simulator] = replace(cell, assistant=names[cell.assistant])
        found = run.results.fingerprints
        players["assistants"] |= {names[name]: one for name, one in found.get("assistants", {}).items()}
        players["simulators"] |= found.get("simulators", {})
        if run.results.comparisons is not None:
            home |= {names[name]: column for name, column in run.results.comparisons.trained_on.items()}
        notes += [note for note in run.results.notes if note not in notes]
    assistants = tuple(dict.fromkeys(row for row, _ in transcripts))
    simulators = tuple(dict.fromkeys(column for _, column in transcripts))
    if comparable and len(transcripts) < len(assistants) * len(simulators):
        comparable = False
        notes.append("Nothing is compared: not every assistant has talked with every simulator.")
    fingerprints = {**first.results.fingerprints, **players}
    compared = None
    if comparable:
        ordered = {(row, column): transcripts[row, column] for row in assistants for column in simulators}
        before = first.results.comparisons
        compared = compare_cells(
            Matrix(tuple(cells.values()), ordered, fingerprints),
            reference=before.reference if before is not None else None,
            trained_on=home,
            seed=first.results.seed,
        )
    results = replace(
        first.results,
        assistants=assistants,
        simulators=simulators,
        cells=tuple(cells.values()),
        seconds=sum(run.results.seconds for run in runs),
        fingerprints=fingerprints,
        comparisons=compared,
        plan_hash=short_hash([run.results.plan_hash for run in runs]),
        curves=(*(curve for run in runs for curve in run.results.curves), *curves),
        notes=tuple(notes),
    )
    return StoredRun(", ".join(run.name for run in runs), results, transcripts)


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
    transcripts = {}
    for cell in results.cells:
        file = (folder / cell.transcripts).resolve()
        if folder.resolve() not in file.parents:
            raise MalformedFile(f"{path} names a file outside its folder: {cell.transcripts}.")
        held = [one for one in read_transcripts(file) if wanted is None or one.scenario.id in wanted]
        if len(held) != cell.conversations:
            raise MalformedFile(
                f"{file} holds {len(held)} conversations of the run, {path} counts {cell.conversations}. Run the same "
                "matrix command again, which brings them together."
            )
        transcripts[cell.assistant, cell.simulator] = held
    return StoredRun(folder.name, results, _in_one_order(transcripts))


def _in_one_order(
    transcripts: Mapping[tuple[str, str], Sequence[Transcript]],
) -> dict[tuple[str, str], list[Transcript]]:
    """Files hold conversations as they ended; cells are compared by scenario and seed."""
    order = {one.key: at for at, one in enumerate(next(iter(transcripts.values()), ()))}
    return {
        cell: sorted(several, key=lambda one: order.get(one.key, len(order))) for cell, several in transcripts.items()
    }


def _differences(first: StoredRun, other: StoredRun) -> list[str]:
    """What keeps two runs from being one matrix, in words."""
    ours, theirs = first.results, other.results
    found = [name for name in ("seed", "max_turns") if getattr(ours, name) != getattr(theirs, name)]
    if ours.fingerprints.get("judge") != theirs.fingerprints.get("judge"):
        found.append("judge")
    before, after = (run.fingerprints.get("simulators", {}) for run in (ours, theirs))
    found += [f"simulator {name}" for name in before if name in after and before[name] != after[name]]
    if _held(first) != _held(other):
        found.append("set of scenarios")
    return found


def _held(run: StoredRun) -> set[tuple[str, int, str]]:
    several = next(iter(run.transcripts.values()), ())
    return {(*one.key, short_hash(one.scenario.to_json())) for one in several}


def _new_names(run: StoredRun, taken: Mapping[str, object]) -> dict[str, str]:
    """Names of a run's assistants; one that another run has given to somebody else gets the run's name behind it."""
    mine = run.results.fingerprints.get("assistants", {})
    return {
        name: name if name not in taken or taken[name] == mine.get(name) else f"{name} ({run.name})"
        for name in run.results.assistants
    }
