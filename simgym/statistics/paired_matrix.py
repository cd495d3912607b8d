"""Many assistants crossed with many simulators on the same scenarios: what differs, and how sure is it?

Every cell of a generalization matrix holds the same scenarios, so cells are compared in pairs. One bootstrap draws
scenarios for all cells at once: what a hard scenario does to one cell it does to all, and differences, gaps and ranks
come out with intervals that know it. Several training seeds of a method are resampled, too (a hierarchical bootstrap),
so that the interval of a method is one over seeds and scenarios; with k seeds it knows (k - 1) / k of their variance,
so two or three are few. Percentile intervals. P-values are those of t = difference / bootstrap standard error with one
degree of freedom less than there are scenarios, or training seeds where there are several, for counting resamples
beyond zero could not go below 2 / resamples, which Holm's correction for a large matrix would lift above any level.
Where nothing differs between scenarios, or there are fewer than `fewest_units` of them, there is neither an interval
nor a p-value. A difference has the same interval whatever else is compared in the same call.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from simgym.statistics.intervals import ROUNDING, Estimate, few_units, fewest_units, untold
from simgym.statistics.paired import correct_p_values

Floats = npt.NDArray[np.float64]
_DETECTED = 1.959964 + 0.841621
"""Standard errors that an effect must measure to be found with power 0.8 at the two-sided level 0.05."""


@dataclass(frozen=True, slots=True)
class MatrixEstimates:
    """One number for each of A rows and S columns, with intervals; NaN where there is none."""

    value: Floats
    """Shape (A, S)."""
    low: Floats
    """Lower end of the interval."""
    high: Floats
    """Upper end of the interval."""
    n: npt.NDArray[np.int64]
    """Scenarios behind it."""
    p_value: Floats
    """Two-sided p-value against zero, uncorrected; NaN for a grid that is no difference."""
    p_adjusted: Floats
    """The same after Holm's correction over all tests of the grid."""
    detectable: Floats
    """Smallest true value that would be found with power 0.8 at the level 0.05; NaN where `p_value` is."""


@dataclass(frozen=True, slots=True)
class PairedMatrix:
    """What a matrix says."""

    rows: tuple[Hashable, ...]
    """A labels."""
    means: MatrixEstimates
    """Mean of each cell."""
    differences: MatrixEstimates
    """Mean paired difference of each row from the reference row, column by column."""
    gap: Estimate | None
    """How much more rows gain in the column they were trained on than in the others, on average; None without any."""
    gaps: dict[Hashable, Estimate]
    """The same for each row that has such a column."""
    column_differences: dict[tuple[int, int], MatrixEstimates]
    """For each pair of columns that was asked for, first minus second of each row, shape (A, 1)."""
    best: Floats
    """Share of resamples in which a row has the highest mean over all columns, shape (A,), ties shared; NaN for a row
    with an empty cell, which takes no part."""
    agreement: Floats
    """Spearman correlation of the rows' means between columns, shape (S, S); NaN with fewer than 3 rows."""
    seed: int
    """Of the resampling."""
    resamples: int
    """How many."""
    training_seeds: int = 1
    """Assistants of the row that has the most."""
    level: float = 0.95
    """Nominal coverage of the intervals."""

    def difference(self, row: Hashable, column: int) -> Estimate:
        """The difference of a row in a column."""
        at = self.rows.index(row)
        value, low, high, n = (
            one[at, column]
            for one in (self.differences.value, self.differences.low, self.differences.high, self.differences.n)
        )
        if not np.isfinite(value):
            return untold(None, int(n), "no scenario counts in both", self.level)
        if not np.isfinite(low):
            note = few_units(int(n), "scenarios", self.level) or f"all {n} scenarios differ by the same"
            return untold(float(value), int(n), note, self.level)
        method = _method(self.resamples, self.training_seeds)
        return Estimate(float(value), float(low), float(high), int(n), method, self.seed, self.level)


