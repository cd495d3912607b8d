"""Do simulated users, or a judge, rank assistants as people do?

    people's ratings + rewards -> compare_with_people -> PeopleAgreement

People rate conversations with assistants (systems); a judge or a simulated user gives rewards for the same
conversations, or for others with the same assistants. At the level of instances, ratings and rewards of the same
conversations are correlated, with people as independent units. At the level of systems, the mean ratings and mean
rewards of the assistants are, and people, rewards and systems are resampled (the systems are a sample of those that one
could compare). With fewer systems than an interval takes, what can still be told is the share of pairs of these
systems that both put into the same order; there, only people and rewards are resampled.

Raters' own noise bounds what any judge can reach: the reliability of people's figures is estimated, and the correlation
is given once more as it would be without their noise (Spearman 1904: r / sqrt(reliability)). How many units it would
take to tell a correlation as large as the one seen from none follows from Fisher's z, with the variance of a rank
correlation (Fieller, Hartley & Pearson 1957).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from simgym.statistics import bootstrap_statistic, intraclass_correlation
from simgym.statistics.intervals import ROUNDING, Estimate, few_units, numbered, untold, with_interval

_SPEARMAN_VARIANCE = 1.06
"""Variance of Fisher's z of a Spearman correlation, in 1 / (n - 3)."""
_Floats = npt.NDArray[np.float64]
_Statistic = Callable[[_Floats, _Floats], float]


@dataclass(frozen=True, slots=True)
class PeopleRating:
    """What one person thinks of one assistant, or of one conversation with it."""

    person: str
    """Whose; ratings of a person are dependent."""
    system: str
    """Which assistant."""
    value: float
    """On one scale for all, more is better."""
    item: str = ""
    """Which conversation, or scenario; ratings of the same one are by several people. Empty: its own."""


@dataclass(frozen=True, slots=True)
class Reward:
    """What a judge or a simulated user gives."""

    system: str
    """Which assistant."""
    value: float
    """More is better."""
    item: str = ""
    """Which conversation, or scenario, as in `PeopleRating`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankAgreement:
    """Rank correlations at one level."""

    spearman: Estimate
    """Of the ranks, in [-1, 1]; `n` is the number of people or systems."""
    kendall: Estimate
    """Tau-b, in [-1, 1]."""
    reliability: float | None
    """Share of the variance of people's figures that is not noise, in [0, 1]; None: it cannot be told."""
    without_noise: float | None
    """Spearman without people's noise, in [-1, 1]; None without reliability, or where the value says nothing."""
    needed: int | None
    """Units that tell a correlation as large as this from 0 with power 0.8 at level 0.05; None: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleAgreement:
    """People beside rewards."""

    instances: RankAgreement | None
    """Of conversations that both rated; None where there is none."""
    systems: RankAgreement
    """Of the assistants' means."""
    ordered_alike: Estimate
    """Share of pairs of these assistants in the same order, ties half, in [0, 1]; people and rewards resampled."""
    people: Mapping[str, float]
    """Mean rating by assistant."""
    rewards: Mapping[str, float]
    """Mean reward by assistant."""
    n_people: int
    """People whose ratings entered."""
    left_out: Mapping[str, int]
    """Ratings and rewards that could not enter, by reason."""

    def to_json(self) -> dict[str, object]:
        """JSON values; what does not exist is None, never NaN."""
        return asdict(self)


