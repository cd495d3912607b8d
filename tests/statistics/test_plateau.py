from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgym.statistics import plateau_onset


@pytest.mark.parametrize(
    ("rewards", "onset"),
    [
        ([0.1, 0.3, 0.5, 0.6, 0.6, 0.6, 0.6], 3),
        ([0.1, 0.6, 0.6, 0.6, 0.6], 1),
        ([0.5, 0.4, 0.3], 0),
        ([0.5], 0),
        ([0.0, 1.0], 1),
        ([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], 4),
        ([0.2, 0.2, 0.2], 0),
        ([0.1, 0.2, 0.9, 0.2, 0.3, 0.5, 0.6, 0.6, 0.6], 6),  # one lucky evaluation is no plateau
    ],
)
def test_the_onset_is_where_the_curve_stops_rising(rewards, onset):
    assert plateau_onset(rewards) == onset


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20), st.floats(0.01, 10), st.floats(-5, 5))
def test_it_does_not_depend_on_the_scale_of_the_reward(rewards, factor, shift):
    rounded = [round(value, 3) for value in rewards]
    moved = [round(factor, 2) * value + round(shift, 2) for value in rounded]
    onset = plateau_onset(rounded, tolerance=0.1234567)
    assert 0 <= onset < len(rounded)
    assert plateau_onset(moved, tolerance=0.1234567) == onset


def test_wrong_input_is_refused():
    for wrong in ([], [0.1, float("nan")]):
        with pytest.raises(ValueError, match="no rewards"):
            plateau_onset(wrong)
    with pytest.raises(ValueError, match="odd number"):
        plateau_onset([0.1], window=2)
