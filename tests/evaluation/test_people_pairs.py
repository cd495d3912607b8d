from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from simgym.cli.main import app
from simgym.errors import ConfigurationError
from simgym.evaluation.judge_validation import judge_pairs
from simgym.evaluation.people_pairs import read_people_pairs, validate_by_people, without_training_prompts
from simgym.judges import Judgement
from simgym.judges.people_record import PEOPLE_BAR, find_record, keep_record, people_warning


class Knowing:
    """Prefers what is good, and is told on which prompts it was fitted."""

    def __init__(self, fitted=()):
        self.fitted = fitted

    def judge(self, scenarios, conversations, *, seeds):
        return [Judgement(0.9 if "good" in talk.messages[-1].content else 0.2) for talk in conversations]

    def fingerprint(self):
        return {"judge": "knowing"}

    def fitted_on(self, prompt):
        return prompt in self.fitted


class Lengths(Knowing):
    def judge(self, scenarios, conversations, *, seeds):
        return [Judgement(min(1.0, len(talk.messages[-1].content) / 100)) for talk in conversations]

    def fingerprint(self):
        return {"judge": "lengths"}


def pair(number, *, longer, source="tests", **more):
    good, bad = "good" + " x" * (9 if longer else 1), "bad" + " x" * (1 if longer else 9)
    return {"instruction": f"ask {number}", "answers": {"a": good, "b": bad}, "better": "a", "worse": "b",
            "label_by": "people", "source": source, **more}  # fmt: skip


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMGYM_CACHE", str(tmp_path / "cache"))
    rows = [pair(number, longer=number % 4 > 0, source=("one", "two")[number % 2]) for number in range(40)]
    rows += [pair(90, longer=True, label_by="strength of the model"), pair(91, longer=True, worse="a"),
             {**pair(92, longer=True), "instruction": None, "messages": [{"role": "user", "content": "x"}] * 3},
             {**pair(93, longer=True), "instruction": None, "messages": [{"role": "tool", "content": "x"}]},
             {**pair(94, longer=True), "answers": {"a": "", "b": "bad"}}]  # fmt: skip
    path = tmp_path / "people.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def validated(judge, people):
    return validate_by_people("j", judge.fingerprint(), judge_pairs(judge, people.pairs), people)


def test_rows_that_say_nothing_of_people_are_counted(source):
    people = read_people_pairs(source)
    assert len(people.pairs) == 40
    assert people.left_out == {"not judged by people": 1, "tied": 1, "with earlier turns": 1, "without user": 1,
                               "without instruction or two answers": 1}  # fmt: skip
    source.write_text(json.dumps(pair(0, longer=True, label_by="strength")) + "\n")
    with pytest.raises(ConfigurationError, match="1 not judged by people"):
        read_people_pairs(source)


def test_a_judge_of_length_is_below_the_bar_and_tables_say_so(source):
    people = read_people_pairs(source)
    validation = validated(Lengths(), people)
    assert validation.validation.accuracy.value == 0.75
    assert validation.record.accuracy.value == 0.5  # balanced for length
    assert not validation.record.passes
    assert set(validation.balanced_by_source) == {"one", "two"}
    assert "Nobody knows" in people_warning(Lengths().fingerprint())
    keep_record(validation.record)
    assert "below the bar" in people_warning(Lengths().fingerprint())
    assert find_record(Knowing().fingerprint()) is None


def test_prompts_of_the_fit_say_nothing_of_others(source):
    people = read_people_pairs(source)
    unseen = without_training_prompts(people, Knowing({"ask 0", "ask 1"}))
    assert len(unseen.pairs) == 38
    assert unseen.left_out["the judge was fitted on"] == 2
    with pytest.raises(ConfigurationError, match="fitted on all"):
        without_training_prompts(people, Knowing({f"ask {number}" for number in range(40)}))


class Away(Lengths):
    def judge(self, scenarios, conversations, *, seeds):
        return [Judgement(None, fault="server: away") for _ in conversations]


def test_a_judge_that_fails_on_everything_keeps_its_record(source):
    for judge in ("Lengths", "Away"):
        words = ["judge", "validate", "--people", str(source), "--judge", f"py:{__name__}:{judge}"]
        assert CliRunner().invoke(app, words).exit_code == 0
        assert find_record(Lengths().fingerprint()).pairs == 40


def test_the_command_prints_accuracy_calibration_and_the_warning(source):
    words = ["judge", "validate", "--people", str(source), "--judge", f"py:{__name__}:Lengths", "-o",
             str(source.with_suffix(".json"))]  # fmt: skip
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 0, outcome.output
    assert "balanced for length" in outcome.output
    assert "expected error behind the map" in outcome.output
    assert "below the bar" in outcome.output
    (validation,) = json.loads(source.with_suffix(".json").read_text())["judges"]
    assert validation["bar"] == PEOPLE_BAR
    assert not validation["passes"]
    assert CliRunner().invoke(app, ["judge", "validate"]).exit_code == 2