def compare_with_people(
    ratings: Sequence[PeopleRating], rewards: Sequence[Reward], *, seed: int = 0, resamples: int = 999
) -> PeopleAgreement:
    """Agreement of people and rewards on the assistants that both have.

    Args:
        ratings: By people; not finite ones are left out and counted.
        rewards: Of a judge or of simulated users; the same.
        seed: Of the resampling.
        resamples: Bootstrap samples per figure.
    """
    rated, given = ({entry.system for entry in entries if math.isfinite(entry.value)} for entries in (ratings, rewards))
    shared = rated & given
    kept = [rating for rating in ratings if math.isfinite(rating.value) and rating.system in shared]
    used = [reward for reward in rewards if math.isfinite(reward.value) and reward.system in shared]
    left_out = {
        "rating is not a number": sum(not math.isfinite(rating.value) for rating in ratings),
        "reward is not a number": sum(not math.isfinite(reward.value) for reward in rewards),
        "assistant without reward": sum(math.isfinite(entry.value) and entry.system not in shared for entry in ratings),
        "assistant without rating": sum(math.isfinite(entry.value) and entry.system not in shared for entry in rewards),
    }
    table = _Table(kept, used)
    return PeopleAgreement(
        instances=_instances(kept, used, seed, resamples),
        systems=RankAgreement(
            spearman=table.estimate(_spearman, seed, resamples),
            kendall=table.estimate(_kendall, seed, resamples),
            **_beyond_noise(table.correlation(_spearman), table.reliability()),
        ),
        ordered_alike=table.estimate(_same_order, seed, resamples, bounds=(0.0, 1.0), fixed=True),
        people=dict(zip(table.systems, table.people_means().tolist(), strict=True)),
        rewards=dict(zip(table.systems, table.reward_means().tolist(), strict=True)),
        n_people=len({rating.person for rating in kept}),
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def units_needed(correlation: float | None, *, level: float = 0.05, power: float = 0.8) -> int | None:
    """Units that tell a rank correlation from 0; None for one of 0, 1 or -1, or none.

    Args:
        correlation: The true one, in [-1, 1].
        level: Of the two-sided test, in (0, 1).
        power: Chance that the test tells it, in (0, 1).
    """
    if correlation is None or not 0 < abs(correlation) < 1 - ROUNDING:
        return None
    from statistics import NormalDist

    spread = NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(power)
    return math.ceil(_SPEARMAN_VARIANCE * (spread / math.atanh(correlation)) ** 2 + 3)


class _Table:
    """Ratings and rewards by assistant, ready to be resampled."""

    def __init__(self, ratings: Sequence[PeopleRating], rewards: Sequence[Reward]) -> None:
        self.systems = sorted({rating.system for rating in ratings})
        self._ratings = {system: np.array([r.value for r in ratings if r.system == system]) for system in self.systems}
        self._rewards = {system: np.array([r.value for r in rewards if r.system == system]) for system in self.systems}
        people, self.people = numbered([rating.person for rating in ratings])
        of_system = np.array([rating.system for rating in ratings])
        self._person = {system: people[of_system == system] for system in self.systems}

    def people_means(self, weights: _Floats | None = None) -> _Floats:
        """Mean rating by assistant, NaN without one; `weights` says how often each person was drawn."""
        weights = np.ones(self.people) if weights is None else weights
        sums = [(weights[self._person[system]] @ self._ratings[system]) for system in self.systems]
        counts = np.array([weights[self._person[system]].sum() for system in self.systems])
        means: _Floats = np.divide(sums, counts, out=np.full(len(counts), math.nan), where=counts > 0)
        return means

    def reward_means(self, rng: np.random.Generator | None = None) -> _Floats:
        """Mean reward by assistant, of a resample if there is a generator."""
        return np.array(
            [
                values.mean() if rng is None else values[rng.integers(len(values), size=len(values))].mean()
                for values in self._rewards.values()
            ]
        )

    def correlation(self, statistic: _Statistic) -> float:
        """Of the means."""
        return statistic(self.people_means(), self.reward_means())

    def reliability(self) -> float | None:
        """Share of the variance between people's means that is not their errors'; None for fewer than three systems.

        The variance within assistants is pooled, so that one that a single person rated has an error, too.
        """
        means = self.people_means()
        spread = float(means.var(ddof=1)) if len(means) > 2 else 0.0
        counts = np.array([len(values) for values in self._ratings.values()])
        freedom = int(counts.sum()) - len(counts)
        if spread <= ROUNDING or freedom < 1:
            return None
        within = sum(float(((values - values.mean()) ** 2).sum()) for values in self._ratings.values()) / freedom
        return float(np.clip(1 - np.mean(within / counts) / spread, 0, 1))

    def estimate(
        self,
        statistic: _Statistic,
        seed: int,
        resamples: int,
        *,
        bounds: tuple[float, float] = (-1.0, 1.0),
        fixed: bool = False,
    ) -> Estimate:
        """A statistic of both means; people and rewards are resampled, and systems unless they are `fixed`."""
        count, level = len(self.systems), 0.95
        n = self.people if fixed else count
        if count < 2:
            return untold(None, n, f"{count} assistant{'' if count == 1 else 's'} with ratings and rewards", level)
        value = self.correlation(statistic)
        if math.isnan(value):
            return untold(None, n, "all means of people, or all of the rewards, are equal", level)
        counted = "persons" if fixed else "assistants"
        if note := few_units(n, counted, level):
            return untold(value, n, note, level)
        rng = np.random.default_rng(seed)
        drawn = np.array([statistic(*self._resample(rng, fixed)) for _ in range(resamples)])
        drawn = drawn[~np.isnan(drawn)]
        if 2 * len(drawn) < resamples:
            return untold(value, n, "rarely defined on resamples", level)
        low, high = (float(np.clip(end, *bounds)) for end in np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]))
        if high - low <= ROUNDING:
            return untold(value, n, "nothing differs between resamples", level)
        units = "people and rewards" if fixed else "people, rewards and assistants"
        method = f"percentile bootstrap over {units}, {resamples} resamples"
        return with_interval(value, low, high, n=n, units=counted, method=method, seed=seed, level=level)

    def _resample(self, rng: np.random.Generator, fixed: bool) -> tuple[_Floats, _Floats]:
        weights = np.bincount(rng.integers(self.people, size=self.people), minlength=self.people).astype(float)
        people, rewards = self.people_means(weights), self.reward_means(rng)
        rows = np.arange(len(people)) if fixed else rng.integers(len(people), size=len(people))
        rows = rows[~np.isnan(people[rows])]  # nobody who rated it was drawn
        return people[rows], rewards[rows]


