"""Random assignment of assistants and sides: pure functions of the study and its seed.

Participants choose their task, so tasks are strata. Within a task, arm (pair, or assistant) and the side of the first
exchange are assigned in permuted blocks that contain every combination once: each full block is exactly balanced.
Sides of later exchanges are drawn, and so is the reply that goes on after a tie. All draws depend on the study's seed
and on what they are for, not on what else was drawn.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from simgym.seeding import derive_seed, generator
from simgym.study.config import Study


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a participant was given."""

    arm: tuple[str, ...]
    """Names of the assistants: two, or one."""
    flipped: bool
    """In the first exchange the second of them is on the left."""
    position: int
    """How many had chosen the task before."""


def assign(study: Study, task_id: str, position: int) -> Assignment:
    """The assignment of whoever is the `position`-th (from 0) to choose a task."""
    sides = (False, True) if study.design == "pairwise" else (False,)
    block = list(itertools.product(study.arms, sides))
    number, place = divmod(position, len(block))
    order = generator(study.seed, "block", task_id, number).permutation(len(block))
    arm, flipped = block[int(order[place])]
    return Assignment(tuple(arm), flipped, position)


def sides(study: Study, assignment: Assignment, participant: str, phase: str, turn: int) -> tuple[str, ...]:
    """Assistants from left to right in one exchange (`phase` is `training` or `turn`, `turn` counts from 1)."""
    if len(assignment.arm) == 1:
        return assignment.arm
    if phase == "turn" and turn == 1:
        flipped = assignment.flipped
    else:
        flipped = bool(generator(study.seed, "side", participant, phase, turn).integers(2))
    return assignment.arm[::-1] if flipped else assignment.arm


def after_tie(study: Study, participant: str, phase: str, turn: int) -> int:
    """Which reply the conversation goes on from after a tie: 0 left, 1 right."""
    return int(generator(study.seed, "tie", participant, phase, turn).integers(2))


def reply_seed(study: Study, participant: str, phase: str, turn: int, assistant: str, attempt: int) -> int:
    """Seed of one reply; a new attempt draws anew."""
    return derive_seed(study.seed, "reply", participant, phase, turn, assistant, attempt)
