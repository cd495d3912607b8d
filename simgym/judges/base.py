"""The judge protocol: scenarios and finished conversations in, judgements out.

A judge that fails says so: `score` is None and `fault` tells why. There is no default grade, and no zero that stands
for "could not read the reply".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Protocol, runtime_checkable

from simgym.conversation import Conversation, Scenario
from simgym.transcripts import ModelCall


@dataclass(frozen=True, slots=True)
class Judgement:
    """A judge's verdict on one conversation."""

    score: float | None
    """In [0, 1], higher is better; None when the judge failed."""
    _: KW_ONLY
    reasons: tuple[str, ...] = ()
    """The judge's reasons in its own words, one text per judge."""
    fault: str | None = None
    """`refused: ...`, `unparsable: ...`, `out_of_range: ...`, `timeout: ...`, `server: ...`; None when judged."""
    components: tuple[float, ...] = ()
    """What `score` is the mean of, in [0, 1] each: several judges, checklist items or turns; empty for one alone."""
    calls: tuple[ModelCall, ...] = ()
    """Model calls made for this judgement."""

    def __post_init__(self) -> None:
        if (self.score is None) == (self.fault is None):
            raise ValueError("A judgement has either a score or a fault, not both and not neither.")
        if self.score is not None and not 0 <= self.score <= 1:
            raise ValueError(f"A judgement's score is {self.score}, expected a number in [0, 1].")


@runtime_checkable
class Judge(Protocol):
    """Grades N conversations."""

    def judge(
        self, scenarios: Sequence[Scenario], conversations: Sequence[Conversation], *, seeds: Sequence[int]
    ) -> list[Judgement]:
        """Judge N conversations in one batched call; N judgements in input order.

        Raises:
            ValueError: the sequences differ in length.
        """
        ...

    def fingerprint(self) -> dict[str, object]:
        """JSON values that identify model, settings and rubric hashes."""
        ...


class NoJudge:
    """Judges nothing, and needs no model: for those who only want the users; implements `Judge`."""

    def judge(
        self, scenarios: Sequence[Scenario], conversations: Sequence[Conversation], *, seeds: Sequence[int]
    ) -> list[Judgement]:
        return [Judgement(None, fault="not_judged: there is no judge") for _ in scenarios]

    def fingerprint(self) -> dict[str, object]:
        return {"judge": "none"}


def computed_call(text: str, output: str, *, turn: int, tokens: int, fault: str | None = None) -> ModelCall:
    """The record of a judgement that a model computes and nobody samples: no seed, no token written.

    Args:
        text: What the model read.
        output: What came out, in words.
        turn: Assistant turns so far, >= 0.
        tokens: Tokens of the text, >= 0.
        fault: Why nothing came out, or nothing that counts.
    """
    return ModelCall(
        role="judge",
        turn=turn,
        seed=0,
        prompt=text,
        output=output,
        prompt_tokens=tokens,
        completion_tokens=0,
        fault=fault,
    )


def squash(exponent: float) -> float:
    """The logistic curve: any number to [0, 1]."""
    return 1 / (1 + math.exp(-min(700.0, max(-700.0, exponent))))
