from __future__ import annotations

import json

import pytest

from simgym.data import hold_out, load_scenarios
from simgym.errors import ConfigurationError, UnknownName


def test_the_embedded_set_is_large_varied_and_keeps_its_intents_out_of_the_openings():
    scenarios = load_scenarios("everyday")
    assert len(scenarios) >= 130
    for values in zip(
        *((scenario.id, scenario.intent, scenario.opening, scenario.persona_seed) for scenario in scenarios),
        strict=True,
    ):
        assert len(set(values)) == len(scenarios)
    assert len({scenario.id.split("-")[1] for scenario in scenarios}) >= 18
    assert all("not human logs" in scenario.source for scenario in scenarios)
    for scenario in scenarios:
        assert 15 <= len(scenario.goal.split()) <= 40, scenario.id
        assert 5 <= len(scenario.opening.split()) <= 40, scenario.id
        assert scenario.opening.lower() not in scenario.intent.lower(), scenario.id


def test_openings_give_away_less_than_half_of_the_words_of_the_intent():
    for scenario in load_scenarios("everyday"):
        goal, opening = (
            {word.strip(".,;:?!\"'") for word in text.lower().split()} for text in (scenario.goal, scenario.opening)
        )
        assert len(goal & opening) < len(goal) / 2, scenario.id


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
    assert {row.id for row in train}.isdisjoint(row.id for row in test)
    assert [row.id for row in train] == [scenario.id for scenario in scenarios if scenario in train]
    assert hold_out(scenarios[::-1], parts=3)[1] == test
    assert len(hold_out(scenarios[:2])[1]) == 1
