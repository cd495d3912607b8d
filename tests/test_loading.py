from __future__ import annotations

import pytest

from simgym.errors import ConfigurationError
from simgym.judges import RubricJudge, load_judge
from simgym.simulators import RolePlay, load_simulator


@pytest.mark.parametrize(
    ("load", "name", "kind"), [(load_judge, "rubric", RubricJudge), (load_simulator, "role_play", RolePlay)]
)
def test_a_role_comes_by_name_with_its_model_or_as_it_is(load, name, kind):
    role = load(name, "scripted:echo")
    assert isinstance(role, kind)
    assert "scripted" in repr(role.fingerprint())
    assert load(role) is role


def test_a_model_among_the_options_wins_for_every_role():
    options = {"model": "scripted:theirs"}
    for role in (load_judge("rubric", "scripted:ours", options), load_simulator("role_play", "scripted:ours", options)):
        assert "theirs" in repr(role.fingerprint())
        assert "ours" not in repr(role.fingerprint())


def test_a_role_without_a_model_ignores_one():
    assert load_simulator("replay", "scripted:echo").fingerprint() == {"simulator": "replay"}


@pytest.mark.parametrize(
    ("load", "methods"), [(load_judge, "judge and fingerprint"), (load_simulator, "open, reply and fingerprint")]
)
def test_an_object_of_another_kind_is_refused_with_the_methods_it_lacks(load, methods):
    with pytest.raises(ConfigurationError, match=f"Got a int.*an object with {methods}"):
        load(3)
    with pytest.raises(ConfigurationError, match=f"makes a Counter, expected an object with {methods}"):
        load("py:collections:Counter")
