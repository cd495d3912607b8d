"""The logit by which a fine-tuned user leaves as often as people do."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def recipe():
    path = ROOT / "agents" / "calibrate_leaving.py"
    specification = importlib.util.spec_from_file_location("calibrate_leaving_recipe", path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules[specification.name]


def moments(recipe, likeliest, rest, end):
    count = len(end)
    hidden = np.hstack([np.ones((count, 2)), 0.1 * RNG.normal(size=(count, 2))])
    inside = np.hstack([np.ones((50, 1)), -np.ones((50, 1)), 0.1 * RNG.normal(size=(50, 2))])
    return recipe.Moments(
        hidden=hidden, inside=inside, likeliest=np.array(likeliest), rest=np.array(rest), end=np.array(end),
        left=np.zeros(count, dtype=bool),
    )  # fmt: skip


def test_the_chance_of_leaving_is_that_of_drawing_it_from_the_nucleus(recipe):
    logits = np.log([[0.4, 0.2, 0.1]])  # and 0.3 for leaving, before temperature
    at = moments(recipe, logits, [-np.inf], np.log([0.3]))
    still = np.zeros(4)
    assert recipe.leaving(at, still, 1.0, 1.0)[0] == pytest.approx(0.3)
    assert recipe.leaving(at, still, 1.0, 0.8)[0] == pytest.approx(0.3 / 0.9)  # 0.4, 0.3 and the 0.2 that crosses 0.8
    assert recipe.leaving(at, still, 1.0, 0.4)[0] == 0  # the likeliest word alone
    cold = np.array([0.4, 0.3, 0.2, 0.1]) ** 2
    assert recipe.leaving(at, still, 0.5, 1.0)[0] == pytest.approx(cold[1] / cold.sum())


def test_a_shift_along_the_direction_is_felt_where_turns_begin_and_not_inside_them(recipe):
    at = moments(recipe, RNG.normal(size=(200, 5)), np.full(200, -np.inf), RNG.normal(size=200))
    direction = recipe.leaving_direction(at)
    assert at.hidden @ direction == pytest.approx(1, abs=0.25)
    assert at.inside @ direction == pytest.approx(0, abs=0.25)
    rates = [recipe.leaving(at, direction * shift, 0.7, 0.9).mean() for shift in (-2, 0, 2)]
    assert rates == sorted(rates)
    assert rates[2] > rates[0] + 0.2
