from __future__ import annotations

import itertools
import json
import sys

import pytest

from simgym.conversation import Conversation
from simgym.data import chitchat_scenarios, load_scenarios
from simgym.data.chitchat import merge_turns
from simgym.data.openings import FEWEST_OPENING_WORDS, LONGEST_OPENING
from simgym.errors import MalformedFile, MissingDependency


@pytest.fixture(scope="module")
def installed():
    pytest.importorskip("chitchat_dataset", reason="the extra simgym[chitchat] is not installed")
    return chitchat_scenarios()


def test_every_conversation_of_the_dataset_is_kept_or_counted_as_dropped(installed):
    assert installed.read == len(installed.scenarios) + sum(installed.dropped.values()) == 7168
    assert len(installed.scenarios) > 1000
    assert len({scenario.id for scenario in installed.scenarios}) == len(installed.scenarios)


def test_the_history_is_two_people_taking_turns_from_the_opening_on(installed):
    for scenario in installed.scenarios:
        roles = [message.role for message in scenario.history]
        assert len(roles) >= 4
        assert roles[0] == "user"
        assert all(before != after for before, after in itertools.pairwise(roles))
        assert scenario.opening == Conversation(scenario.history).said_by("user")[0]
        assert len(scenario.opening) <= LONGEST_OPENING
        scenario.to_json()["opening"].encode()


def test_the_order_is_fixed_and_does_not_follow_the_topic(installed):
    assert load_scenarios("chitchat", limit=20) == list(installed.scenarios[:20])
    assert len({scenario.intent for scenario in installed.scenarios[:50]}) > 15


def test_messages_in_a_row_by_one_person_are_one_turn_even_across_groups():
    groups = [[{"text": "a", "sender": "x"}], [{"text": " ", "sender": "y"}, {"text": "b", "sender": "x"}]]
    assert merge_turns([*groups, [{"text": "c", "sender": "y"}]]) == [("x", "a\nb"), ("y", "c")]


@pytest.mark.parametrize(
    ("prompt", "texts", "reason"),
    [
        (None, ["what do you think of cats", "b", "c", "d"], "no question given"),
        ("Cats?", ["what do you think of cats", "b", "c"], "fewer than 4 turns"),
        ("Cats?", ["Hi, don't you agree", "b", "c", "d"], f"opening of fewer than {FEWEST_OPENING_WORDS} words"),
        ("Cats?", ["so " * 300, "b", "c", "d"], f"opening of more than {LONGEST_OPENING} characters"),
        ("Cats?", ["what do you think of cats", "\ud83d", "c", "d"], "lone surrogates"),
    ],
)
def test_what_cannot_serve_is_dropped_with_its_reason(tmp_path, prompt, texts, reason):
    groups = [[{"text": text, "sender": "xy"[number % 2]}] for number, text in enumerate(texts)]
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"some-id": {"messages": groups, "prompt": prompt, "start": "x"}}))
    assert chitchat_scenarios(path).dropped == {reason: 1}


def test_a_missing_package_and_a_wrong_file_are_told_apart(tmp_path, monkeypatch):
    (tmp_path / "dataset.json").write_text('{"some-id": {"prompt": "Cats?"}}')
    with pytest.raises(MalformedFile, match="not the chitchat dataset"):
        chitchat_scenarios(tmp_path / "dataset.json")
    monkeypatch.setitem(sys.modules, "chitchat_dataset", None)
    with pytest.raises(MissingDependency, match=r"simgym\[chitchat\]"):
        chitchat_scenarios()
