"""`simgym.evaluate`: from what an experiment is to what it found.

    results = simgym.evaluate(ExperimentConfig.from_yaml("experiment.yaml"))
    results.to_pandas().cells

The folder of the experiment gets `plan.json` and, if the experiment can be written as a file, `experiment.yaml` before
the first conversation, `transcripts/` as conversations are completed, then `results.json` and `report.html`. The same
call resumes an interrupted run, and on a complete one computes the results anew from the transcripts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from simgym.evaluation.config import ExperimentConfig
from simgym.evaluation.experiment import Experiment
from simgym.evaluation.matrix import Matrix, Progress
from simgym.output_files import lock_output
from simgym.report.html import write_report
from simgym.report.people import PeopleColumn, PeopleRatings, check_shared, people_column, read_people
from simgym.report.results import MatrixResults, describe_matrix, format_mean
from simgym.report.runs import RESULTS_NAME, read_runs
from simgym.statistics.intervals import Estimate
from simgym.transcripts import Transcript, write_json

if TYPE_CHECKING:
    import pandas

REPORT_NAME = "report.html"
"""In the folder of a run."""
_QUESTION = "How well does each assistant do with simulated users, and does it depend on which simulator plays them?"


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Results as data frames, for analysis of one's own."""

    cells: pandas.DataFrame
    """A row a cell: assistant, simulator, mean reward x 100 with its interval, conversations and counted."""
    comparisons: pandas.DataFrame
    """A row a difference from the reference: assistant, simulator, difference, interval, p_adjusted; empty with a
    single assistant."""
    conversations: pandas.DataFrame
    """A row a conversation: assistant, simulator, scenario, seed, reward (NaN if it has none), end_reason, fault,
    turns, prompt and completion tokens of all roles."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What an experiment found."""

    matrix: MatrixResults
    """The content of `results.json`: cells, comparisons, fingerprints, notes."""
    transcripts: Mapping[tuple[str, str], Sequence[Transcript]]
    """Conversations by (assistant, environment id), in the order of the scenarios; read from the files of the run when
    they are asked for, so that a run of any size has room."""
    folder: Path
    """Where they are stored."""

    @classmethod
    def load(cls, folder: str | Path) -> Results:
        """The results of a finished run.

        Raises:
            ConfigurationError: there is none in the folder.
            MalformedFile: a file in it cannot be read.
        """
        (run,), _ = read_runs([folder])
        return cls(matrix=run.results, transcripts=run.transcripts, folder=Path(folder))

    def __repr__(self) -> str:
        means = ", ".join(
            f"{cell.assistant}/{cell.simulator} {format_mean(cell.estimate)}" for cell in self.matrix.cells
        )
        return f"Results({means}; folder={str(self.folder)!r})"

    def _repr_html_(self) -> str:  # what a notebook shows
        compared = self.matrix.comparisons
        return self.matrix._repr_html_() + ("" if compared is None else compared._repr_html_())

    def to_pandas(self) -> Tables:
        """Cells, comparisons and conversations as data frames."""
        import pandas

        cells = [
            {
                "assistant": cell.assistant,
                "simulator": cell.simulator,
                **_columns(cell.estimate, "mean"),
                "conversations": cell.conversations,
                "counted": cell.counted,
            }
            for cell in self.matrix.cells
        ]
        differences = [
            {
                "assistant": difference.assistant,
                "simulator": difference.simulator,
                **_columns(difference.estimate, "difference"),
                "p_adjusted": difference.p_adjusted,
            }
            for difference in (self.matrix.comparisons.differences if self.matrix.comparisons is not None else ())
        ]
        named = ("assistant", "simulator", "difference", "low", "high", "n", "p_adjusted")
        return Tables(
            cells=pandas.DataFrame(cells),
            comparisons=pandas.DataFrame(differences, columns=list(named)),
            conversations=pandas.DataFrame(
                [
                    _conversation_row(*cell, transcript)
                    for cell, transcripts in self.transcripts.items()
                    for transcript in transcripts
                ]
            ),
        )

    def report(self, path: str | Path | None = None, *, conversations: int = 5) -> Path:
        """Write the HTML report; returns its path.

        Args:
            path: The file; None: `report.html` in the folder of the run.
            conversations: How many of each cell are shown, >= 0.
        """
        path = self.folder / REPORT_NAME if path is None else Path(path)
        write_report(path, self.matrix, self.transcripts, max_conversations=conversations)
        return path


def evaluate(config: ExperimentConfig | Experiment, *, progress: Progress | None = None) -> Results:
    """Run an experiment, or what is missing of it, and compare the assistants.

    Args:
        config: What to run; an `Experiment` if it has been planned already.
        progress: Called with assistant, environment id and transcript of each completed conversation. None: a bar in a
            notebook, nothing elsewhere; False: nothing.

    Raises:
        ConfigurationError: a setting is wrong, or the folder holds another experiment.
        BudgetReached: a limit is reached; the same call with a higher one goes on.
        ServerUnavailable: a model's server does not answer; the same call goes on when it is back.
        OutputInUse: another process is writing the folder.
    """
    started = time.monotonic()
    experiment = config if isinstance(config, Experiment) else Experiment(config)
    people = _read_people(experiment)
    experiment.check_ready()
    with lock_output(experiment.folder, folder=True):  # its numbers and its report belong to its conversations
        matrix = experiment.run_matrix(progress)
        described = describe_matrix(
            matrix,
            question=_QUESTION,
            scenarios=experiment.scenarios[0].source,
            seed=experiment.config.seed,
            seconds=time.monotonic() - started,
        )
        results = Results(
            matrix=replace(
                described, comparisons=experiment.compare(matrix), people=_beside(people, experiment, matrix)
            ),
            transcripts=matrix.transcripts,
            folder=experiment.folder,
        )
        write_json(experiment.folder / RESULTS_NAME, results.matrix.to_json())
        results.report()
    return results


def _read_people(experiment: Experiment) -> PeopleRatings | None:
    """What people think, read before anything is run.

    Raises:
        ConfigurationError: the file is missing, holds no ratings, or rates other assistants.
        MalformedFile: it cannot be read.
    """
    if experiment.config.people is None:
        return None
    people = read_people(experiment.config.people)
    check_shared(people.ratings, list(experiment.run.assistants))
    return people


def _beside(people: PeopleRatings | None, experiment: Experiment, matrix: Matrix) -> PeopleColumn | None:
    """People as a column of the filled matrix."""
    if people is None:
        return None
    source = Path(experiment.config.people or "").name
    rows = list(experiment.run.assistants)
    return people_column(people, source, rows, matrix.transcripts, seed=experiment.config.seed)


def _columns(estimate: Estimate, name: str) -> dict[str, object]:
    low, high = (estimate.low, estimate.high) if estimate.reliable else (None, None)
    return {name: estimate.value, "low": low, "high": high, "n": estimate.n}


def _conversation_row(assistant: str, simulator: str, transcript: Transcript) -> dict[str, object]:
    tokens = transcript.tokens().values()
    return {
        "assistant": assistant,
        "simulator": simulator,
        "scenario": transcript.scenario.id,
        "seed": transcript.seed,
        "reward": float("nan") if transcript.reward is None else transcript.reward,
        "end_reason": transcript.end_reason,
        "fault": None if transcript.fault is None else str(transcript.fault),
        "turns": len(transcript.conversation.said_by("assistant")),
        "prompt_tokens": sum(numbers["prompt"] for numbers in tokens),
        "completion_tokens": sum(numbers["completion"] for numbers in tokens),
    }
