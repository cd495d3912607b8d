"""From judgements of WildBench answers to its published figures: WB-Score, WB-Reward, checklist win rate.

* WB-Score: (mean of grades 1 to 10 - 5) x 2, x 10 on the leaderboard; per group of tasks, and a macro mean over groups
  with the published weights. * WB-Reward: 1, 0.5, 0, -0.5, -1 for much better to much worse than a reference; a slight
  win by an answer longer than the other by more than K characters is a tie. * Checklist: who satisfies more items wins,
  equal counts tie, (wins + ties / 2) / n (arXiv 2605.09808).

The published numbers have two quirks, reproduced under `official=True`: cut-off answers stay in the mean but not in the
group means, and a comparison without reference counts as 0. By default both leave all figures, and are counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

from simgym.faults import count_faults
from simgym.statistics.intervals import Estimate, bootstrap_mean
from simgym.statistics.length_control import length_controlled_win_rate
from simgym.statistics.paired import win_rate

WEIGHTS: Mapping[str, float] = {
    "Creative Tasks": 0.5,
    "Planning & Reasoning": 1.25,
    "Math & Data Analysis": 1.0,
    "Information/Advice seeking": 0.75,
    "Coding & Debugging": 1.25,
}
"""Weights of the groups in macro means, as published."""
Outcome = Literal["win_much", "win", "tie", "lose", "lose_much"]
REWARDS: Mapping[Outcome, float] = {"win_much": 1.0, "win": 0.5, "tie": 0.0, "lose": -0.5, "lose_much": -1.0}
PENALTIES = (None, 500, 1000, 1500)
"""Length margins K, characters, for which rewards are published; None: no penalty."""


@dataclass(frozen=True, slots=True)
class Graded:
    """One answer and its grade."""

    task_id: str
    """Session id."""
    grade: float | None
    """From 1 to 10; None if the judge or the assistant failed."""
    groups: tuple[str, ...] = ()
    """Groups of the task."""
    length: int = 0
    """Characters of the answer."""
    cut_off: bool = False
    """Whether the answer hit the bound of tokens."""
    fault: str | None = None
    """Why there is no grade."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One answer against a reference."""

    task_id: str
    """Session id."""
    outcome: Outcome | None
    """None if there is no reference, or the judge or the assistant failed."""
    groups: tuple[str, ...] = ()
    """Groups of the task."""
    length: int = 0
    """Characters of the answer."""
    reference_length: int = 0
    """Characters of the reference."""
    fault: str | None = None
    """Why there is no outcome."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A figure over all tasks, per group and as a macro mean."""

    overall: Estimate
    """Mean over tasks."""
    by_group: Mapping[str, Estimate]
    """Mean over the tasks of each group; a task counts in each of its groups."""
    macro: float | None
    """Weighted mean of the groups' means; None if a group has no task."""
    counted: int
    """Tasks in `overall`."""
    failures: Mapping[str, int]
    """Tasks that are in no figure, by kind of fault."""
    mean_length: float | None
    """Characters of an answer, over answers that are neither empty nor cut off."""

    def to_json(self) -> dict[str, object]:
        """JSON values."""
        return asdict(self)


def wb_score(graded: Sequence[Graded], *, official: bool = False, seed: int = 0, resamples: int = 4999) -> Summary:
    """WB-Score on the leaderboard's scale, (mean - 5) x 2 x 10, in [-80, 100].

    Args:
        graded: One a task.
        official: Reproduce the published treatment of cut-off answers.
        seed: Of the intervals.
        resamples: Bootstrap samples per interval.
    """

    def rescaled(grades: Sequence[float]) -> Estimate:
        raw = bootstrap_mean(grades, seed=seed, resamples=resamples)
        ends = [None if value is None else (value - 5) * 2 * 10 for value in (raw.value, raw.low, raw.high)]
        return replace(raw, value=ends[0], low=ends[1], high=ends[2])

    rated = [row for row in graded if row.grade is not None]
    counted = rated if official else [row for row in rated if not row.cut_off]
    failures = count_faults(row.fault for row in graded if row.grade is None)
    if not official and (cut := len(rated) - len(counted)):
        failures["cut_off"] = cut
    in_groups = [row for row in rated if not row.cut_off]
    lengths = [row.length for row in rated if row.length > 0 and not row.cut_off]
    return Summary(
        overall=rescaled([row.grade for row in counted if row.grade is not None]),
        **_grouped([(row.groups, row.grade) for row in in_groups if row.grade is not None], rescaled),
        counted=len(counted),
        failures=failures,
        mean_length=sum(lengths) / len(lengths) if lengths else None,
    )


