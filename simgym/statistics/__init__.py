"""Estimates with intervals and tests; pure numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simgym._exports import lazy_exports
from simgym.statistics._agreement import Agreement, agreement, cohen_kappa, kendall, krippendorff_alpha, spearman
from simgym.statistics.clustered import Equivalence, RobustRate, equivalence, intraclass_correlation, robust_win_rate
from simgym.statistics.intervals import Estimate, bootstrap_mean, clustered_bootstrap_mean, format_interval
from simgym.statistics.length_control import length_controlled_win_rate
from simgym.statistics.paired import (
    Strengths,
    Test,
    bradley_terry,
    correct_p_values,
    mcnemar,
    mean_difference,
    wilson_interval,
    win_rate,
)
from simgym.statistics.plateau import plateau_onset
from simgym.statistics.power import (
    Plan,
    design_effect,
    detectable_difference,
    detectable_win_rate,
    plan_tied_win_rate,
    plan_win_rate,
)
from simgym.statistics.resampling import bootstrap_statistic
from simgym.statistics.votes import draw_votes, rejection_rate

if TYPE_CHECKING:  # they import scipy
    from simgym.statistics.paired_matrix import MatrixEstimates, MatrixLayout, PairedMatrix, compare_matrix

__all__ = [
    # means and shares
    "Estimate",
    "bootstrap_mean",
    "clustered_bootstrap_mean",
    "format_interval",
    "bootstrap_statistic",
    # comparisons of two
    "Test",
    "win_rate",
    "wilson_interval",
    "mean_difference",
    "mcnemar",
    "RobustRate",
    "robust_win_rate",
    "Equivalence",
    "equivalence",
    "intraclass_correlation",
    "length_controlled_win_rate",
    # comparisons of many
    "bradley_terry",
    "Strengths",
    "correct_p_values",
    "MatrixEstimates",
    "MatrixLayout",
    "PairedMatrix",
    "compare_matrix",
    # agreement between raters
    "Agreement",
    "agreement",
    "cohen_kappa",
    "krippendorff_alpha",
    "spearman",
    "kendall",
    # how many it takes, and when it stops
    "Plan",
    "design_effect",
    "plan_win_rate",
    "plan_tied_win_rate",
    "detectable_win_rate",
    "detectable_difference",
    "plateau_onset",
    "draw_votes",
    "rejection_rate",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {"paired_matrix": ("MatrixEstimates", "MatrixLayout", "PairedMatrix", "compare_matrix")},
)
