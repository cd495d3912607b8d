from __future__ import annotations

import json

import numpy as np
import pytest

from simgym.evaluation.calibration import calibrate, platt_slope, reliability_curve
from simgym.judges.people_record import logit_margin


def people_decide(margins, rng):
    """Margins of the preferred answer, where people prefer the first with the probability that a margin implies."""
    return np.where(rng.random(len(margins)) < 1 / (1 + np.exp(-margins)), margins, -margins)


def test_a_judge_that_is_too_sure_is_found_out_and_mapped():
    rng = np.random.default_rng(0)
    honest = people_decide(rng.normal(0, 1.5, 3000), rng)
    good = calibrate(honest, range(3000), resamples=99)
    assert good.error.value < 0.03
    assert good.slope == pytest.approx(1.0, abs=0.1)
    loud = calibrate(5 * honest, range(3000), resamples=99)
    assert loud.error.low > 0.1
    assert loud.error_mapped.value < 0.03
    assert loud.slope == pytest.approx(0.2, abs=0.03)


def test_a_judge_that_knows_nothing_may_be_sure_of_nothing():
    rng = np.random.default_rng(1)
    calibration = calibrate(rng.choice([-2.0, 2.0], 2000), range(2000), resamples=99)
    assert calibration.slope < 0.1
    assert calibration.error.value == pytest.approx(0.38, abs=0.05)
    assert platt_slope(-np.ones(20)) == pytest.approx(0, abs=1e-3)  # wrong throughout


@pytest.mark.parametrize("margins", [[], [1.0], [0.0] * 9, [5.0] * 9])
def test_little_is_told_of_little(margins):
    calibration = calibrate(margins, range(len(margins)), resamples=20)
    json.dumps(calibration.to_json(), allow_nan=False)
    assert not calibration.error.reliable


def test_undecided_pairs_are_right_by_half():
    (only,) = reliability_curve(np.zeros(4))
    assert (only.confidence, only.accuracy, only.pairs) == (0.5, 0.5, 4)
    assert logit_margin(0.5, 0.5) == 0
    assert logit_margin(1.0, 0.0) > 20
