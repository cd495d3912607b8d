"""The judge protocol: scenarios and finished conversations in, judgements out.

A judge that fails says so: `value` is None and `fault` tells why. There is no default grade, and no zero that stands
for "could not read the reply".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from simgym.conversation import Conversation, Scenario
from simgym.transcripts import ModelCall


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says of one conversation."""

    value: float | None
    """In [0, 1], higher is better; None when the judge failed."""
    reasons: tuple[str, ...] = ()
    """What the judge said in its own words, one text a judge."""
    fault: str | None = None
    """`refused: ...`, `unparsable: ...`, `out_of_range: ...`, `timeout: ...`, `server: ...`; None if it has a value."""
    parts: tuple[float, ...] = ()
    """Values in [0, 1] that `value` is the mean of: several judges, checklist items or turns; empty for one alone."""
    calls: tuple[ModelCall, ...] = ()
    """Model calls made for this judgement."""

    def __post_init__(self) -> None:
        if (self.value is None) == (self.fault is None):
            raise ValueError("A judgement has either a value or a fault, not both and not neither.")
        if self.value is not None and not 0 <= self.value <= 1:
            raise ValueError(f"A judgement's value is {self.value}, expected a number in [0, 1].")


@runtime_checkable
class Judge(Protocol):
    """Grades N conversations."""

    def score(
        self, scenarios: Sequence[Scenario], conversations: Sequence[Conversation], *, seeds: Sequence[int]
    ) -> list[Judgement]:
        """Judge N conversations in one batched call; N judgements in input order.

        Raises:
            ValueError: the sequences differ in length.
        """
        ...

    def fingerprint(self) -> dict[str, Any]:
        """JSON values that identify model, settings and rubric hashes."""
        ...
