"""Assistants crossed with simulators on the same scenarios: what differs, and how sure is it?

Every cell of a generalization matrix has the same scenarios, so cells are compared in pairs. One bootstrap draws
scenarios for all cells at once: a scenario that is hard in one cell is hard in all, and the intervals of differences,
gaps and ranks take that into account. Training seeds of a method are resampled as well (a hierarchical bootstrap), so
that the interval of a method covers seeds and scenarios. With k seeds it sees (k - 1) / k of their variance: two or
three are few. Intervals are percentile intervals.

P-values are those of t = difference / bootstrap standard error. Its degrees of freedom are the scenarios minus one, or
the training seeds minus one where there is more than one. Counting resamples beyond zero could not give less than
2 / resamples, which Holm's correction for a large matrix would lift above any level.

Where nothing differs between scenarios, or there are fewer than `fewest_units` of them, there is neither an interval
nor a p-value. A difference has the same interval whatever else is compared in the same call.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.stats import t as student

from simgym.statistics.intervals import ROUNDING, Estimate, few_units, fewest_units, numbered, untold, with_interval
from simgym.statistics.paired import correct_p_values

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
_BLOCK = 2**22
"""Numbers of resamples x scenarios that are calculated with at a time; bounds memory where there are many scenarios."""
_DETECTED = 1.959964 + 0.841621
"""Standard errors that an effect must measure to be detected with power 0.8 at the two-sided level 0.05."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixLayout:
    """What the rows and columns of a matrix are."""

    rows: Sequence[Hashable] | None = None
    """R labels; assistants with the same label are training seeds of one method. None: each is a row of its own."""
    reference: Hashable | None = None
    """The row that others are compared with (the initial assistant); None: the first."""
    trained_on: Mapping[Hashable, int] = field(default_factory=dict)
    """The column that a row was trained on, for rows that were."""
    column_pairs: Sequence[tuple[int, int]] = ()
    """Columns to be compared with each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixEstimates:
    """An estimate for each of A rows and S columns; NaN where there is none."""

    value: Floats
    """Shape (A, S)."""
    low: Floats
    """Lower end of the interval."""
    high: Floats
    """Upper end of the interval."""
    n: Counts
    """Scenarios behind it."""
    p_value: Floats
    """Two-sided p-value against zero, uncorrected; NaN where nothing is tested."""
    p_adjusted: Floats
    """The same after Holm's correction over all tests of the matrix."""
    detectable: Floats
    """Smallest true value that is detected with power 0.8 at the level 0.05; NaN where `p_value` is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedMatrix:
    """All comparisons of one matrix."""

    rows: tuple[Hashable, ...]
    """A labels."""
    means: MatrixEstimates
    """Mean of each cell."""
    differences: MatrixEstimates
    """Mean paired difference of each row from the reference row, column by column."""
    gap: Estimate | None
    """Mean of `gaps`; None without any."""
    gaps: dict[Hashable, Estimate]
    """How much more a row gains in the column it was trained on than in the others, for rows that have one."""
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
    """Bootstrap samples."""
    training_seeds: int = 1
    """Assistants of the row that has the most."""
    level: float = 0.95
    """Nominal coverage of the intervals."""

    def difference(self, row: Hashable, column: int) -> Estimate:
        """The difference of a row from the reference in a column."""
        at, cells = self.rows.index(row), self.differences
        value, low, high, n = (part[at, column] for part in (cells.value, cells.low, cells.high, cells.n))
        if not np.isfinite(value):
            return untold(None, int(n), "no scenario counts in both", self.level)
        if not np.isfinite(low):
            note = few_units(int(n), "scenarios", self.level) or f"all {n} scenarios differ by the same"
            return untold(float(value), int(n), note, self.level)
        method = _method(self.resamples, self.training_seeds)
        ends = float(value), float(low), float(high)
        return with_interval(*ends, n=int(n), units="scenarios", method=method, seed=self.seed, level=self.level)


def compare_matrix(
    rewards: npt.ArrayLike,
    scenarios: Sequence[Hashable],
    *,
    seed: int,
    layout: MatrixLayout | None = None,
    resamples: int = 9999,
    level: float = 0.95,
) -> PairedMatrix:
    """Compare rows and columns.

    Args:
        rewards: Shape (R, S, C): R assistants with S simulators in C conversations; NaN where a fault left none.
        scenarios: C labels; conversations with the same label are dependent, and drawn together.
        seed: Of the resampling.
        layout: What rows and columns are.
        resamples: Bootstrap samples, >= 1.
        level: Nominal coverage, in (0, 1).

    Raises:
        ValueError: shapes do not fit, a label is unknown, or a number is out of range.
    """
    layout = layout or MatrixLayout()
    data = np.asarray(rewards, dtype=np.float64)
    labels: list[Hashable] = list(layout.rows) if layout.rows is not None else list(range(data.shape[0]))
    order = list(dict.fromkeys(labels))
    reference = order[0] if layout.reference is None and order else layout.reference
    _check_data(data, scenarios, labels, resamples, level)
    _check_layout(layout, order, reference, data.shape[1])
    draws = _Draws(scenarios, labels, seed, resamples)
    means, differences, totals, gains = _compare_cells(data, draws, order.index(reference), layout, level)
    seeds = max(labels.count(label) for label in order)
    gap, gaps = _gaps(gains, draws, level, seeds) if data.shape[1] > 1 else (None, {})
    return PairedMatrix(
        rows=tuple(order),
        means=means,
        differences=differences,
        gap=gap,
        gaps=gaps,
        column_differences={pair: _compare_columns(data, draws, pair, level) for pair in layout.column_pairs},
        best=_best(totals),
        agreement=_agreement(means.value),
        seed=seed,
        resamples=resamples,
        training_seeds=seeds,
        level=level,
    )


def two_sided_p_value(value: Floats, error: Floats, freedom: npt.ArrayLike) -> Floats:
    """P-values of a t-test against zero; NaN where there is no error to divide by."""
    sure = error <= 1e-12 * (1 + np.abs(value))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * student.sf(np.abs(value) / error, freedom)
    p_value: Floats = np.where(value == 0, 1.0, np.where(sure, np.nan, p))
    return p_value


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
        scenarios: C labels; this and the following as in `compare_matrix`.

    Returns:
        The mean of the A x B means, and its bootstrap standard error.
    """
    data = np.asarray(values, dtype=np.float64)
    count_A, count_B, _ = data.shape
    flat = data.reshape(count_A * count_B, -1)
    draws = _Draws(scenarios, list(range(len(flat))), seed, resamples)
    sample = draws.of(flat)
    rng = np.random.default_rng([seed, 1])
    sides = [rng.multinomial(count, np.full(count, 1 / count), size=resamples) / count for count in (count_A, count_B)]
    weights = (sides[0][:, :, None] * sides[1][:, None, :]).reshape(resamples, -1)
    total = (weights * sample.drawn).sum(1)
    whole = bool(np.isfinite(sample.value).all())
    mean = float(sample.value.mean()) if whole else np.nan
    estimate = _estimate(mean, total, int(sample.n.min()), seed, level, _method(resamples, max(count_A, count_B)))
    return estimate, float(total.std())


