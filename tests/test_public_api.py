from __future__ import annotations

import pickle

import pytest

import simgym
from simgym import errors


def test_every_public_name_exists():
    assert all(getattr(simgym, name) is not None for name in simgym.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        simgym.nonsense  # noqa: B018


@pytest.mark.parametrize("name", [name for name in vars(errors) if isinstance(vars(errors)[name], type)])
def test_every_error_has_a_standard_parent_and_can_be_pickled(name):
    error = vars(errors)[name]("what was wrong")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), "what was wrong")
