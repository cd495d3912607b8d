"""The index of a run: places in files, filters, and files that grow, are replaced or are damaged."""

from __future__ import annotations

import json

import pytest
from conversations import PERSONA, talked, write
from typer.testing import CliRunner

from simgym.cli.main import app
from simgym.errors import ConfigurationError, MalformedFile
from simgym.evaluation.plan import Plan
from simgym.simulators import RolePlay
from simgym.transcripts import write_json
from simgym.viewer import Query, TranscriptIndex


def indexed(*sources):
    index = TranscriptIndex(sources)
    while not index.refresh():
        pass
    return index


@pytest.fixture
def file(tmp_path):
    return write(
        tmp_path / "run.jsonl",
        talked(0, reward=0.9, said="Straße im Regen"),
        talked(1, reward=0.2, answer="try the museum"),
        talked(2, fault="role_flip: speaks as the assistant"),
        talked(3, env_id="UserSim-Replay-v0", reward=0.4, fingerprints={}),
    )


def seeds(index, **query):
    return [entry.seed for entry in index.search(Query(**query))]


def test_a_conversation_is_read_from_its_place_in_the_file(file):
    index = indexed(file)
    for number, entry in enumerate(index.search(Query())):
        assert index.transcript(entry).key == (f"s{number}", number)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({}, [0, 1, 2, 3]),
        ({"text": "STRASSE regen"}, [0]),
        ({"text": "because museum"}, [1]),  # in the judge's reasons
        ({"text": "learn 3"}, [3]),  # in the intent
        ({"fault": "any"}, [2]),
        ({"fault": "none"}, [0, 1, 3]),
        ({"fault": "role_flip"}, [2]),
        ({"fault": "repeated"}, []),
        ({"simulator": "UserSim-Replay-v0"}, [3]),
        ({"lowest": 0.3}, [0, 3]),
        ({"lowest": 0.0, "highest": 0.4}, [1, 3]),
        ({"order": "lowest"}, [1, 3, 0, 2]),
        ({"order": "highest"}, [0, 3, 1, 2]),
        ({"scenario": "s1"}, [1]),
    ],
)
def test_filters(file, query, wanted):
    assert seeds(indexed(file), **query) == wanted


def test_keys_leave_out_all_others(file):
    index = indexed(file)
    first, *_ = index.search(Query())
    assert index.search(Query(), frozenset({first.key})) == [first]
    assert not index.search(Query(text="museum"), frozenset({first.key}))


def test_the_persona_is_the_one_that_role_play_draws(file):
    index, simulator = indexed(file), RolePlay("scripted:seed")
    simulator.persona_prompts = PERSONA["guideline_hashes"]
    for entry in index.search(Query(simulator="UserSim-Persona-v0")):
        assert entry.persona == simulator.persona_of(index.transcript(entry).scenario)


def test_new_conversations_appear_and_a_line_that_is_being_written_waits(tmp_path, file):
    index = indexed(file)
    line = (json.dumps(talked(7).to_json()) + "\n").encode()
    with file.open("ab", buffering=0) as growing:
        growing.write(line[:100])
        assert index.refresh()
        assert len(index) == 4
        growing.write(line[100:])
    index.refresh()
    assert seeds(index) == [0, 1, 2, 3, 7]
    assert index.transcript(index.search(Query())[-1]).seed == 7


def test_reading_stops_in_time_and_goes_on(file):
    index = TranscriptIndex([file])
    assert not index.refresh(seconds=0)
    assert len(index) == 0
    assert index.refresh()
    assert len(index) == 4


def test_what_was_done_again_replaces_what_was_cut_off(file):
    index = indexed(file)
    write(file, talked(2, reward=0.7))
    index.refresh()
    assert seeds(index) == [0, 1, 2, 3]
    assert seeds(index, fault="any") == []
    assert index.facets()["fault"] == {"": 4}


def test_a_file_that_was_written_anew_is_read_anew(tmp_path, file):
    index = indexed(file)
    stale = index.search(Query())[1]
    write(tmp_path / "new", talked(9)).replace(file)
    with pytest.raises(MalformedFile):
        index.transcript(stale)
    index.refresh()
    assert (seeds(index), index.generation) == ([9], 1)


def test_damaged_lines_are_named_and_the_others_are_shown(file):
    with file.open("ab") as lines:
        lines.write(b'{"seed": 1}\nnot json\n[]\n\xff\n')
        lines.write((json.dumps({**talked(6).to_json(), "reward": float("nan")}) + "\n").encode())
        lines.write((json.dumps(talked(8).to_json()) + "\n").encode())
    index = indexed(file)
    assert seeds(index) == [0, 1, 2, 3, 8]
    assert index.unreadable == 5
    assert index.problems[0] == "run.jsonl, line 5: not a transcript (KeyError)."


def test_a_matrix_names_its_assistants_and_pairs_scenarios(tmp_path):
    plan = Plan(
        seed=0,
        max_turns=1,
        judge={},
        assistants={"a b": {}, "c": {}},
        simulators={"UserSim-Persona-v0": {}},
        scenarios={"s0": "", "s1": ""},
    )
    write_json(tmp_path / "plan.json", plan.to_json())
    index = TranscriptIndex([tmp_path])  # a run that has just begun
    assert index.refresh()
    for stem in ("a-b", "c"):
        write(tmp_path / "transcripts" / f"{stem}--UserSim-Persona-v0.jsonl", talked(0), talked(1))
    write(tmp_path / "labels.jsonl")
    index.refresh()
    first = index.search(Query(assistant="a b"))[0]
    assert [(other.assistant, other.seed) for other in index.partners(first)] == [("c", 0)]
    assert index.facets()["assistant"] == {"a b": 2, "c": 2}


def test_forks_in_two_files_stand_side_by_side(tmp_path):
    index = indexed(
        write(tmp_path / "one.jsonl", talked(0)), write(tmp_path / "two.jsonl", talked(0, answer="another"), talked(1))
    )
    fork = index.search(Query(assistant="one"))[0]
    assert [other.assistant for other in index.partners(fork)] == ["two"]


@pytest.mark.parametrize("name", ["nothing", "empty.jsonl", "folder"])
def test_a_run_that_is_none_is_refused_in_a_sentence(tmp_path, name, taken_port):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigurationError, match=r"There is no run|holds no conversations"):
        TranscriptIndex([tmp_path / name])
    outcome = CliRunner().invoke(app, ["view", "--web", str(tmp_path / name)])
    assert outcome.exit_code == 2
    assert name in outcome.stderr


def test_a_taken_port_is_named(file, taken_port):
    outcome = CliRunner().invoke(app, ["view", "--web", str(file), "--port", str(taken_port)])
    assert outcome.exit_code == 2
    assert f"127.0.0.1:{taken_port}" in outcome.stderr
    assert "token" not in outcome.stderr
