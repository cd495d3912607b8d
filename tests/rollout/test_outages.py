"""A server that goes away in the middle: nothing of it is written down, and the same call does the rest."""

from __future__ import annotations

import pytest

from simgym.assistants import AssistantTurn, LanguageModelAssistant
from simgym.errors import ServerUnavailable, UnknownName
from simgym.evaluation import MatrixRun
from simgym.evaluation.matrix import make_env
from simgym.evaluation.rescore import rescore
from simgym.faults import Fault, FaultKind
from simgym.judges import Judgement
from simgym.rollout import RunSettings, collect, outages
from simgym.transcripts import TranscriptWriter, read_transcripts

COLUMN = "UserSim-RolePlayOpening-v0"
OPTIONS = {"model": "scripted:seed", "judge": "relevance", "judge_model": "scripted:x", "max_turns": 2}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(outages, "WAITS", (0.01, 0.01))


class Served(LanguageModelAssistant):
    """An assistant behind a server that is away during some calls, numbered from 0."""

    def __init__(self, away):
        super().__init__("scripted:seed")
        self.away, self.calls = away, 0

    def check(self):
        if self.away(self.calls):
            raise ServerUnavailable("server: no connection to localhost:1. 4 of 6 conversations are finished and kept.")

    def respond(self, conversations, *, seeds):
        self.calls += 1
        if self.away(self.calls - 1):
            return [AssistantTurn("", "server: no connection to localhost:1 (tried 5 times).") for _ in conversations]
        return super().respond(conversations, seeds=seeds)


def hashes(transcripts):
    return [transcript.content_hash() for transcript in transcripts]


def test_a_short_outage_changes_nothing(scenarios, tmp_path):
    straight = collect(Served(lambda call: False), make_env(COLUMN, scenarios, OPTIONS))
    shaky = Served(lambda call: call in (1, 3))
    path = tmp_path / "talks.jsonl"
    assert hashes(collect(shaky, make_env(COLUMN, scenarios, OPTIONS), path=path, batch_size=3)) == hashes(straight)
    assert len(path.read_text().splitlines()) == len(scenarios)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_long_one_ends_the_run_without_a_stored_fault_and_the_same_call_goes_on(scenarios, tmp_path, asynchronous):
    path, env = tmp_path / "talks.jsonl", make_env(COLUMN, scenarios, OPTIONS)
    options = {"path": path, "batch_size": 2, "asynchronous": asynchronous}
    with pytest.raises(ServerUnavailable, match=r"no connection.*of 6 conversations are finished and kept"):
        collect(Served(lambda call: call >= 4), env, **options)
    kept = list(read_transcripts(path))
    assert 0 < len(kept) < len(scenarios)
    assert all(transcript.counts for transcript in kept)
    again = collect(Served(lambda call: False), env, **options)
    assert hashes(again) == hashes(collect(Served(lambda call: False), env))


def test_a_server_that_is_away_from_the_start_leaves_nothing(scenarios, tmp_path):
    with pytest.raises(ServerUnavailable, match="0 of 6"):
        collect(Served(lambda call: True), make_env(COLUMN, scenarios, OPTIONS), path=tmp_path / "new" / "talks.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_outages_that_older_versions_stored_are_run_again_and_other_faults_when_asked(scenarios, tmp_path):
    class Wordless(LanguageModelAssistant):
        def respond(self, conversations, *, seeds):
            faults = ["server: no connection", "empty", None, None, None, None]
            return [
                turn if fault is None else AssistantTurn("", fault)
                for turn, fault in zip(super().respond(conversations, seeds=seeds), faults, strict=False)
            ]

    env, path = make_env(COLUMN, scenarios, OPTIONS), tmp_path / "talks.jsonl"
    assistant = LanguageModelAssistant("scripted:seed")
    straight = collect(assistant, env)
    with TranscriptWriter(path) as writer:  # as simgym used to write them
        from dataclasses import replace

        for number, transcript in enumerate(straight):
            fault = {0: "server: no connection", 1: "empty"}.get(number)
            lost = replace(transcript, end_reason="assistant_fault", fault=fault, reward=None)
            writer.append(transcript if fault is None else lost)
    again = collect(assistant, env, path=path)
    assert [transcript.fault for transcript in again] == [None, Fault(FaultKind.EMPTY), None, None, None, None]
    assert hashes(collect(assistant, env, path=path, retried_faults=["empty"])) == hashes(straight)
    assert {stored.content_hash() for stored in read_transcripts(path)} == set(hashes(straight))
    with pytest.raises(UnknownName, match="Did you mean 'empty'"):
        collect(assistant, env, path=path, retried_faults=["emty"])


def test_one_request_that_a_living_server_cannot_answer_does_not_end_a_run(scenarios, tmp_path):
    class Poisoned(LanguageModelAssistant):
        def respond(self, conversations, *, seeds):
            return [
                AssistantTurn("", "server: 500") if "bread" in conversation.messages[0].content else turn
                for conversation, turn in zip(conversations, super().respond(conversations, seeds=seeds), strict=True)
            ]

    path, env = tmp_path / "talks.jsonl", make_env(COLUMN, scenarios, OPTIONS)
    talks = collect(Poisoned("scripted:seed"), env, path=path, batch_size=3)
    assert [talk.fault for talk in talks] == [None, None, None, Fault(FaultKind.SERVER, "500"), None, None]
    with pytest.raises(ServerUnavailable):  # and nothing else tells that the server is there
        collect(Poisoned("scripted:seed"), make_env(COLUMN, scenarios[3:4], OPTIONS))


def test_a_matrix_and_new_judgements_pause_likewise(scenarios, tmp_path):
    evaluate = {"scenarios": scenarios, "folder": tmp_path / "m", "env_options": OPTIONS}
    with pytest.raises(ServerUnavailable):
        MatrixRun({"a": Served(lambda call: call >= 4)}, [COLUMN], **evaluate).run(RunSettings(batch_size=2))
    matrix = MatrixRun({"a": Served(lambda call: False)}, [COLUMN], **evaluate).run(RunSettings(batch_size=2))
    assert matrix.cells[0].counted == 6
    source = next((tmp_path / "m" / "transcripts").glob("*.jsonl"))

    class Judge:
        away = True

        def judge(self, scenarios, conversations, *, seeds):
            fault = "timeout: no answer" if self.away else None
            return [Judgement(None if fault else 0.5, fault=fault) for _ in scenarios]

        def fingerprint(self):
            return {"kind": "test"}

    judge = Judge()
    with pytest.raises(ServerUnavailable, match="0 of 6 judgements"):
        rescore(source, judge, tmp_path / "new.jsonl")
    assert not (tmp_path / "new.jsonl").exists()
    judge.away = False
    assert [transcript.reward for transcript in rescore(source, judge, tmp_path / "new.jsonl")] == [0.5] * 6
