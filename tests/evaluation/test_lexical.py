"""Lexical diversity, anchored in people."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgym.evaluation.lexical import DIVERSITIES, by_person, hdd, mattr, yules_k, z_score

SPOKEN = st.lists(st.sampled_from(["yes", "no", "maybe", "tea", "rye"]), min_size=5, max_size=120)


def test_the_measures_have_their_textbook_values():
    spoken = ["a", "a", "b", "c"]
    # of two words drawn from four without putting back: 1 - C(2,2)/C(4,2) for a, 1 - C(3,2)/C(4,2) for b and for c
    assert hdd(spoken, sample=2) == pytest.approx((1 - 1 / 6 + 2 * (1 - 3 / 6)) / 2)
    assert yules_k(spoken) == pytest.approx(1e4 * (4 + 1 + 1 - 4) / 16)
    assert mattr(spoken) == pytest.approx(3 / 4)  # shorter than the window: the plain ratio


@given(SPOKEN)
def test_saying_everything_twice_is_never_more_diverse(spoken):
    assert hdd(spoken * 2) <= hdd(spoken) + 1e-9
    assert 0 < hdd(spoken) <= 1
    assert yules_k(spoken * 2) >= yules_k(spoken) - 1e-9


@given(SPOKEN)
def test_a_sample_of_the_whole_text_is_its_type_token_ratio(spoken):
    assert hdd(spoken, sample=len(spoken)) == pytest.approx(len(set(spoken)) / len(spoken))


def test_words_are_pooled_by_person_and_few_words_have_no_value():
    _, measure = DIVERSITIES["mattr_z"]
    values = by_person(measure, ["one two three", "three four", "hi"], ["ann", "ann", "bob"], ["ann", "bob"])
    assert values[0] == pytest.approx(4 / 5)
    assert np.isnan(values[1])


def test_z_is_in_deviations_of_the_people_and_needs_some_of_them():
    people = np.array([1.0, 2.0, 3.0, 4.0, 5.0, np.nan])
    assert z_score(people, people) == 0
    assert z_score(people + people[:5].std(ddof=1), people) == pytest.approx(1)
    assert np.isnan(z_score(people, people[:4]))
    assert np.isnan(z_score(people, np.ones(9)))