def wb_reward(
    compared: Sequence[Compared],
    *,
    penalty: int | None = None,
    official: bool = False,
    seed: int = 0,
    resamples: int = 4999,
) -> Summary:
    """WB-Reward against one reference, in [-1, 1].

    Args:
        compared: One a task, or one for each order in which it was judged; a task's reward is their mean.
        penalty: K, characters: a slight win by an answer longer by more is a tie. None: no penalty.
        official: Count a task without outcome as 0 in the overall mean.
        seed: Of the intervals.
        resamples: Bootstrap samples per interval.
    """
    of_task: dict[str, list[Compared]] = {}
    for row in compared:
        of_task.setdefault(row.task_id, []).append(row)
    mean = partial(bootstrap_mean, seed=seed, resamples=resamples)
    judged = {key: rows for key, rows in of_task.items() if all(row.outcome is not None for row in rows)}
    rewards = []
    for rows in judged.values():
        outcomes = [penalised(row.outcome, row.length, row.reference_length, penalty) for row in rows if row.outcome]
        rewards.append((rows[0].groups, sum(REWARDS[outcome] for outcome in outcomes) / len(rows)))
    missing = [rows[0].fault or "no_reference" for key, rows in of_task.items() if key not in judged]
    values = [reward for _, reward in rewards] + ([0.0] * len(missing) if official else [])
    lengths = [rows[0].length for rows in judged.values() if rows[0].length > 0]
    return Summary(
        overall=mean(values),
        **_grouped(rewards, mean),
        counted=len(values),
        failures=count_faults(missing),
        mean_length=sum(lengths) / len(lengths) if lengths else None,
    )


def penalised(outcome: Outcome, length: int, reference_length: int, penalty: int | None) -> Outcome:
    """The outcome with slight wins by much longer answers, on either side, made ties."""
    if penalty is None:
        return outcome
    if outcome == "win" and length > reference_length + penalty:
        return "tie"
    return "tie" if outcome == "lose" and reference_length > length + penalty else outcome


def checklist_share(
    tasks: Sequence[Any], rows: Mapping[str, Mapping[str, Any]], *, seed: int = 0, resamples: int = 4999
) -> Summary:
    """Share of checklist items that answers satisfy, mean over tasks, in [0, 1].

    Args:
        tasks: What was asked; each has `id` and `groups`.
        rows: Rows of the protocol `checklist` by task id.
        seed: Of the intervals.
        resamples: Bootstrap samples per interval.
    """
    mean = partial(bootstrap_mean, seed=seed, resamples=resamples)
    known = [(task.groups, rows[task.id]) for task in tasks if rows[task.id].get("items")]
    shares = [(groups, sum(row["items"]) / len(row["items"])) for groups, row in known]
    lengths = [row["length"] for _, row in known if row["length"] > 0 and not row["cut_off"]]
    return Summary(
        overall=mean([share for _, share in shares]),
        **_grouped(shares, mean),
        counted=len(shares),
        failures=count_faults(rows[task.id]["fault"] for task in tasks if not rows[task.id].get("items")),
        mean_length=sum(lengths) / len(lengths) if lengths else None,
    )


@dataclass(frozen=True, slots=True)
class ChecklistComparison:
    """Two assistants on the same tasks by checklist items satisfied."""

    adjusted_win_rate: Estimate
    """(wins + ties / 2) / n of the first, Wilson's interval."""
    length_controlled: Estimate
    """The same at equal lengths of answers."""
    wins: int
    """Tasks on which the first satisfies more items."""
    ties: int
    """Tasks with equal counts."""
    losses: int
    """Tasks on which the second satisfies more."""
    left_out: int
    """Tasks that one of them has no judgement for."""
    mean_length_difference: float | None
    """Characters, first minus second."""

    def to_json(self) -> dict[str, object]:
        """JSON values."""
        return asdict(self)


def compare_checklists(
    first: Mapping[str, tuple[int, int] | None], second: Mapping[str, tuple[int, int] | None]
) -> ChecklistComparison:
    """Derive pairwise outcomes from two checklist runs.

    Args:
        first: By task id: items satisfied and characters of the answer; None where there is no judgement.
        second: The same of the other assistant.
    """
    pairs = [
        (mine, theirs)
        for task in first
        if (mine := first[task]) is not None and (theirs := second.get(task)) is not None
    ]
    outcomes = [float(mine[0] > theirs[0]) if mine[0] != theirs[0] else 0.5 for mine, theirs in pairs]
    lengths, others = [mine[1] for mine, _ in pairs], [theirs[1] for _, theirs in pairs]
    counts = Counter(outcomes)
    return ChecklistComparison(
        adjusted_win_rate=win_rate(outcomes),
        length_controlled=length_controlled_win_rate(outcomes, lengths, others),
        wins=counts[1.0],
        ties=counts[0.5],
        losses=counts[0.0],
        left_out=len(set(first) | set(second)) - len(pairs),
        mean_length_difference=(sum(lengths) - sum(others)) / len(pairs) if pairs else None,
    )


def macro_mean(means: Mapping[str, float]) -> float | None:
    """The published weighted mean of the groups' means; None if a group is missing."""
    if set(WEIGHTS) - set(means):
        return None
    total = sum(WEIGHTS[group] * means[group] for group in WEIGHTS)
    return total / math.fsum(WEIGHTS.values())


def _grouped(
    pairs: Sequence[tuple[tuple[str, ...], float]], estimate: Callable[[Sequence[float]], Estimate]
) -> dict[str, Any]:
    of_group = {group: [value for groups, value in pairs if group in groups] for group in WEIGHTS}
    by_group = {group: estimate(values) for group, values in of_group.items() if values}
    means = {group: estimate.value for group, estimate in by_group.items() if estimate.value is not None}
    return {"by_group": by_group, "macro": macro_mean(means)}