def _instances(
    ratings: Sequence[PeopleRating], rewards: Sequence[Reward], seed: int, resamples: int
) -> RankAgreement | None:
    """Ratings beside rewards of the same conversations."""
    by_item = {(reward.system, reward.item): reward.value for reward in rewards if reward.item}
    rows = [(rating, by_item[rating.system, rating.item]) for rating in ratings
            if rating.item and (rating.system, rating.item) in by_item]  # fmt: skip
    if not rows:
        return None
    people = np.array([rating.value for rating, _ in rows])
    given = np.array([value for _, value in rows])
    clusters = [rating.person for rating, _ in rows]

    def estimate(statistic: _Statistic) -> Estimate:
        return bootstrap_statistic(
            lambda drawn: statistic(people[drawn], given[drawn]),
            clusters, seed=seed, resamples=resamples, bounds=(-1.0, 1.0),
        )  # fmt: skip

    rank = estimate(_spearman)
    items = [f"{rating.system}/{rating.item}" for rating, _ in rows]
    shared = (
        intraclass_correlation(people, items, seed=seed, resamples=1).value if len(set(items)) < len(items) else None
    )
    reliability = None if shared is None else float(np.clip(shared, 0, 1))
    return RankAgreement(
        spearman=rank,
        kendall=estimate(_kendall),
        **_beyond_noise(math.nan if rank.value is None else rank.value, reliability),
    )


def _beyond_noise(correlation: float, reliability: float | None) -> dict[str, Any]:
    """The fields of `RankAgreement` that follow from a correlation and people's reliability."""
    value = None if math.isnan(correlation) else correlation
    without = None if value is None or not reliability else float(np.clip(value / math.sqrt(reliability), -1, 1))
    return {"reliability": reliability, "without_noise": without, "needed": units_needed(value)}


def _is_flat(first: _Floats, second: _Floats) -> bool:
    """Whether there is nothing to order."""
    return len(first) < 2 or not np.ptp(first) or not np.ptp(second)


def _spearman(first: _Floats, second: _Floats) -> float:
    if _is_flat(first, second):
        return math.nan
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def _kendall(first: _Floats, second: _Floats) -> float:
    if _is_flat(first, second):
        return math.nan
    from scipy.stats import kendalltau

    return float(kendalltau(first, second).statistic)


def _same_order(first: _Floats, second: _Floats) -> float:
    """Share of pairs that both put into the same order; a tie in one of them is half, pairs tied in both are none."""
    if _is_flat(first, second):
        return math.nan
    rows, columns = np.triu_indices(len(first), 1)
    signs = np.sign(first[rows] - first[columns]), np.sign(second[rows] - second[columns])
    decided = (signs[0] != 0) | (signs[1] != 0)
    return float(np.mean((1 + signs[0] * signs[1])[decided] / 2)) if decided.any() else math.nan
