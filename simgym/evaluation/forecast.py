"""What is left of a matrix run, and what it will cost in tokens, time and money, before it is held.

Nothing is asked of a model: what missing conversations will take is taken from finished ones, of the same cell if there
are any, else of the same simulator, else of all. So hold a few of each cell first; they are kept. Where there are none,
what the assistant and the simulator can write at most is known all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

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
    spent = {cell: _Spent.of(of_cell) for cell, of_cell in run.completed().items()}
    by_column: dict[str, _Spent] = {}
    everything = _Spent()
    for (_, column), of_cell in spent.items():
        by_column.setdefault(column, _Spent()).add(of_cell)
        everything.add(of_cell)
    tokens: dict[str, dict[str, float]] = {}
    seconds = 0.0
    most: int | None = 0
    for (row, column), of_cell in spent.items():
        missing = len(run.scenarios) - of_cell.conversations
        alike = next((sums for sums in (of_cell, by_column[column]) if sums.conversations), everything)
        for role, numbers in alike.tokens.items():
            total = tokens.setdefault(role, {"prompt": 0.0, "completion": 0.0})
            for kind, number in numbers.items():
                total[kind] += missing * number / alike.conversations
        seconds += missing * alike.seconds / max(1, alike.conversations)
        limits = [
            fingerprint.get("max_new_tokens")
            for fingerprint in (run.plan.assistants[row], run.plan.simulators[column])
            if {"model", "components"} & set(fingerprint)  # what has no model writes nothing
        ]
        known = [limit for limit in limits if isinstance(limit, int)]
        most = None if most is None or len(known) < len(limits) else most + missing * run.plan.max_turns * sum(known)
    return Forecast(
        planned=len(spent) * len(run.scenarios),
        done=everything.conversations,
        tokens=tokens if everything.conversations else None,
        seconds=seconds if everything.conversations else None,
        cost=cost_of(tokens, prices) if everything.conversations and prices else None,
        most_written=most,
    )


@dataclass(slots=True)
class _Spent:
    """What conversations have taken, added up."""

    conversations: int = 0
    """How many."""
    seconds: float = 0.0
    """Wall time of all roles, s."""
    tokens: dict[str, dict[str, int]] = field(default_factory=dict)
    """By role, `prompt` and `completion`."""

    @classmethod
    def of(cls, transcripts: Iterable[Transcript]) -> _Spent:
        """Those of a cell."""
        spent = cls()
        for transcript in transcripts:
            spent.add(cls(1, sum(transcript.role_seconds.values()), transcript.tokens()))
        return spent

    def add(self, other: _Spent) -> None:
        """Count others in."""
        self.conversations += other.conversations
        self.seconds += other.seconds
        for role, numbers in other.tokens.items():
            total = self.tokens.setdefault(role, {"prompt": 0, "completion": 0})
            for kind, number in numbers.items():
                total[kind] += number