def compare_matrix(
    rewards: npt.ArrayLike,
    scenarios: Sequence[Hashable],
    *,
    seed: int,
    rows: Sequence[Hashable] | None = None,
    reference: Hashable | None = None,
    trained_on: dict[Hashable, int] | None = None,
    column_pairs: Sequence[tuple[int, int]] = (),
    resamples: int = 9999,
    level: float = 0.95,
) -> PairedMatrix:
    """Compare rows and columns.

    Args:
        rewards: Shape (R, S, C): R assistants with S simulators in C conversations; NaN where a fault left none.
        scenarios: C labels; conversations with the same label are dependent, and drawn together.
        seed: Of the resampling.
        rows: R labels; assistants with the same label are training seeds of one method. None: each is a row.
        reference: The row that others are compared with (the initial assistant); None: the first.
        trained_on: The column that a row was trained on, for rows that were.
        column_pairs: Columns to be compared with each other.
        resamples: How many bootstrap samples, >= 1.
        level: Nominal coverage, in (0, 1).

    Raises:
        ValueError: shapes do not fit, a label is unknown, or a number is out of range.
    """
    data = np.asarray(rewards, dtype=np.float64)
    labels: list[Hashable] = list(rows) if rows is not None else list(range(data.shape[0]))
    order = list(dict.fromkeys(labels))
    reference = order[0] if reference is None else reference
    trained_on = trained_on or {}
    _check(data, scenarios, labels, order, reference, trained_on, column_pairs, resamples, level)
    draws = _Draws(data, scenarios, labels, order, seed, resamples)
    at = order.index(reference)
    count_A, count_S = len(order), data.shape[1]
    mean, difference = _Columns(level), _Columns(level)
    total = np.zeros((resamples, count_A))
    gained: dict[int, tuple[Floats, Floats]] = {}
    for column in range(count_S):
        means = draws.of(data[:, column])
        mean.add(*means)
        total += means[1]
        differences = draws.of(data[:, column], minus=at)
        difference.add(*differences, tested=[row for row in range(count_A) if row != at], fewest=draws.fewest(at))
        for label, own in trained_on.items():
            row = order.index(label)
            weight = 1.0 if own == column else -1.0 / max(1, count_S - 1)
            value, drawn = gained.get(row, (np.zeros(1), np.zeros(resamples)))
            gained[row] = (value + weight * differences[0][row], drawn + weight * differences[1][:, row])
    between = {}
    for first, second in column_pairs:
        columns = _Columns(level)
        columns.add(*draws.of(data[:, first] - data[:, second]), tested=range(count_A), fewest=draws.fewest())
        between[first, second] = columns.grid()
    enough = count_S > 1 and bool(gained)
    method = _method(resamples, seeds := max(labels.count(one) for one in order))
    gaps = {order[row]: _estimate(*gained[row], draws.n, seed, level, method) for row in gained} if enough else {}
    overall = None
    if enough:
        value = np.mean([one[0] for one in gained.values()], axis=0)
        overall = _estimate(value, np.mean([one[1] for one in gained.values()], axis=0), draws.n, seed, level, method)
    best = _best(total)
    grid = mean.grid()
    return PairedMatrix(
        rows=tuple(order),
        means=grid,
        differences=difference.grid(),
        gap=overall,
        gaps=gaps,
        column_differences=between,
        best=best,
        agreement=_agreement(grid.value),
        seed=seed,
        resamples=resamples,
        training_seeds=seeds,
        level=level,
    )


def two_sided_p_value(value: Floats, error: Floats, freedom: npt.ArrayLike) -> Floats:
    """Two-sided, of values that are `error` uncertain; NaN where there is no error to divide by."""
    sure = error <= 1e-12 * (1 + np.abs(value))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * student.sf(np.abs(value) / error, freedom)
    found: Floats = np.where(value == 0, 1.0, np.where(sure, np.nan, p))
    return found


def finite(value: float) -> float | None:
    """The number, or None for NaN and infinity, which JSON does not have."""
    return float(value) if np.isfinite(value) else None


