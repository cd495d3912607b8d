from __future__ import annotations

import json

import pytest

from simgym.data import hold_out, load_scenarios
from simgym.errors import ConfigurationError, UnknownName


def test_the_embedded_set_is_large_varied_and_keeps_its_intents_out_of_the_openings():
    scenarios = load_scenarios("everyday")
    assert len(scenarios) >= 130
    for values in zip(*((one.id, one.intent, one.opening, one.persona_seed) for one in scenarios), strict=True):
        assert len(set(values)) == len(scenarios)
    assert len({one.id.split("-")[1] for one in scenarios}) >= 18
    assert all("not human logs" in one.source for one in scenarios)
    for one in scenarios:
        assert 15 <= len(one.goal.split()) <= 40, one.id
        assert 5 <= len(one.opening.split()) <= 40, one.id
        assert one.opening.lower() not in one.intent.lower(), one.id


def test_openings_give_away_less_than_half_of_the_words_of_the_intent():
    for one in load_scenarios("everyday"):
        goal, opening = ({word.strip(".,;:?!\"'") for word in text.lower().split()} for text in (one.goal, one.opening))
        assert len(goal & opening) < len(goal) / 2, one.id


def test_names_files_and_limits_are_understood_or_refused(tmp_path, scenarios):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps(scenario.to_json()) for scenario in scenarios))
    assert load_scenarios(str(path)) == scenarios
    assert load_scenarios(str(path), limit=2) == scenarios[:2]
    with pytest.raises(UnknownName, match="Did you mean 'everyday'"):
        load_scenarios("everday")
    with pytest.raises(ConfigurationError, match="limit"):
        load_scenarios("everyday", limit=0)
    with pytest.raises(ConfigurationError, match="has no split 'test'"):
        load_scenarios("everyday", split="test")


def test_what_is_held_out_depends_on_the_ids_alone(scenarios):
    train, test = hold_out(scenarios, parts=3)
    assert len(test) == 2
    assert {one.id for one in train}.isdisjoint(one.id for one in test)
    assert [one.id for one in train] == [one.id for one in scenarios if one in train]
    assert hold_out(scenarios[::-1], parts=3)[1] == test
    assert len(hold_out(scenarios[:2])[1]) == 1