@dataclass(frozen=True, slots=True)
class _Sample:
    """Means of A rows in one column."""

    value: Floats
    """Shape (A,)."""
    drawn: Floats
    """Of B resamples, shape (B, A)."""
    n: Counts
    """Scenarios that count, shape (A,)."""


def _draw_scenarios(count: int, resamples: int, rng: np.random.Generator) -> npt.NDArray[np.uint8 | np.uint16]:
    """How often each of so many scenarios is in each of B resamples, shape (B, count), in as few bytes as it takes."""
    drawn: npt.NDArray[np.uint8 | np.uint16] = np.empty((resamples, count), dtype=np.uint8)
    step = max(1, _BLOCK // max(1, count))
    for start in range(0, resamples, step):
        block = rng.multinomial(count, np.full(count, 1 / count), size=min(step, resamples - start))
        if block.max(initial=0) > np.iinfo(drawn.dtype).max:
            drawn = drawn.astype(np.uint16)
        drawn[start : start + step] = block
    return drawn


class _Draws:
    """One set of resampled scenarios (and training seeds), applied to every cell alike."""

    def __init__(self, scenarios: Sequence[Hashable], labels: list[Hashable], seed: int, resamples: int) -> None:
        members, self.n = numbered(scenarios)
        order = list(dict.fromkeys(labels))
        self.seed, self.resamples, self.order = seed, resamples, order
        here = np.arange(len(members))
        self._member = csr_array((np.ones(len(members)), (members, here)), shape=(self.n, len(members)))
        self._weights = _draw_scenarios(self.n, resamples, np.random.default_rng(seed))
        self._rows = [[number for number, label in enumerate(labels) if label == row] for row in order]
        # each method has draws of its own, so that its intervals do not depend on which others are in the call
        own = [np.random.default_rng([seed, zlib.crc32(repr(label).encode())]) for label in order]
        self._seeds = [
            rng.integers(len(rows), size=(resamples, len(rows))) if len(rows) > 1 else None
            for rng, rows in zip(own, self._rows, strict=True)
        ]

    def fewest(self, minus: int | None = None) -> Floats:
        """Training seeds behind each row, or behind the smaller side of a difference; infinity where there is one."""
        counts = np.array([len(rows) if len(rows) > 1 else np.inf for rows in self._rows])
        return counts if minus is None else np.minimum(counts, counts[minus])

    def of(self, values: Floats, *, minus: int | None = None) -> _Sample:
        """Means of R assistants' conversations, shape (R, C).

        Args:
            values: The conversations of one column.
            minus: A row that is subtracted, conversation by conversation, each of its training seeds by itself.
        """
        if minus is None:
            return self._of(values)
        samples = [self._of(values - values[row]) for row in self._rows[minus]]
        seeds = self._seeds[minus]  # the reference's are drawn as its own row's are
        stacked = np.stack([sample.drawn for sample in samples], axis=1)
        drawn = _over_seeds(stacked, None if seeds is None else seeds[:, :, None])
        value = np.mean([sample.value for sample in samples], axis=0)
        return _Sample(value, drawn, np.min([sample.n for sample in samples], axis=0))

    def _weight_blocks(self) -> Iterator[Floats]:
        """How often each scenario was drawn, some resamples at a time, shape (B, n) each."""
        step = max(1, _BLOCK // max(1, self.n))
        for start in range(0, self.resamples, step):
            yield self._weights[start : start + step].astype(np.float64)

    def _of(self, values: Floats) -> _Sample:
        present = np.isfinite(values)
        sums = self._member @ np.where(present, values, 0.0).T
        counts = self._member @ present.T.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = np.concatenate([(part @ sums) / (part @ counts) for part in self._weight_blocks()])
            single = sums.sum(0) / counts.sum(0)
        value = np.array([single[rows].mean() for rows in self._rows])
        scenarios = np.array([int((counts[:, rows].sum(1) > 0).sum()) for rows in self._rows])
        merged = np.empty((len(drawn), len(self._rows)))
        for number, (rows, seeds) in enumerate(zip(self._rows, self._seeds, strict=True)):
            merged[:, number] = _over_seeds(drawn[:, rows], seeds)
        return _Sample(value, merged, scenarios)


def _over_seeds(drawn: Floats, seeds: Counts | None) -> Floats:
    """The mean of B resamples over the training seeds that each has drawn, which are the second axis; None: the one."""
    return drawn[:, 0] if seeds is None else np.take_along_axis(drawn, seeds, axis=1).mean(1)


class _Columns:
    """Estimates in the making, column by column, so that resamples of all cells are never in memory together."""

    def __init__(self, level: float) -> None:
        self.level = level
        self._parts: list[tuple[Floats, ...]] = []

    def add(self, sample: _Sample, *, tested: Sequence[int] = (), fewest: Floats | float = np.inf) -> None:
        """Append a column; rows in `tested` get a p-value with at most `fewest - 1` degrees of freedom."""
        ends = [(1 - self.level) / 2, (1 + self.level) / 2]
        low, high = np.quantile(np.nan_to_num(sample.drawn), ends, axis=0)
        spread = high - low > ROUNDING * (1 + np.abs(high))
        whole = np.isfinite(sample.drawn).all(0) & (sample.n >= fewest_units(self.level)) & spread
        low, high = np.where(whole, [low, high], np.nan)
        p_value, detectable = np.full(len(sample.value), np.nan), np.full(len(sample.value), np.nan)
        if tested:
            rows = [row for row in tested if whole[row]]
            error = sample.drawn[:, rows].std(0)
            freedom = np.minimum(sample.n, fewest)[rows] - 1
            p_value[rows] = two_sided_p_value(sample.value[rows], error, freedom)
            detectable[rows] = _DETECTED * error
        self._parts.append((sample.value, low, high, sample.n.astype(np.float64), p_value, detectable))

    def estimates(self) -> MatrixEstimates:
        """All columns so far, p-values corrected over them."""
        value, low, high, n, p_value, detectable = (np.stack(side, axis=1) for side in zip(*self._parts, strict=True))
        p_adjusted = np.full(p_value.shape, np.nan)
        tested = np.isfinite(p_value)
        if tested.any():
            p_adjusted[tested] = correct_p_values(p_value[tested].tolist())
        return MatrixEstimates(
            value=value,
            low=low,
            high=high,
            n=n.astype(np.int64),
            p_value=p_value,
            p_adjusted=p_adjusted,
            detectable=detectable,
        )


_Gains = dict[int, tuple[float, Floats]]
"""By row that was trained on a column: its gain there minus its mean gain elsewhere, and the same of B resamples."""


def _compare_cells(
    data: Floats, draws: _Draws, reference: int, layout: MatrixLayout, level: float
) -> tuple[MatrixEstimates, MatrixEstimates, Floats, _Gains]:
    """Means, differences from the reference, the rows' resampled totals (B, A), and gains."""
    means, differences = _Columns(level), _Columns(level)
    totals = np.zeros((draws.resamples, len(draws.order)))
    others = [row for row in range(len(draws.order)) if row != reference]
    gains: _Gains = {}
    for column in range(data.shape[1]):
        mean = draws.of(data[:, column])
        means.add(mean)
        totals += mean.drawn
        difference = draws.of(data[:, column], minus=reference)
        differences.add(difference, tested=others, fewest=draws.fewest(reference))
        for label, own in layout.trained_on.items():
            row = draws.order.index(label)
            weight = 1.0 if own == column else -1.0 / max(1, data.shape[1] - 1)
            value, drawn = gains.get(row, (0.0, np.zeros(draws.resamples)))
            gains[row] = (value + weight * difference.value[row], drawn + weight * difference.drawn[:, row])
    return means.estimates(), differences.estimates(), totals, gains


def _compare_columns(data: Floats, draws: _Draws, pair: tuple[int, int], level: float) -> MatrixEstimates:
    columns = _Columns(level)
    sample = draws.of(data[:, pair[0]] - data[:, pair[1]])
    columns.add(sample, tested=range(len(draws.order)), fewest=draws.fewest())
    return columns.estimates()


def _gaps(
    gains: _Gains, draws: _Draws, level: float, training_seeds: int
) -> tuple[Estimate | None, dict[Hashable, Estimate]]:
    if not gains:
        return None, {}

    def estimate(value: float, drawn: Floats) -> Estimate:
        method = _method(draws.resamples, training_seeds)
        return _estimate(value, drawn, draws.n, draws.seed, level, method)

    gaps = {draws.order[row]: estimate(*gain) for row, gain in gains.items()}
    value = float(np.mean([value for value, _ in gains.values()]))
    return estimate(value, np.mean([drawn for _, drawn in gains.values()], axis=0)), gaps


def _method(resamples: int, seeds: int) -> str:
    over = "scenarios" if seeds == 1 else f"scenarios and up to {seeds} training seeds"
    return f"paired percentile bootstrap over {over}, {resamples} resamples"


def _estimate(value: float, drawn: Floats, n: int, seed: int, level: float, method: str) -> Estimate:
    if not np.isfinite(value):
        return untold(None, n, "a cell has no conversations", level)
    if note := few_units(n, "scenarios", level):
        return untold(float(value), n, note, level)
    if not np.isfinite(drawn).all():
        return untold(float(value), n, "a cell has hardly any conversations", level)
    low, high = map(float, np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]))
    return with_interval(float(value), low, high, n=n, units="scenarios", method=method, seed=seed, level=level)