def mean_over_pairs(
    values: npt.ArrayLike,
    scenarios: Sequence[Hashable],
    *,
    seed: int,
    resamples: int = 9999,
    level: float = 0.95,
) -> tuple[Estimate, float]:
    """Mean of what is defined for pairs of assistants only, such as who won; scenarios and both sides are resampled.

    Args:
        values: Shape (A, B, C): A training seeds of one method with B of another in C conversations; NaN where one is
            missing.
        scenarios: C labels, as in `compare_matrix`.
        seed: Of the resampling.
        resamples: How many bootstrap samples.
        level: Nominal coverage.

    Returns:
        The mean of the A x B means, and its bootstrap standard error.
    """
    data = np.asarray(values, dtype=np.float64)
    count_A, count_B, _ = data.shape
    flat = data.reshape(count_A * count_B, -1)
    draws = _Draws(flat, scenarios, list(range(len(flat))), list(range(len(flat))), seed, resamples)
    value, drawn, n = draws.of(flat)
    rng = np.random.default_rng([seed, 1])
    sides = [rng.multinomial(count, np.full(count, 1 / count), size=resamples) / count for count in (count_A, count_B)]
    weights = (sides[0][:, :, None] * sides[1][:, None, :]).reshape(resamples, -1)
    total = (weights * drawn).sum(1)
    whole = bool(np.isfinite(value).all())
    estimate = _estimate(
        np.array([value.mean() if whole else np.nan]),
        total,
        int(n.min()),
        seed,
        level,
        _method(resamples, max(count_A, count_B)),
    )
    return estimate, float(total.std())


class _Draws:
    """One set of resampled scenarios (and training seeds), applied to every cell alike."""

    def __init__(
        self,
        data: Floats,
        scenarios: Sequence[Hashable],
        labels: list[Hashable],
        order: list[Hashable],
        seed: int,
        resamples: int,
    ) -> None:
        known = {label: number for number, label in enumerate(dict.fromkeys(scenarios))}
        self.n = len(known)
        members = np.array([known[label] for label in scenarios])
        self._member = (np.arange(self.n)[:, None] == members).astype(np.float64)
        rng = np.random.default_rng(seed)
        self._weights = rng.multinomial(self.n, np.full(self.n, 1 / self.n), size=resamples).astype(np.float64)
        self._rows = [[number for number, label in enumerate(labels) if label == one] for one in order]
        # each method has draws of its own, so that its intervals do not depend on which others are in the call
        own = [np.random.default_rng([seed, zlib.crc32(repr(label).encode())]) for label in order]
        self._seeds = [
            rng.integers(len(rows), size=(resamples, len(rows))) if len(rows) > 1 else None
            for rng, rows in zip(own, self._rows, strict=True)
        ]

    def fewest(self, minus: int | None = None) -> Floats:
        """Training seeds behind each row's values, or the fewest behind both of a difference; infinity for one."""
        counts = np.array([len(rows) if len(rows) > 1 else np.inf for rows in self._rows])
        return counts if minus is None else np.minimum(counts, counts[minus])

    def of(self, values: Floats, *, minus: int | None = None) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
        """Values (A,), resamples (B, A) and scenarios (A,) of R assistants' conversations, shape (R, C).

        `minus`: less that row, conversation by conversation, each of its training seeds by itself.
        """
        if minus is None:
            return self._of(values)
        several = [self._of(values - values[row]) for row in self._rows[minus]]
        value = np.mean([one[0] for one in several], axis=0)
        seeds = self._seeds[minus]
        if seeds is None:
            drawn = several[0][1]
        else:  # the reference's seeds are drawn as its own row's are
            stacked = np.stack([one[1] for one in several], axis=1)
            drawn = np.take_along_axis(stacked, seeds[:, :, None], axis=1).mean(1)
        return value, drawn, np.min([one[2] for one in several], axis=0)

    def _of(self, values: Floats) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
        present = np.isfinite(values)
        sums = self._member @ np.where(present, values, 0.0).T
        counts = self._member @ present.T.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = (self._weights @ sums) / (self._weights @ counts)
            single = sums.sum(0) / counts.sum(0)
        value = np.array([single[rows].mean() for rows in self._rows])
        scenarios = np.array([int((counts[:, rows].sum(1) > 0).sum()) for rows in self._rows])
        merged = np.empty((len(drawn), len(self._rows)))
        for number, (rows, seeds) in enumerate(zip(self._rows, self._seeds, strict=True)):
            if seeds is None:
                merged[:, number] = drawn[:, rows[0]]
            else:
                merged[:, number] = np.take_along_axis(drawn[:, rows], seeds, axis=1).mean(1)
        return value, merged, scenarios


