"""What assistants and simulators are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simgym._exports import lazy_exports
from simgym.evaluation.behaviours import Behaviours, compare_behaviours
from simgym.evaluation.config import ExperimentConfig
from simgym.evaluation.curves import Curve, read_curve
from simgym.evaluation.judge_validation import Validation, judge_agreement, judge_pairs, read_pairs, validate
from simgym.evaluation.matrix import Cell, Matrix, MatrixRun
from simgym.evaluation.plan import Plan, read_plan
from simgym.evaluation.realism import score_realism
from simgym.evaluation.reference import Moment, Reference, load_reference, make_reference
from simgym.evaluation.scorecard import Scorecard
from simgym.evaluation.simulated_turns import SimulatedTurn, simulate_turns

if TYPE_CHECKING:  # they import scipy
    from simgym.evaluation.agreement import PeopleAgreement, PeopleRating, Reward, compare_with_people
    from simgym.evaluation.calibration import Calibration, calibrate
    from simgym.evaluation.comparisons import Comparisons, compare_cells
    from simgym.evaluation.contrasts import Contrast, reward_contrasts, win_contrasts
    from simgym.evaluation.experiment import Experiment

__all__ = [
    # an experiment
    "ExperimentConfig",
    "Experiment",
    # the generalization matrix
    "Matrix",
    "Cell",
    "MatrixRun",
    "Comparisons",
    "compare_cells",
    "Contrast",
    "reward_contrasts",
    "win_contrasts",
    "Plan",
    "read_plan",
    "Curve",
    "read_curve",
    # realism of simulators
    "Reference",
    "Moment",
    "load_reference",
    "make_reference",
    "SimulatedTurn",
    "simulate_turns",
    "score_realism",
    "Scorecard",
    "Behaviours",
    "compare_behaviours",
    # people as the measure
    "PeopleRating",
    "Reward",
    "PeopleAgreement",
    "compare_with_people",
    "Calibration",
    "calibrate",
    # judges
    "Validation",
    "read_pairs",
    "judge_pairs",
    "validate",
    "judge_agreement",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "agreement": ("PeopleAgreement", "PeopleRating", "Reward", "compare_with_people"),
        "calibration": ("Calibration", "calibrate"),
        "comparisons": ("Comparisons", "compare_cells"),
        "contrasts": ("Contrast", "reward_contrasts", "win_contrasts"),
        "experiment": ("Experiment",),
    },
)
