"""What a filled matrix says about differences: each assistant against the initial one, and the generalization gap.

All cells share scenarios and seeds, so everything is paired; see `simgym.statistics.paired_matrix`. The gap of an
assistant that was trained with one of the simulators is what it gained there beyond what it gained with the others on
average: the part of its training that does not carry over (arXiv 2605.09808 reads it off the matrix).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from simgym.errors import ConfigurationError
from simgym.evaluation.matrix import Matrix
from simgym.notebooks import table_html
from simgym.seeding import derive_seed
from simgym.statistics.intervals import Estimate, format_interval, format_p
from simgym.statistics.paired_matrix import Floats, MatrixLayout, compare_matrix, finite
from simgym.transcripts import outcomes
from simgym.typed_json import FORMERLY

PAIRED = "comparisons"
"""Label of the seed that scenarios are drawn from for differences: wherever one is shown, it has the same interval."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A cell beside the reference assistant's in the same column."""

    assistant: str
    """Row."""
    simulator: str
    """Column, an environment id."""
    estimate: Estimate
    """Mean paired difference of reward x 100, over conversations that count in both."""
    p_adjusted: float | None = field(metadata={FORMERLY: "p_corrected"})
    """Two-sided p-value, Holm-corrected over all differences of the matrix."""
    detectable: float | None
    """Smallest true difference that these conversations would show with power 0.8."""


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Differences between the cells of a matrix."""

    reference: str
    """The assistant that the others are compared with."""
    trained_on: Mapping[str, str]
    """Environment id that an assistant was trained with, for those of which it is known."""
    differences: tuple[Difference, ...] = field(metadata={FORMERLY: "changes"})
    """Row by row, the reference left out."""
    gap: Estimate | None
    """Mean of `gaps`, reward x 100; None if no assistant was trained with a column."""
    gaps: Mapping[str, Estimate]
    """Generalization gap of each assistant that was trained with a column."""
    best: Mapping[str, float | None]
    """Share of resamples in which an assistant has the highest mean over all columns; None if a cell is empty."""
    agreement: tuple[tuple[float | None, ...], ...]
    """Rank correlation of the assistants' means between columns; None with fewer than three assistants."""

    def difference(self, assistant: str, simulator: str) -> Difference | None:
        """The difference of a row and a column, or None."""
        return next(
            (cell for cell in self.differences if (cell.assistant, cell.simulator) == (assistant, simulator)), None
        )

    def _repr_html_(self) -> str:  # what a notebook shows
        rows = [
            [each.assistant, each.simulator, _shown(each.estimate), format_p(each.p_adjusted)]
            for each in self.differences
        ]
        if self.gap is not None:
            rows.append(["generalization gap", "", _shown(self.gap), ""])
        caption = f"Differences from {self.reference}: reward x 100 with a 95 % interval"
        return table_html(caption, ["assistant", "simulator", "difference", "p (Holm)"], rows)


def _shown(estimate: Estimate) -> str:
    return "none" if estimate.value is None else f"{estimate.value:+.1f} {format_interval(estimate)}"


def compare_cells(
    matrix: Matrix,
    *,
    reference: str | None = None,
    trained_on: Mapping[str, str] | None = None,
    methods: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Comparisons | None:
    """Compare all cells with those of one assistant.

    Args:
        matrix: Filled.
        reference: The initial assistant; None: the first row.
        trained_on: Environment id by assistant, for those trained with one of the columns.
        methods: Method of an assistant that is one of several training seeds; it is compared as the method, under the
            method's name, which `reference` and `trained_on` use as well. Others are a method of their own.
        seed: Of the run; decides the resampling.

    Returns:
        None if there is a single assistant or method.

    Raises:
        ConfigurationError: there is no such row or column.
    """
    rows, labels, columns = axes_of(matrix, methods)
    names = list(dict.fromkeys(labels))
    trained_on = dict(trained_on or {})
    for name, known, kind in (
        *((name, names, "assistant") for name in [reference, *trained_on] if name is not None),
        *((name, columns, "environment") for name in trained_on.values()),
    ):
        if name not in known:
            raise ConfigurationError(f"The matrix has no {kind} {name!r}. It has: {', '.join(known)}.")
    if len(names) < 2:
        return None
    first = reference or names[0]
    if first in trained_on:
        raise ConfigurationError(f"{first} is what others are compared with, so it has no gap itself.")
    compared = compare_matrix(
        rewards_of(matrix, rows, columns),
        scenario_ids(matrix),
        seed=derive_seed(seed, PAIRED),
        layout=MatrixLayout(
            rows=labels,
            reference=first,
            trained_on={row: columns.index(column) for row, column in trained_on.items()},
        ),
    )
    grid = compared.differences
    differences = [
        Difference(
            name, column, compared.difference(name, x), finite(grid.p_adjusted[y, x]), finite(grid.detectable[y, x])
        )
        for y, name in enumerate(names)
        for x, column in enumerate(columns)
        if name != first
    ]
    return Comparisons(
        reference=first,
        trained_on=trained_on,
        differences=tuple(differences),
        gap=compared.gap,
        gaps={str(row): gap for row, gap in compared.gaps.items()},
        best={row: finite(share) for row, share in zip(names, compared.best, strict=True)},
        agreement=tuple(tuple(finite(value) for value in row) for row in compared.agreement),
    )


def axes_of(matrix: Matrix, methods: Mapping[str, str] | None) -> tuple[list[str], list[str], list[str]]:
    """Assistants, what each is compared as (its method, else itself), and environment ids, in the matrix's order."""
    rows = list(dict.fromkeys(row for row, _ in matrix.transcripts))
    columns = list(dict.fromkeys(column for _, column in matrix.transcripts))
    return rows, [(methods or {}).get(row, row) for row in rows], columns


def rewards_of(matrix: Matrix, rows: Sequence[str], columns: Sequence[str]) -> Floats:
    """Reward x 100 of R rows' conversations in S columns, shape (R, S, C); NaN where a conversation does not count."""

    def of(cell: tuple[str, str]) -> list[float]:
        return [
            100 * outcome.reward if outcome.counts and outcome.reward is not None else np.nan
            for outcome in outcomes(matrix.transcripts[cell])
        ]

    return np.array([[of((row, column)) for column in columns] for row in rows])


def scenario_ids(matrix: Matrix) -> list[str]:
    """Ids of the scenarios of the C conversations of every cell."""
    return [outcome.scenario_id for outcome in outcomes(next(iter(matrix.transcripts.values())))]
