from __future__ import annotations

import itertools
import json

import pytest

from simgym.conversation import Conversation
from simgym.data.chitchat import merge_turns, read_chitchat
from simgym.data.scenario_sets import load_scenarios
from simgym.data.wildchat import read_wildchat, wildchat_scenarios
from simgym.errors import ConfigurationError, MalformedFile, UnknownName


def test_the_embedded_set_is_large_varied_and_keeps_its_intents_out_of_the_openings():
    scenarios = load_scenarios("everyday")
    assert len(scenarios) >= 120
    assert len({scenario.id for scenario in scenarios}) == len(scenarios)
    assert len({scenario.persona_seed for scenario in scenarios}) == len(scenarios)
    assert len({scenario.id.split("-")[1] for scenario in scenarios}) >= 12
    assert all(scenario.opening and scenario.goal not in scenario.opening for scenario in scenarios)
    assert all("not human logs" in scenario.source for scenario in scenarios)


def test_names_files_and_limits_are_understood_or_refused(tmp_path, scenarios):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps(scenario.to_json()) for scenario in scenarios))
    assert load_scenarios(str(path)) == scenarios
    assert load_scenarios(str(path), limit=2) == scenarios[:2]
    with pytest.raises(UnknownName, match="Did you mean 'everyday'"):
        load_scenarios("everday")
    with pytest.raises(ConfigurationError, match="limit"):
        load_scenarios("everyday", limit=0)


def test_chitchat_gives_real_openings_and_alternating_turns():
    pytest.importorskip("chitchat_dataset", reason="the extra simgym[chitchat] is not installed")
    outcome = read_chitchat()
    assert outcome.read == len(outcome.scenarios) + sum(outcome.dropped.values()) == 7168
    assert len(outcome.scenarios) > 1000
    for scenario in outcome.scenarios:
        roles = [message.role for message in scenario.history]
        assert roles[:2] == ["user", "assistant"]
        assert all(one != two for one, two in itertools.pairwise(roles))
        assert scenario.opening == Conversation(scenario.history).said_by("user")[0]
    assert len({scenario.intent for scenario in outcome.scenarios[:50]}) > 15  # the order does not follow the topic


def test_messages_in_a_row_by_one_person_are_one_turn():
    groups = [[{"text": "a", "sender": "x"}], [{"text": " ", "sender": "y"}, {"text": "b", "sender": "x"}]]
    assert merge_turns([*groups, [{"text": "c", "sender": "y"}]]) == [("x", "a\nb"), ("y", "c")]


def wildchat_row(number, language="English", **changes):
    return {
        "conversation_hash": f"h{number}",
        "conversation": [
            {"role": "user", "content": f"please help with thing {number}", "language": language},
            {"role": "assistant", "content": "Sure.", "language": language},
        ],
        "language": language,
        "hashed_ip": f"ip{number % 2}",
        "country": "France",
        "turn": 1,
        **changes,
    }


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_wildchat_is_streamed_filtered_by_language_and_knows_users(tmp_path, kind, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [wildchat_row(0), wildchat_row(1, "French"), wildchat_row(2), wildchat_row(3)]
    path = tmp_path / f"log.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    logged = list(read_wildchat(str(path)))
    assert [one.id for one in logged] == ["h0", "h2", "h3"]
    assert logged[0].user_key == logged[1].user_key != logged[2].user_key
    scenarios = load_scenarios(f"wildchat:{path}", limit=2)
    assert [scenario.opening for scenario in scenarios] == ["please help with thing 0", "please help with thing 2"]
    assert len(scenarios[0].history) == 2


def test_a_row_outside_the_schema_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    spoilt = wildchat_row(1, conversation=[{"role": "bot", "content": "x", "language": "English"}])
    path.write_text("\n".join(json.dumps(row) for row in (wildchat_row(0), spoilt)))
    with pytest.raises(MalformedFile, match="row 2"):
        list(read_wildchat(str(path)))
    with pytest.raises(ConfigurationError, match="no file"):
        list(wildchat_scenarios(str(tmp_path / "none.jsonl"), limit=1))