class _Columns:
    """A grid in the making, column by column, so that resamples of all cells are never held together."""

    def __init__(self, level: float) -> None:
        self.level = level
        self._parts: list[tuple[Floats, ...]] = []

    def add(
        self,
        value: Floats,
        drawn: Floats,
        scenarios: npt.NDArray[np.int64],
        *,
        tested: Sequence[int] | range = (),
        fewest: Floats | float = np.inf,
    ) -> None:
        ends = [(1 - self.level) / 2, (1 + self.level) / 2]
        low, high = np.quantile(np.nan_to_num(drawn), ends, axis=0)
        spread = high - low > ROUNDING * (1 + np.abs(high))
        whole = np.isfinite(drawn).all(0) & (scenarios >= fewest_units(self.level)) & spread
        low, high = np.where(whole, [low, high], np.nan)
        p, detectable = np.full(len(value), np.nan), np.full(len(value), np.nan)
        if tested:
            rows = [row for row in tested if whole[row]]
            error = drawn[:, rows].std(0)
            freedom = np.minimum(scenarios, fewest)[rows] - 1
            p[rows] = two_sided_p_value(value[rows], error, freedom)
            detectable[rows] = _DETECTED * error
        self._parts.append((value, low, high, scenarios.astype(np.float64), p, detectable))

    def grid(self) -> MatrixEstimates:
        value, low, high, n, p, detectable = (np.stack(side, axis=1) for side in zip(*self._parts, strict=True))
        corrected = np.full(p.shape, np.nan)
        tested = np.isfinite(p)
        if tested.any():
            corrected[tested] = correct_p_values(p[tested].tolist())
        return MatrixEstimates(value, low, high, n.astype(np.int64), p, corrected, detectable)


def _method(resamples: int, seeds: int) -> str:
    over = "scenarios" if seeds == 1 else f"scenarios and up to {seeds} training seeds"
    return f"paired percentile bootstrap over {over}, {resamples} resamples"


def _estimate(value: Floats, drawn: Floats, n: int, seed: int, level: float, method: str) -> Estimate:
    if not np.isfinite(value).all():
        return untold(None, n, "a cell has no conversations", level)
    if note := few_units(n, "scenarios", level):
        return untold(float(value[0]), n, note, level)
    if not np.isfinite(drawn).all():
        return untold(float(value[0]), n, "a cell has hardly any conversations", level)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    if high - low <= ROUNDING * (1 + abs(high)):
        return untold(float(value[0]), n, f"all {n} scenarios are alike", level)
    return Estimate(float(value[0]), float(low), float(high), n, method, seed, level)


def _best(total: Floats) -> Floats:
    """Share of the draws (B, A) in which a row is the highest."""
    whole = np.isfinite(total).all(0)
    found = np.full(total.shape[1], np.nan)
    if whole.any():
        high = total[:, whole] == total[:, whole].max(1, keepdims=True)
        found[whole] = (high / high.sum(1, keepdims=True)).mean(0)
    return found


def _agreement(means: Floats) -> Floats:
    from scipy.stats import rankdata

    count = means.shape[1]
    if means.shape[0] < 3:
        return np.full((count, count), np.nan)
    ranks = rankdata(means, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.atleast_2d(np.corrcoef(ranks, rowvar=False))
    return found


def _check(
    data: Floats,
    scenarios: Sequence[Hashable],
    labels: list[Any],
    order: list[Any],
    reference: Hashable,
    trained_on: dict[Hashable, int],
    column_pairs: Sequence[tuple[int, int]],
    resamples: int,
    level: float,
) -> None:
    if data.ndim != 3 or data.shape[2] != len(scenarios) or data.shape[0] != len(labels) or 0 in data.shape:
        raise ValueError(
            f"rewards has shape {data.shape}, expected (rows, columns, conversations) with {len(labels)} rows and "
            f"{len(scenarios)} conversations, none of them 0."
        )
    if unknown := [label for label in [reference, *trained_on] if label not in order]:
        raise ValueError(f"There is no row {unknown[0]!r}. Rows: {', '.join(map(str, order))}.")
    if reference in trained_on:
        raise ValueError(f"The reference {reference!r} is where gains are counted from, expected it not in trained_on.")
    columns = [*trained_on.values(), *(one for pair in column_pairs for one in pair)]
    if wrong := [one for one in columns if not 0 <= one < data.shape[1]]:
        raise ValueError(f"There is no column {wrong[0]}, expected 0 to {data.shape[1] - 1}.")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples is {resamples} and level {level}, expected >= 1 and a number in (0, 1).")
