"""What is left of a matrix run, and what it will cost in tokens, time and money, before it is held.

Nothing is asked of a model: what missing conversations will take is taken from finished ones, of the same cell if there
are any, else of the same simulator, else of all. So hold a few of each cell first; they are kept. Where there are none,
what the assistant and the simulator can write at most is known all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simgym.evaluation.matrix import MatrixRun
from simgym.rollout.budget import Price, cost_of
from simgym.transcripts import Transcript

Tokens = Mapping[str, Mapping[str, float]]
"""By role, `prompt` and `completion`."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the missing conversations of a run will take."""

    planned: int
    """Conversations of the whole run."""
    done: int
    """Those that have been held."""
    tokens: Tokens | None
    """Expected tokens by role; None if nothing like it has been held."""
    seconds: float | None
    """Expected wall time, s, with the batch size and the machine of what was held; None as above."""
    cost: float | None
    """Expected money; None as above, or without prices."""
    most_written: int | None
    """Upper bound of the tokens that assistants and simulators write, if all of them have one; retries not counted."""

    @property
    def missing(self) -> int:
        """Conversations that are still to be held."""
        return self.planned - self.done


def forecast(run: MatrixRun, prices: Mapping[str, Price] | None = None) -> Forecast:
    """Look at what a run has held, and say what the rest will take."""
    completed = run.completed()
    everything = [transcript for of_cell in completed.values() for transcript in of_cell]
    tokens: dict[str, dict[str, float]] = {}
    seconds = 0.0
    most: int | None = 0
    for (row, column), of_cell in completed.items():
        missing = len(run.scenarios) - len(of_cell)
        alike = (
            of_cell
            or [transcript for (_, other), of_other in completed.items() if other == column for transcript in of_other]
            or everything
        )
        for role, numbers in _mean_tokens(alike).items():
            total = tokens.setdefault(role, {"prompt": 0.0, "completion": 0.0})
            for kind, mean in numbers.items():
                total[kind] += missing * mean
        seconds += missing * _mean_seconds(alike)
        limits = [
            fingerprint.get("max_new_tokens")
            for fingerprint in (run.plan.assistants[row], run.plan.simulators[column])
            if {"model", "components"} & set(fingerprint)  # what has no model writes nothing
        ]
        known = [limit for limit in limits if isinstance(limit, int)]
        most = None if most is None or len(known) < len(limits) else most + missing * run.plan.max_turns * sum(known)
    return Forecast(
        planned=len(completed) * len(run.scenarios),
        done=len(everything),
        tokens=tokens if everything else None,
        seconds=seconds if everything else None,
        cost=cost_of(tokens, prices) if everything and prices else None,
        most_written=most,
    )


def _mean_tokens(transcripts: Sequence[Transcript]) -> dict[str, dict[str, float]]:
    means: dict[str, dict[str, float]] = {}
    for transcript in transcripts:
        for role, numbers in transcript.tokens().items():
            mean = means.setdefault(role, {"prompt": 0.0, "completion": 0.0})
            for kind, number in numbers.items():
                mean[kind] += number / len(transcripts)
    return means


def _mean_seconds(transcripts: Sequence[Transcript]) -> float:
    return sum(sum(transcript.role_seconds.values()) for transcript in transcripts) / max(1, len(transcripts))
