from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from simgym.cli.main import app
from simgym.conversation import INTENT_PREFIX, Conversation, Scenario
from simgym.errors import ConfigurationError
from simgym.evaluation.rescore import rescore
from simgym.judges import Judgement
from simgym.transcripts import ModelCall, Transcript, TranscriptWriter, read_transcripts

TALK = Conversation().add("user", "hi").add("assistant", "hello")


class Fixed:
    """Gives a value to everything, or fails; counts what it is asked."""

    def __init__(self, value, version=1):
        self.value, self.version, self.asked = value, version, []

    def judge(self, scenarios, conversations, *, seeds):
        self.asked += [scenario.id for scenario in scenarios]
        call = ModelCall(role="judge", turn=1, seed=0, prompt="new", output="new", prompt_tokens=1, completion_tokens=1)
        judgement = Judgement(
            self.value, reasons=("new",), fault=None if self.value is not None else "refused: no", calls=(call,)
        )
        return [judgement] * len(scenarios)

    def fingerprint(self):
        return {"judge": "fixed", "version": self.version}


@pytest.fixture
def source(tmp_path):
    def made(n, end, reward, **changes):
        calls = tuple(
            ModelCall(role=role, turn=1, seed=0, prompt="old", output="old", prompt_tokens=1, completion_tokens=1)
            for role in ("user", "judge")
        )
        prints = {"judge": {"judge": "old"}, "env": {"max_turns": 1 if n % 2 else 5}}
        scenario = Scenario(f"s{n}", f"{INTENT_PREFIX}x", opening="hi")
        return Transcript(
            env_id="UserSim-Replay-v0", scenario=scenario, seed=n, conversation=TALK, end_reason=end, reward=reward,
            fingerprints=prints, calls=calls, **changes,
        )  # fmt: skip

    path = tmp_path / "old.jsonl"
    with TranscriptWriter(path) as writer:
        writer.append(made(0, "user_end", 0.2))
        writer.append(made(1, "judge_fault", None, fault="unparsable"))
        writer.append(made(2, "judge_fault", None, fault="unparsable"))
        writer.append(made(3, "simulator_fault", None, fault="empty"))
        writer.append(made(4, "turn_limit", 0.4))
    return path


def test_a_user_who_left_before_the_last_turn_has_left_whatever_the_judge_says(source, tmp_path):
    transcripts = [replace(transcript, leaving=True) for transcript in read_transcripts(source)]
    with TranscriptWriter(tmp_path / "left.jsonl") as writer:
        writer.append(transcripts[1])
    judged = rescore(tmp_path / "left.jsonl", Fixed(0.9), tmp_path / "new.jsonl")
    assert [(transcript.end_reason, transcript.leaving) for transcript in judged] == [("user_end", True)]


def test_conversations_are_judged_again_and_nothing_else_changes(source, tmp_path):
    judge = Fixed(0.9)
    rescored = rescore(source, judge, tmp_path / "new.jsonl", batch_size=2)
    assert judge.asked == ["s0", "s1", "s2", "s4"]
    assert [transcript.reward for transcript in rescored] == [0.9, 0.9, 0.9, None, 0.9]
    assert [transcript.end_reason for transcript in rescored] == [
        "user_end",
        "turn_limit",
        "user_end",
        "simulator_fault",
        "turn_limit",
    ]
    assert [call.output for call in rescored[0].calls] == ["old", "new"]
    assert all(transcript.fingerprints["judge"]["version"] == 1 for transcript in rescored)
    assert [transcript.conversation for transcript in rescored] == [TALK] * 5
    assert list(read_transcripts(tmp_path / "new.jsonl")) == rescored


def test_a_second_run_judges_only_what_is_missing(source, tmp_path):
    first = Fixed(0.9)
    rescored = rescore(source, first, tmp_path / "new.jsonl")
    lines = (tmp_path / "new.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "new.jsonl").write_text("".join(lines[:2]) + lines[2][:30])
    second = Fixed(0.9)
    assert rescore(source, second, tmp_path / "new.jsonl") == rescored
    assert second.asked == ["s2", "s4"]
    third = Fixed(0.9)
    rescore(tmp_path / "new.jsonl", third, tmp_path / "same.jsonl")
    assert third.asked == []
    with pytest.raises(ConfigurationError, match="another judge"):
        rescore(source, Fixed(0.9, version=2), tmp_path / "new.jsonl")
    with pytest.raises(ConfigurationError, match="overwrite itself"):
        rescore(source, Fixed(0.9), source)


def test_two_runs_are_not_mixed(source, tmp_path):
    rescore(source, Fixed(0.9), tmp_path / "new.jsonl")
    other = tmp_path / "other.jsonl"
    with TranscriptWriter(other) as writer:
        for transcript in read_transcripts(source):
            writer.append(replace(transcript, conversation=TALK.add("user", "and?")))
    with pytest.raises(ConfigurationError, match="other conversations"):
        rescore(other, Fixed(0.9), tmp_path / "new.jsonl")
    other.write_text(source.read_text() + other.read_text())
    with pytest.raises(ConfigurationError, match="Two runs were mixed"):
        rescore(other, Fixed(0.9), tmp_path / "both.jsonl")


def test_what_the_judge_failed_on_is_judged_again(source, tmp_path):
    rescore(source, Fixed(None), tmp_path / "new.jsonl")
    second = Fixed(0.5)
    rescored = rescore(source, second, tmp_path / "new.jsonl")
    assert second.asked == ["s0", "s1", "s2", "s4"]
    assert [transcript.reward for transcript in rescored] == [0.5, 0.5, 0.5, None, 0.5]
    assert len(list(read_transcripts(tmp_path / "new.jsonl"))) == 5


def test_a_judge_that_fails_is_marked(source, tmp_path):
    rescored = rescore(source, Fixed(None), tmp_path / "new.jsonl")
    assert {transcript.end_reason for transcript in rescored} == {"judge_fault", "simulator_fault"}
    assert all(transcript.reward is None for transcript in rescored)
    assert str(rescored[0].fault) == "refused: no"


def test_the_command_says_what_changed(source, tmp_path):
    words = [
        "rescore",
        str(source),
        "-o",
        str(tmp_path / "new.jsonl"),
        "--judge",
        "relevance",
        "--judge-model",
        "scripted:x",
    ]
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 0, outcome.output
    assert "mean reward x 100" in outcome.stdout
    assert "simulator_fault" in outcome.stdout
    assert replace(next(iter(read_transcripts(tmp_path / "new.jsonl"))), reward=None).scenario.id == "s0"
