"""Judges of judges: the mean of several, and a judge applied to every turn.

Both fail as a whole if one part fails, since a mean over the parts that happened to work would be on another scale;
the parts are kept in the judgement, so that disagreement and the course of a conversation can be looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from simgym.conversation import Conversation, Scenario
from simgym.errors import ConfigurationError
from simgym.judges.base import Judge, Judgement
from simgym.judges.loading import load_judge
from simgym.plugins import check_ready
from simgym.seeding import derive_seed

JudgeSpec = str | Judge | Mapping[str, Any]
"""A name, an instance, or `{"judge": NAME, "model": ..., further arguments}`."""


class EnsembleJudge:
    """The weighted mean of several judges; implements `Judge`."""

    def __init__(self, judges: Sequence[JudgeSpec], *, weights: Sequence[float] | None = None) -> None:
        """Choose them.

        Args:
            judges: At least one.
            weights: As many positive numbers; None: all alike.

        Raises:
            ConfigurationError: no judges, or weights that do not fit.
        """
        if not judges or isinstance(judges, str):
            raise ConfigurationError("The ensemble needs a list of judges, expected at least one.")
        self.judges = [_load(judge) for judge in judges]
        self.weights = [float(weight) for weight in (weights or [1.0] * len(judges))]
        if len(self.weights) != len(self.judges) or not all(0 < weight < math.inf for weight in self.weights):
            raise ConfigurationError(f"Got {len(self.weights)} weights, expected {len(self.judges)} positive ones.")

    def judge(
        self, scenarios: Sequence[Scenario], conversations: Sequence[Conversation], *, seeds: Sequence[int]
    ) -> list[Judgement]:
        judgements_by_judge = [
            judge.judge(scenarios, conversations, seeds=[derive_seed(seed, "ensemble", number) for seed in seeds])
            for number, judge in enumerate(self.judges)
        ]
        return [_mean(list(judgements), self.weights) for judgements in zip(*judgements_by_judge, strict=True)]

    def check(self) -> None:
        """Check every judge; see `check_ready`."""
        for judge in self.judges:
            check_ready(judge)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "judge": "ensemble",
            "judges": [judge.fingerprint() for judge in self.judges],
            "weights": self.weights,
        }


class PerTurnJudge:
    """Applies a judge to the conversation as it stood after each assistant turn; implements `Judge`."""

    def __init__(self, judge: JudgeSpec = "rubric") -> None:
        """Choose the judge that sees each turn.

        Args:
            judge: A name, an instance, or a mapping of `judge` (a name), `model` and further arguments.
        """
        self.inner = _load(judge)

    def judge(
        self, scenarios: Sequence[Scenario], conversations: Sequence[Conversation], *, seeds: Sequence[int]
    ) -> list[Judgement]:
        """The mean over the assistant's turns; all turns of all conversations in one call."""
        stages = [
            (row, Conversation(conversation.messages[: index + 1]))
            for row, conversation in enumerate(conversations)
            for index, message in enumerate(conversation.messages)
            if message.role == "assistant"
        ]
        judged = self.inner.judge(
            [scenarios[row] for row, _ in stages],
            [stage for _, stage in stages],
            seeds=[derive_seed(seeds[row], "turn", len(stage.messages)) for row, stage in stages],
        )
        of_row: list[list[Judgement]] = [[] for _ in conversations]
        for (row, _), judgement in zip(stages, judged, strict=True):
            of_row[row].append(judgement)
        return [
            _mean(judgements, [1.0] * len(judgements))
            if judgements
            else Judgement(None, fault="no_turns: nothing to judge")
            for judgements in of_row
        ]

    def check(self) -> None:
        """Check the judge; see `check_ready`."""
        check_ready(self.inner)

    def fingerprint(self) -> dict[str, Any]:
        return {"judge": "per_turn", "of": self.inner.fingerprint()}


def _load(judge: JudgeSpec) -> Judge:
    if isinstance(judge, Mapping):
        arguments = dict(judge)
        if "judge" not in arguments:
            raise ConfigurationError(f"The judge {dict(judge)!r} has no key 'judge' that names it.")
        return load_judge(arguments.pop("judge"), arguments.pop("model", None), arguments)
    return load_judge(judge)


def _mean(judgements: Sequence[Judgement], weights: Sequence[float]) -> Judgement:
    values = [judgement.score for judgement in judgements if judgement.score is not None]
    faults = [judgement.fault for judgement in judgements if judgement.fault]
    mean = (
        sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)
        if not faults
        else None
    )
    return Judgement(
        score=None if mean is None else min(1.0, max(0.0, mean)),
        reasons=tuple(reason for judgement in judgements for reason in judgement.reasons),
        fault="; ".join(faults) or None,
        components=() if faults else tuple(values),
        calls=tuple(call for judgement in judgements for call in judgement.calls),
    )
