"""What people say of conversations is kept, and the readers of other figures accept it."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from conversations import label, labelled, talked
from typer.testing import CliRunner

from simgym.cli.main import app
from simgym.errors import ConfigurationError, MalformedFile, OutputInUse
from simgym.evaluation.judge_validation import judge_pairs, read_pairs
from simgym.evaluation.labels import append_label, labels_that_count, read_labels
from simgym.evaluation.people_pairs import read_people_pairs
from simgym.evaluation.rated_conversations import judge_rated, read_rated_conversations
from simgym.evaluation.turing_test import turing_test
from simgym.judges import PairwiseJudge
from simgym.judges.base import Judgement
from simgym.language_models import ScriptedLM
from simgym.output_files import lock_output

LONG, SHORT = talked(answer="a long and careful answer"), talked(answer="no", reward=0.1)


class LongerIsBetter:
    def judge(self, scenarios, conversations, *, seeds):
        assert all(scenario.id.startswith("s") for scenario in scenarios)
        return [Judgement(min(len(talk.said_by("assistant")[-1]) / 100, 1.0)) for talk in conversations]

    def fingerprint(self):
        return {"judge": "longer"}


@pytest.fixture
def file(tmp_path):
    """Two preferences for `careful`, and one tie, by two persons."""
    path = tmp_path / "labels.jsonl"
    for number, person in enumerate(("ada", "bob")):
        pair = (
            labelled(talked(number, answer="a long and careful answer"), "careful"),
            labelled(talked(number, answer="no"), "short"),
        )
        append_label(path, label("better", *pair, person=person))
    append_label(path, label("tie", labelled(talked(5), "careful"), labelled(talked(5, answer="ho"), "short")))
    append_label(path, label("human", labelled(LONG)))
    return path


def test_a_label_is_read_as_it_was_written_and_a_killed_writer_costs_one_line_at_most(tmp_path):
    path, written = tmp_path / "labels.jsonl", label("better", labelled(LONG), labelled(SHORT, "other"))
    append_label(path, written)
    with path.open("ab") as torn:
        torn.write(b'{"schema": "simgym-la')
    assert read_labels(path) == [written]
    append_label(path, label("human", labelled(LONG)))
    assert [entry.answer for entry in read_labels(path)] == ["better", "human"]


def test_of_two_writers_at_once_the_second_is_told(tmp_path):
    path = tmp_path / "labels.jsonl"
    with lock_output(path), ThreadPoolExecutor(1) as other, pytest.raises(OutputInUse):
        other.submit(append_label, path, label("human", labelled(LONG))).result()


def test_the_last_label_counts_whichever_side_a_conversation_stood_on(tmp_path):
    path, first, second = tmp_path / "labels.jsonl", labelled(LONG), labelled(SHORT, "other")
    append_label(path, label("better", first, second))
    append_label(path, label("worse", first, second, person="bob"))
    append_label(path, label("better", second, first))  # ada has changed her mind
    append_label(path, label(None, second, first, person="bob"))
    append_label(path, label("human", first, blind=False))
    counted = labels_that_count(path)
    assert [(entry.person, entry.conversations[0]) for entry in counted.preferences] == [("ada", second)]
    assert counted.left_out == {"replaced or taken back": 3, "not blind": 1}


@pytest.mark.parametrize(
    ("answer", "conversations"),
    [
        ("human", (labelled(LONG), labelled(SHORT))),
        ("better", (labelled(LONG),)),
        ("better", (labelled(LONG), labelled(talked(1)))),
    ],
)
def test_a_label_that_makes_no_sense_is_refused(answer, conversations):
    with pytest.raises(ConfigurationError):
        label(answer, *conversations)


def test_another_line_is_refused_with_its_number(tmp_path, file):
    with file.open("a") as lines:
        lines.write(json.dumps({"schema": "simgym-label-2"}) + "\n")
    with pytest.raises(MalformedFile, match="line 5"):
        read_labels(file)


def test_judges_are_validated_by_labels(file):
    pairs = read_pairs(file)
    assert [(pair.chosen, pair.rejected, pair.subset) for pair in pairs] == 2 * [
        ("a long and careful answer", "no", "short")
    ]
    assert [verdict.correct for verdict in judge_pairs(LongerIsBetter(), pairs)] == [1.0, 1.0]
    people = read_people_pairs(file)
    assert list(people.pairs) == pairs
    assert people.left_out == {"tied": 1, "of the user, not of two conversations": 1}


def test_a_judge_that_compares_is_asked_only_where_conversations_differ_in_their_last_answer(tmp_path):
    path = tmp_path / "labels.jsonl"
    append_label(path, label("better", labelled(LONG), labelled(SHORT, "other")))
    append_label(path, label("better", labelled(LONG), labelled(talked(said="another opening"), "third")))
    verdicts = judge_pairs(PairwiseJudge(ScriptedLM("seed")), read_pairs(path))
    assert [(verdict.fault or "").partition(":")[0] == "not_comparable" for verdict in verdicts] == [False, True]


def test_people_and_judges_are_compared_by_labels(file):
    rated = read_rated_conversations(file)
    assert [(entry.rating.person, entry.rating.system, entry.rating.value) for entry in rated.conversations] == [
        ("ada", "careful", 1.0),
        ("ada", "short", 0.0),
        ("bob", "careful", 1.0),
        ("bob", "short", 0.0),
        ("ada", "careful", 0.5),
        ("ada", "short", 0.5),
    ]
    rewards, faults = judge_rated(LongerIsBetter(), rated.conversations)
    assert len(rewards) == 6
    assert not faults


def test_a_turing_test_tells_how_often_users_are_taken_for_people():
    simulated = [labelled(talked(number)) for number in range(8)]
    people = [labelled(talked(number, env_id="UserSim-Human-v0"), human=True) for number in range(8)]
    labels = [label("human" if number < 2 else "simulated", entry) for number, entry in enumerate(simulated)]
    labels += [label("human" if number < 6 else "simulated", entry) for number, entry in enumerate(people)]
    test = turing_test(labels)
    share, accuracy = test.taken_for_human["UserSim-Persona-v0"], test.accuracy["UserSim-Persona-v0"]
    assert (share.value, test.people.value, accuracy.value) == (0.25, 0.75, 0.75)
    assert list(test.taken_for_human) == ["UserSim-Persona-v0"]
    assert share.low < 0.25 < share.high
    assert (test.units, test.readers) == ("scenarios", 1)
    assert not turing_test(labels[:8]).accuracy  # nobody to compare with


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["labels"], "UserSim-Persona-v0 taken for human  1.00"),
        (["judge", "validate", "--judge", "relevance", "--judge-model", "scripted:echo"], "against short"),
        (["agree", "--judge", "relevance", "--judge-model", "scripted:echo"], "conversations: Spearman"),
    ],
)
def test_the_commands_read_the_file(file, command, told):
    outcome = CliRunner().invoke(app, [*command, str(file)])
    assert outcome.exit_code == 0, outcome.output
    assert told in outcome.stdout


def test_a_matrix_is_compared_with_labels_of_its_assistants(file, tmp_path):
    import simgym

    folder = tmp_path / "run"
    simgym.evaluate(
        simgym.ExperimentConfig(
            assistants={"careful": "scripted:clarify", "short": "scripted:seed"},
            envs=("UserSim-Persona-v0",),
            models=("scripted:seed",),
            judge="relevance",
            judge_model="scripted:echo",
            n=1,
            max_turns=1,
            output=str(folder),
        )
    )
    outcome = CliRunner().invoke(app, ["agree", str(file), "--results", str(folder)])
    assert outcome.exit_code == 0, outcome.output
    assert re.search(r"careful +people 0\.83, ", outcome.stdout)
