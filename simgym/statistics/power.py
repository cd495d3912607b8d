"""Sample sizes and minimum detectable effects, with clustering.

Dependent observations count less: m observations of one person with intraclass correlation rho are worth
m / (1 + (m - 1) rho) independent ones (design effect of Kish 1965). Power is that of statsmodels:
a z-test of a win rate against one half (arcsine effect size, Cohen 1988) and a t-test of paired differences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

_PROPORTION_TEST = "z-test of a proportion, arcsine effect size"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A sample size, an effect, and the power that joins them."""

    clusters: int
    """People (or other clusters)."""
    per_cluster: float
    """Observations of each."""
    design_effect: float
    """Factor by which clustering enlarges the variance, >= 1."""
    effect: float
    """Smallest effect that is detected with that power, in the units asked for."""
    power: float
    """Probability of detecting it, in (0, 1)."""
    alpha: float
    """Two-sided level of the test, in (0, 1)."""
    method: str
    """Which test."""


def design_effect(per_cluster: float, icc: float) -> float:
    """1 + (m - 1) rho.

    Raises:
        ValueError: the intraclass correlation is not in [0, 1], or there is less than one observation a cluster.
    """
    if not 0 <= icc <= 1 or per_cluster < 1:
        raise ValueError(f"icc is {icc} and per_cluster {per_cluster}, expected a number in [0, 1] and one >= 1.")
    return 1 + (per_cluster - 1) * icc


def plan_win_rate(
    rate: float, *, per_cluster: float = 1, icc: float = 0.0, power: float = 0.8, alpha: float = 0.05
) -> Plan:
    """Participants needed to detect that a win rate differs from one half.

    Args:
        rate: True win rate, in (0, 1) and not 0.5; ties count as half.
        per_cluster: Votes of a person.
        icc: Intraclass correlation of the votes of a person.
        power: Wanted probability of detecting it.
        alpha: Two-sided level.

    Raises:
        ValueError: the rate is 0.5 or not in (0, 1).
    """
    if not 0 < rate < 1 or rate == 0.5:
        raise ValueError(f"The win rate is {rate}, expected a number in (0, 1) other than 0.5.")
    from statsmodels.stats.power import NormalIndPower  # takes long to import
    from statsmodels.stats.proportion import proportion_effectsize

    effect = proportion_effectsize(rate, 0.5)
    inflation = design_effect(per_cluster, icc)
    needed = NormalIndPower(ddof=0).solve_power(abs(effect), power=power, alpha=alpha, ratio=0)
    clusters = math.ceil(needed * inflation / per_cluster - 1e-9)
    plan = partial(Plan, per_cluster=per_cluster, design_effect=inflation, power=power, alpha=alpha)
    return plan(clusters=clusters, effect=rate, method=_PROPORTION_TEST)


def plan_tied_win_rate(
    rate: float,
    *,
    per_cluster: float = 1,
    tie_rate: float = 0.0,
    icc: float = 0.0,
    power: float = 0.8,
    alpha: float = 0.05,
) -> Plan:
    """Participants needed to detect that a win rate differs from one half, where ties count as half a win.

    (z(1 - alpha/2) + z(power))^2 v D / ((rate - 0.5)^2 m), with v = rate - tie_rate / 4 - rate^2 the variance of a vote
    that is 1, 0.5 or 0, and D the design effect of m votes a person: a z-test of the mean with its variance at `rate`.

    Args:
        rate: True win rate, in (0, 1) and not 0.5, ties counted as half.
        per_cluster: Votes of a person.
        tie_rate: Share of ties, in [0, 1).
        icc: Intraclass correlation of the votes of a person.
        power: Wanted probability of detecting it.
        alpha: Two-sided level.

    Raises:
        ValueError: a number is out of range, or so many ties cannot leave that win rate.
    """
    if not 0 < rate < 1 or rate == 0.5:
        raise ValueError(f"The win rate is {rate}, expected a number in (0, 1) other than 0.5.")
    if not 0 <= tie_rate < 1 or not tie_rate / 2 <= rate <= 1 - tie_rate / 2:
        raise ValueError(f"The tie rate is {tie_rate}, which a win rate of {rate} (ties counted as half) rules out.")
    if not 0 < power < 1 or not 0 < alpha < 1:
        raise ValueError(f"power is {power} and alpha {alpha}, expected numbers in (0, 1).")
    from scipy.stats import norm

    inflation = design_effect(per_cluster, icc)
    variance = rate - tie_rate / 4 - rate**2
    quantiles = float(norm.ppf(1 - alpha / 2) + norm.ppf(power))
    needed = quantiles**2 * variance * inflation / ((rate - 0.5) ** 2 * per_cluster)
    plan = partial(Plan, per_cluster=per_cluster, design_effect=inflation, power=power, alpha=alpha)
    return plan(clusters=math.ceil(needed - 1e-9), effect=rate, method="z-test of a mean of votes 1, 0.5, 0")


def detectable_win_rate(
    clusters: int, *, per_cluster: float = 1, icc: float = 0.0, power: float = 0.8, alpha: float = 0.05
) -> Plan:
    """Smallest win rate above one half that this many clusters can detect; arguments as for `plan_win_rate`."""
    from statsmodels.stats.power import NormalIndPower  # takes long to import

    inflation = design_effect(per_cluster, icc)
    n = clusters * per_cluster / inflation
    effect = NormalIndPower(ddof=0).solve_power(None, nobs1=n, power=power, alpha=alpha, ratio=0)
    if effect > math.pi / 2:
        raise ValueError(f"{clusters} clusters detect no win rate with power {power}. Plan for more.")
    rate = math.sin(math.asin(math.sqrt(0.5)) + float(effect) / 2) ** 2
    plan = partial(Plan, per_cluster=per_cluster, design_effect=inflation, power=power, alpha=alpha)
    return plan(clusters=clusters, effect=rate, method=_PROPORTION_TEST)


def detectable_difference(
    n: int, deviation: float, *, per_cluster: float = 1, icc: float = 0.0, power: float = 0.8, alpha: float = 0.05
) -> Plan:
    """Smallest mean of paired differences that can be detected.

    Args:
        n: Clusters (scenarios, people).
        deviation: Standard deviation of the differences, > 0; the effect is in its units.
        per_cluster: Differences of a cluster.
        icc: Intraclass correlation of the differences of a cluster.
        power: Wanted probability of detecting it.
        alpha: Two-sided level.
    """
    inflation = design_effect(per_cluster, icc)
    worth = n * per_cluster / inflation
    if worth < 3:
        raise ValueError(f"{n} clusters are worth {worth:.1f} observations, expected at least 3. Plan for more.")
    from statsmodels.stats.power import TTestPower  # takes long to import

    effect = TTestPower().solve_power(None, nobs=worth, power=power, alpha=alpha)
    plan = partial(Plan, per_cluster=per_cluster, design_effect=inflation, power=power, alpha=alpha)
    return plan(clusters=n, effect=float(effect) * deviation, method="t-test of paired differences")
