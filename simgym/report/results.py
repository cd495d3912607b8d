"""The schema of `results.json`: the numbers of a matrix run, with everything needed to reproduce them.

Written once at the end of a run, read by the HTML report and by scripts. Numbers that do not exist are null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from simgym._version import __version__
from simgym.errors import ConfigurationError
from simgym.evaluation.comparisons import Comparisons
from simgym.evaluation.contrasts import Contrast
from simgym.evaluation.curves import Curve
from simgym.evaluation.matrix import Cell, Matrix
from simgym.fingerprints import Fingerprint
from simgym.judges.people_record import people_warning
from simgym.language_models.weights import DEFAULT_MODEL
from simgym.notebooks import table_html
from simgym.report.people import PeopleColumn
from simgym.statistics.intervals import Estimate
from simgym.typed_json import describe, from_json

SCHEMA_VERSION = 2
"""Incremented when a field is renamed or changes its meaning; readers refuse versions they do not know."""
_READABLE = (1, SCHEMA_VERSION)
"""Version 1 names `differences` `changes`, `p_value` `p` and `p_adjusted` `p_corrected`; it is read as well."""
_MANY_LOST = 0.1
"""Share of a cell's conversations that may be lost before the report warns."""


@dataclass(frozen=True, slots=True, kw_only=True)
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
    fingerprints: Fingerprint = field(default_factory=dict)
    """Models, settings and prompt hashes: of each assistant, each simulator and the judge."""
    comparisons: Comparisons | None = None
    """Differences between assistants; None for a single one, and in files written before there were any."""
    plan_hash: str = ""
    """Hash of everything that the numbers depend on; runs with the same one are the same experiment."""
    contrasts: tuple[Contrast, ...] = ()
    """Pairs of assistants that the question is about."""
    curves: tuple[Curve, ...] = ()
    """How the assistants were trained."""
    people: PeopleColumn | None = None
    """What a study's participants think of the same assistants; None: not given, and in files of earlier versions."""
    notes: tuple[str, ...] = ()
    """Caveats for the reader."""
    schema_version: int = SCHEMA_VERSION
    """Version of this schema."""

    def cell(self, assistant: str, simulator: str) -> Cell | None:
        """The cell of a row and a column, or None."""
        return next((cell for cell in self.cells if (cell.assistant, cell.simulator) == (assistant, simulator)), None)

    def _repr_html_(self) -> str:  # what a notebook shows
        rows = []
        for assistant in self.assistants:
            cells = [self.cell(assistant, simulator) for simulator in self.simulators]
            rows.append(
                [
                    assistant,
                    *("" if cell is None else f"{format_mean(cell.estimate)} ({cell.counted})" for cell in cells),
                ]
            )
        caption = "Mean reward x 100 ± half of its 95 % interval (conversations counted)"
        return table_html(caption, ["", *self.simulators], rows)

    def to_json(self) -> dict[str, object]:
        """JSON values, for `simgym.transcripts.write_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> MatrixResults:
        """Read what `to_json` gave.

        Raises:
            ConfigurationError: not a JSON object, another schema version, or a field is missing or of another type.
        """
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"results.json holds {describe(value)}, expected a JSON object.")
        if value.get("schema_version") not in _READABLE:
            raise ConfigurationError(
                f"results.json has schema_version {describe(value.get('schema_version'))}, this simgym reads "
                f"{' and '.join(map(str, _READABLE))}. Install the version that wrote it."
            )
        return from_json(cls, {**value, "schema_version": SCHEMA_VERSION}, "results.json", extra="ignore")


def format_mean(estimate: Estimate) -> str:
    """`43.1 ± 4.1`: a value and half of its interval's length, `?` where that cannot be told."""
    if estimate.value is None:
        return "none"
    half = "?" if estimate.doubt or estimate.half_width is None else f"{estimate.half_width:.1f}"
    return f"{estimate.value:.1f} ± {half}"


def describe_matrix(filled: Matrix, *, question: str, scenarios: str, seed: int, seconds: float) -> MatrixResults:
    """What goes into results.json, without comparisons; `scenarios` says where they come from."""
    judge = filled.fingerprints["judge"]
    first = next(iter(filled.transcripts.values()))
    notes = [*what_to_know(filled.fingerprints), *_hard_to_compare(filled)]
    return MatrixResults(
        title="Assistants and simulated users",
        question=question,
        created=datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
        simgym_version=__version__,
        seed=seed,
        max_turns=first[0].fingerprints["env"]["max_turns"],
        judge=str(judge.get("judge", "unknown")),
        measures=str(judge.get("measures", "what its rubric says")),
        scenario_source=scenarios,
        scenarios_n=len(first),
        assistants=tuple(filled.fingerprints["assistants"]),
        simulators=tuple(filled.fingerprints["simulators"]),
        cells=filled.cells,
        seconds=round(seconds, 1),
        fingerprints=filled.fingerprints,
        plan_hash=filled.plan_hash,
        notes=tuple(notes),
    )


def what_to_know(fingerprints: Fingerprint) -> list[str]:
    """Caveats for the reader."""
    notes = []
    if fingerprints["judge"].get("judge") == "relevance":
        notes.append(
            "The judge measures relevance: whether the replies fit the user's words. It sees neither correctness nor "
            "tone nor effort, so the matrix does not say which assistant is more helpful."
        )
    if fingerprints["judge"].get("judge") == "reward_head":
        notes.append(
            "The judge is a small reward model. Facts it does not check, and on close pairs it is often wrong (see its "
            "model card)."
        )
    if warning := people_warning(fingerprints["judge"]):
        notes.append(warning)
    if DEFAULT_MODEL in repr(fingerprints):
        notes.append(
            "Roles are played by the default 135M model, whose users and replies are weak: the run shows that the "
            "method works end to end, not what good simulators would find."
        )
    return notes


def _hard_to_compare(filled: Matrix) -> list[str]:
    """What makes cells hard to compare with each other."""
    excluded = sum(cell.conversations - cell.counted for cell in filled.cells)
    notes = []
    if excluded:
        lost = "1 conversation" if excluded == 1 else f"{excluded} conversations"
        notes.append(f"{lost} ended in a fault and do not enter the means.")
    many_lost = [
        f"{cell.assistant} with {short_name(cell.simulator)} ({cell.conversations - cell.counted} of "
        f"{cell.conversations})"
        for cell in filled.cells
        if cell.conversations - cell.counted > _MANY_LOST * cell.conversations
    ]
    if many_lost:
        notes.append(
            f"Hard to compare, because more than {_MANY_LOST:.0%} of the conversations do not count: "
            f"{', '.join(many_lost)}. What was lost need not be like what was not."
        )
    return notes


def short_name(env_id: str) -> str:
    """An environment id without what all of them share: `UserSim-RolePlay-v0` is `RolePlay`."""
    return env_id.removeprefix("UserSim-").removesuffix("-v0")
