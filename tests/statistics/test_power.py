from __future__ import annotations

import numpy as np
import pytest

from simgym.statistics import design_effect, detectable_difference, detectable_win_rate, plan_win_rate


def test_a_plan_has_the_power_it_promises():
    plan = plan_win_rate(0.58, power=0.8)
    rng = np.random.default_rng(0)
    votes = rng.binomial(plan.clusters, 0.58, 4000) / plan.clusters
    detected = np.abs(votes - 0.5) / np.sqrt(0.25 / plan.clusters) > 1.96
    assert 0.77 < detected.mean() < 0.84
    assert detectable_win_rate(plan.clusters).effect == pytest.approx(0.58, abs=2e-3)


def test_votes_of_one_person_are_worth_less_than_votes_of_many():
    alone = plan_win_rate(0.6)
    assert plan_win_rate(0.6, per_cluster=5, icc=0.0).clusters == pytest.approx(alone.clusters / 5, abs=1)
    assert plan_win_rate(0.6, per_cluster=5, icc=1.0).clusters == alone.clusters
    assert design_effect(5, 0.2) == pytest.approx(1.8)
    for wrong in (lambda: design_effect(5, 2), lambda: design_effect(0, 0.1), lambda: plan_win_rate(0.5)):
        with pytest.raises(ValueError, match="expected"):
            wrong()


def test_the_detectable_difference_shrinks_with_the_root_of_n():
    small, large = detectable_difference(50, 10.0), detectable_difference(200, 10.0)
    assert small.effect / large.effect == pytest.approx(2, rel=0.05)
    assert large.effect == pytest.approx(10 * 2.8 / np.sqrt(200), rel=0.02)


def test_too_few_people_for_any_effect_is_a_sentence():
    for wrong in (lambda: detectable_win_rate(2), lambda: detectable_difference(1, 1.0)):
        with pytest.raises(ValueError, match="Plan for more"):
            wrong()
