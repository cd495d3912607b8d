from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simgym.cli.main import app
from simgym.errors import ConfigurationError, MalformedFile
from simgym.evaluation import judge_agreement, judge_pairs, read_pairs, validate
from simgym.judges import Judgement, PairwiseJudge
from simgym.language_models import ScriptedLM

EARLIER_FILES = Path(__file__).parents[1] / "earlier_files"


class Lengths:
    """Grades by length alone; fails on what it is told to."""

    def __init__(self, failing=""):
        self.failing = failing

    def judge(self, scenarios, conversations, *, seeds):
        said = [talk.messages[-1].content for talk in conversations]
        return [
            Judgement(None, fault="refused: no") if self.failing and self.failing in text
            else Judgement(min(1.0, len(text) / 100))
            for text in said
        ]  # fmt: skip

    def fingerprint(self):
        return {"judge": "lengths"}


@pytest.fixture
def source(tmp_path):
    rows = []
    for n in range(40):
        chosen = "good " * (3 if n % 4 else 1)
        rows.append({"instruction": f"q{n}", "chosen": chosen, "rejected": "bad " * 2, "rejected_model": "ab"[n % 2]})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_judge_of_length_is_unmasked_by_balancing(source):
    pairs = read_pairs(source)
    validation = validate("lengths", {}, judge_pairs(Lengths(), pairs, batch_size=7), resamples=99)
    assert validation.accuracy.value == 0.75
    assert validation.length_balanced.value == 0.5
    assert validation.length_alone == {"all": 0.75, "a": 0.5, "b": 1.0}
    assert {name: estimate.value for name, estimate in validation.by_subset.items()} == {"a": 0.5, "b": 1.0}
    assert (validation.position_consistency, validation.retest, validation.faults) == (None, None, {})
    assert validation.accuracy.low < validation.accuracy.value < validation.accuracy.high
    json.dumps(validation.to_json(), allow_nan=False)


def test_failures_are_counted_and_enter_no_accuracy(source):
    pairs = read_pairs(source)
    validation = validate("lengths", {}, judge_pairs(Lengths(failing="good good"), pairs), resamples=19)
    assert validation.faults == {"refused": 30}
    assert (validation.accuracy.value, validation.pairs) == (0, 40)
    nothing = validate("lengths", {}, judge_pairs(Lengths(failing="good"), pairs), resamples=19)
    assert nothing.accuracy.value is None


def test_a_comparing_judge_is_asked_in_both_orders_and_a_second_time(source):
    def rule(request):
        first = request.messages[0].content.split("Message of assistant A:")[1].split("Message of assistant B:")[0]
        return "A+" if "good" in first else "B+"

    class Choosing(ScriptedLM):
        def generate(self, requests):
            from dataclasses import replace

            plain = super().generate([replace(request, json_schema=None) for request in requests])
            return [
                replace(generation, text=json.dumps({"reason": "", "choice": generation.text})) for generation in plain
            ]

    pairs = read_pairs(source, limit=10)
    right = judge_pairs(PairwiseJudge(Choosing(rule)), pairs)
    first = judge_pairs(PairwiseJudge(Choosing("A+")), pairs)
    good = validate("good", {}, right, right[:4], resamples=19)
    biased = validate("first", {}, first, resamples=19)
    assert (good.accuracy.value, good.position_consistency.value, good.retest_same) == (1, 1, 1)
    assert (biased.accuracy.value, biased.position_consistency.value) == (0.5, 0)
    assert judge_agreement(right, first, resamples=19).raw.value == 0
    assert judge_agreement(right, right, resamples=19).raw.value == 1


def test_a_second_time_is_compared_value_by_value(source):
    pairs = read_pairs(source)
    verdicts = judge_pairs(Lengths(), pairs)
    validation = validate("lengths", {}, verdicts, judge_pairs(Lengths(), pairs[:10], seed=1), resamples=19)
    assert (validation.retest.raw.value, validation.retest_same) == (1, 1)
    assert validation.retest.raw.n == 10


def test_pairs_written_for_earlier_versions_are_read():
    first, second = read_pairs(EARLIER_FILES / "pairs.jsonl")
    assert (first.chosen, first.rejected, first.subset) == ("Boil them for 25 minutes.", "I like lentils.", "small")
    assert (second.chosen, second.rejected, second.subset) == ("Use a tyre lever.", "No.", "all")


def test_files_that_hold_no_pairs_are_refused(tmp_path):
    path = tmp_path / "pairs.jsonl"
    with pytest.raises(ConfigurationError, match="There is no file"):
        read_pairs(path)
    path.write_text("\n")
    with pytest.raises(ConfigurationError, match="holds no pairs"):
        read_pairs(path)
    for line in (
        '{"instruction": "a", "chosen": "b"}',
        '{"instruction": "a", "chosen": "b", "rejected": " "}',
        "[1]",
        "x",
    ):
        path.write_text(line + "\n")
        with pytest.raises(MalformedFile, match="line 1"):
            read_pairs(path)


def test_the_command_prints_accuracies_and_writes_them(source, tmp_path):
    words = ["judge", "validate", str(source), "--judge", "relevance", "--judge-model", "scripted:x", "--retest", "3",
             "--judge", "rubric", "-n", "12", "-o", str(tmp_path / "v.json")]  # fmt: skip
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 0, outcome.output
    assert "length-balanced" in outcome.stdout
    assert "relevance and rubric" in outcome.stdout
    value = json.loads((tmp_path / "v.json").read_text())
    assert [validated["judge"] for validated in value["judges"]] == ["relevance", "rubric"]
    assert value["pairs"] == 12