def _best(totals: Floats) -> Floats:
    """Share of the resamples (B, A) in which a row is the highest."""
    whole = np.isfinite(totals).all(0)
    shares = np.full(totals.shape[1], np.nan)
    if whole.any():
        high = totals[:, whole] == totals[:, whole].max(1, keepdims=True)
        shares[whole] = (high / high.sum(1, keepdims=True)).mean(0)
    return shares


def _agreement(means: Floats) -> Floats:
    from scipy.stats import rankdata

    count = means.shape[1]
    if means.shape[0] < 3:
        return np.full((count, count), np.nan)
    ranks = rankdata(means, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlations: Floats = np.atleast_2d(np.corrcoef(ranks, rowvar=False))
    return correlations


def _check_data(
    data: Floats, scenarios: Sequence[Hashable], labels: Sequence[Hashable], resamples: int, level: float
) -> None:
    if data.ndim != 3 or data.shape[2] != len(scenarios) or data.shape[0] != len(labels) or 0 in data.shape:
        raise ValueError(
            f"rewards has shape {data.shape}, expected (rows, columns, conversations) with {len(labels)} rows and "
            f"{len(scenarios)} conversations, none of them 0."
        )
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples is {resamples} and level {level}, expected >= 1 and a number in (0, 1).")


def _check_layout(layout: MatrixLayout, order: Sequence[Hashable], reference: Hashable, count: int) -> None:
    if unknown := [label for label in [reference, *layout.trained_on] if label not in order]:
        raise ValueError(f"There is no row {unknown[0]!r}. Rows: {', '.join(map(str, order))}.")
    if reference in layout.trained_on:
        raise ValueError(f"The reference {reference!r} is where gains are counted from, so it cannot be in trained_on.")
    columns = [*layout.trained_on.values(), *(column for pair in layout.column_pairs for column in pair)]
    if wrong := [column for column in columns if not 0 <= column < count]:
        raise ValueError(f"There is no column {wrong[0]}, expected 0 to {count - 1}.")
