from __future__ import annotations

import copy
import multiprocessing

import gymnasium
import pytest
from gymnasium.vector.utils import (
    batch_space,
    concatenate,
    create_empty_array,
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)
from hypothesis import given
from hypothesis import strategies as st

from simgym.envs import UnicodeText
from simgym.errors import ConfigurationError

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)


@given(st.integers(0, 80), st.integers(0, 80), st.integers(0, 2**32))
def test_every_sample_is_contained_and_decided_by_the_seed(low, more, seed):
    space, twin = UnicodeText(low + more, min_length=low), UnicodeText(low + more, min_length=low)
    space.seed(seed)
    twin.seed(seed)
    sample = space.sample()
    assert sample in space
    assert sample == twin.sample()


@given(texts)
def test_any_unicode_text_within_the_bound_is_contained(text):
    assert text in UnicodeText(40)
    assert text + "x" * 41 not in UnicodeText(40)


def test_lone_surrogates_and_other_types_are_not_contained():
    space = UnicodeText(10)
    assert "\ud83d" not in space
    assert "😀" in space
    assert b"bytes" not in space
    assert 3 not in space


@given(st.lists(texts, min_size=3, max_size=3))
def test_texts_survive_shared_memory_unchanged(rows):
    space = UnicodeText(40)
    memory = create_shared_memory(space, n=3, ctx=multiprocessing)
    view = read_from_shared_memory(space, memory, n=3)
    for index, text in enumerate(rows):
        write_to_shared_memory(space, index, "an older and longer text", memory)
        write_to_shared_memory(space, index, text, memory)
    assert list(view) == rows
    assert copy.deepcopy({"user_reply": view}) == {"user_reply": tuple(rows)}


def test_a_batch_is_a_tuple_of_texts():
    space = UnicodeText(10)
    batched = batch_space(space, 2)
    assert batched.sample() in batched
    assert concatenate(space, ["a", "ü"], create_empty_array(space, 2)) == ("a", "ü")
    assert ("a", "ü") in batched


def test_it_nests_in_dict_spaces_and_equals_only_its_like():
    space = gymnasium.spaces.Dict(text=UnicodeText(10), n=gymnasium.spaces.Discrete(2))
    assert space.sample() in space
    assert space.from_jsonable(space.to_jsonable([{"text": "é", "n": 1}])) == [{"text": "é", "n": 1}]
    assert UnicodeText(10) == UnicodeText(10)
    assert UnicodeText(10) != UnicodeText(11)


def test_wrong_bounds_are_refused_in_a_sentence():
    with pytest.raises(ConfigurationError, match="0 <= min <= max"):
        UnicodeText(3, min_length=4)
