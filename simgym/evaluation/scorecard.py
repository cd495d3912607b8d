"""The records of a realism comparison: figures of a simulator, each beside the same of people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from simgym.statistics.intervals import Estimate


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One row of the scorecard."""

    name: str
    """Key, as in results.json."""
    title: str
    """What it is, in words."""
    aim: str
    """`lower`, `higher`, `like people` or the number that is best: how to read it."""
    simulated: Estimate | None
    """The simulator's; None if it does not allow the figure."""
    human: Estimate | None
    """The same of the people. For the classifier random halves of their turns against each other; for divergences,
    which small samples bias upwards, both columns compare one half of the people's turns with the other half's moments,
    once as the people and once as the simulator filled them, so that equals get equal values."""
    why_not: str = ""
    """Why there is no figure of the simulator."""


@dataclass(frozen=True, slots=True)
class Scorecard:
    """One simulator."""

    simulator: str
    """Its name in this comparison."""
    metrics: tuple[MetricRow, ...]
    """In the order of the table."""
    first_faults: Mapping[str, int]
    """What was wrong with first attempts, by kind."""
    lasting_faults: Mapping[str, int]
    """What was wrong after the last attempt; there is no turn then."""
    turns: int
    """Turns asked for."""
    fingerprint: Mapping[str, object]
    """Of the simulator."""

    def metric(self, name: str) -> MetricRow:
        """The metric called `name`.

        Raises:
            KeyError: there is none.
        """
        return next(metric for metric in self.metrics if metric.name == name)

    def to_json(self) -> dict[str, object]:
        """JSON values; what does not exist is None, never NaN."""
        return asdict(self)
