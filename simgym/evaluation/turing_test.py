"""Can readers tell simulated users from people? A Turing test, from labels that say `human` or `simulated`.

    labels -> turing_test -> TuringTest

For each simulator the share of labels that take its users for people; the same of conversations in which a person was
the user; and, where there are both, the balanced accuracy of the readers: the mean of how often they are right about
people and about that simulator. Half is what guessing gets (Turing 1950; as measured for language models by Jones &
Bergen, arXiv 2405.08007). Readers are the independent units where there are enough of them; else the scenarios are, and
an interval says nothing of other readers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from simgym.evaluation.labels import Label
from simgym.statistics import bootstrap_statistic
from simgym.statistics.intervals import Estimate, fewest_units
from simgym.statistics.resampling import Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class TuringTest:
    """What readers took users for."""

    taken_for_human: Mapping[str, Estimate]
    """By environment id: share of its simulated conversations whose user was called human, in [0, 1]."""
    people: Estimate | None
    """The same of conversations with a person; None: there is none among them."""
    accuracy: Mapping[str, Estimate]
    """By environment id: balanced accuracy beside people, in [0, 1], 0.5 for guessing; empty without people."""
    units: str
    """What the intervals are over: `readers` or `scenarios`."""
    readers: int
    """Who gave labels."""
    labels: int
    """How many."""

    def to_json(self) -> dict[str, Any]:
        """JSON values; what does not exist is None, never NaN."""
        return asdict(self)


def turing_test(labels: Sequence[Label], *, seed: int = 0, resamples: int = 999) -> TuringTest:
    """Summarise labels of kind `origin`.

    Args:
        labels: See `labels_that_count`.
        seed: Of the intervals.
        resamples: Bootstrap samples per figure.
    """
    called_human = np.array([label.answer == "human" for label in labels], dtype=np.float64)
    human = np.array([label.conversations[0].human for label in labels], dtype=bool)
    env_ids = [label.conversations[0].env_id for label in labels]
    readers = len({label.person for label in labels})
    over_readers = readers >= fewest_units()
    units = [label.person if over_readers else label.conversations[0].scenario.id for label in labels]

    def share(rows: Rows) -> float:
        return float(called_human[rows].mean()) if len(rows) else math.nan

    def balanced(rows: Rows) -> float:
        return (share(rows[human[rows]]) + 1 - share(rows[~human[rows]])) / 2

    def estimate(statistic: Any, rows: Rows) -> Estimate:
        return bootstrap_statistic(
            lambda drawn: statistic(rows[drawn]),
            [units[row] for row in rows],
            seed=seed,
            resamples=resamples,
            bounds=(0.0, 1.0),
        )

    simulated = {
        env_id: np.array([row for row, name in enumerate(env_ids) if name == env_id and not human[row]], dtype=np.intp)
        for env_id in sorted({name for name, person in zip(env_ids, human, strict=True) if not person})
    }
    of_people = np.flatnonzero(human)
    accuracy = {}
    if len(of_people):
        accuracy = {env_id: estimate(balanced, np.concatenate([rows, of_people])) for env_id, rows in simulated.items()}
    return TuringTest(
        taken_for_human={env_id: estimate(share, rows) for env_id, rows in simulated.items()},
        people=estimate(share, of_people) if len(of_people) else None,
        accuracy=accuracy,
        units="readers" if over_readers else "scenarios",
        readers=readers,
        labels=len(labels),
    )
