from __future__ import annotations

import errno
import os
import signal
import threading
import time

import gymnasium as gym
import pytest

import simgym  # noqa: F401  # registers the environments
from simgym.assistants import AssistantTurn, LanguageModelAssistant
from simgym.errors import BudgetReached, ConfigurationError, TranscriptError
from simgym.language_models import SamplingParams
from simgym.rollout import Budget, collect, count_exclusions
from simgym.transcripts import read_transcripts

FEW = SamplingParams(max_new_tokens=8)


def make(scenarios, env_id="UserSim-Replay-v0", **options):
    return gym.make(
        env_id,
        **{"scenarios": scenarios, "judge": "relevance", "judge_model": "scripted:echo", "max_turns": 2, **options},
    )


def hashes(transcripts):
    return [transcript.content_hash() for transcript in transcripts]


def test_every_scenario_is_held_once_in_order_and_further_rounds_have_other_seeds(scenarios):
    assistant = LanguageModelAssistant("scripted:well then")
    once = collect(assistant, make(scenarios))
    assert [transcript.scenario.id for transcript in once] == [scenario.id for scenario in scenarios]
    assert {transcript.end_reason for transcript in once} == {"turn_limit"}
    assert all(transcript.counts for transcript in once)
    more = collect(assistant, make(scenarios), n=8)
    assert hashes(more[:6]) == hashes(once)
    assert more[6].scenario.id == "s0"
    assert more[6].seed != more[0].seed


def test_batch_size_and_a_vector_environment_change_nothing(scenarios, tiny_model):
    assistant = LanguageModelAssistant(tiny_model, sampling=FEW)
    options = {"env_id": "UserSim-FineTuned-v0", "model": tiny_model, "simulator_options": {"max_new_tokens": 8}}
    alone = collect(assistant, make(scenarios, **options), seed=3, batch_size=1)
    together = collect(assistant, make(scenarios, **options), seed=3, batch_size=6)
    assert hashes(alone) == hashes(together)
    options.pop("env_id")
    vector = gym.make_vec("UserSim-FineTuned-v0", num_envs=2, scenarios=scenarios, judge="relevance",
                          judge_model="scripted:echo", max_turns=2, vectorization_mode="vector_entry_point",
                          **options)  # fmt: skip
    assert hashes(collect(assistant, vector, seed=3)) == hashes(alone)


def test_asynchronous_conversations_are_the_same(scenarios, tiny_model, tmp_path):
    assistant = LanguageModelAssistant(tiny_model, sampling=FEW)
    options = {"env_id": "UserSim-FineTuned-v0", "model": tiny_model, "simulator_options": {"max_new_tokens": 8}}
    in_step = collect(assistant, make(scenarios, **options), seed=3)
    free = collect(assistant, make(scenarios, **options), seed=3, asynchronous=True, path=tmp_path / "free.jsonl")
    assert hashes(free) == hashes(in_step)
    assert sorted(hashes(read_transcripts(tmp_path / "free.jsonl"))) == sorted(hashes(in_step))


class WaitsForTheOthers:
    """The first scenario's turns come when all other conversations have ended."""

    def __init__(self):
        self.ended = []
        self.others_ended = threading.Event()

    def note(self, transcript):
        self.ended.append(transcript.scenario.id)
        if len(self.ended) == 5:
            self.others_ended.set()

    def respond(self, conversations, *, seeds):
        if any("Porto" in conversation.messages[0].content for conversation in conversations):
            assert self.others_ended.wait(30)
        return [AssistantTurn("well then") for _ in conversations]

    def fingerprint(self):
        return {"assistant": "slow"}


def test_a_slow_conversation_holds_up_no_asynchronous_one(scenarios):
    slow = WaitsForTheOthers()
    transcripts = collect(slow, make(scenarios), asynchronous=True, batch_size=2, progress=slow.note)
    assert slow.ended[-1] == "s0"
    assert [transcript.scenario.id for transcript in transcripts] == [scenario.id for scenario in scenarios]


def test_an_interrupt_does_not_wait_for_asynchronous_conversations_to_end(scenarios):
    turns = []

    class Interrupted(WaitsForTheOthers):
        def respond(self, conversations, *, seeds):
            turns.append(1)
            if len(turns) == 2:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.3)
            return [AssistantTurn("well then") for _ in conversations]

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            collect(Interrupted(), make(scenarios, max_turns=2), asynchronous=True, batch_size=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(turns) <= 3  # both conversations were in their first turn


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_budget_binds_within_one_turn(scenarios, tmp_path, asynchronous):
    assistant, whole = LanguageModelAssistant("scripted:seed"), Budget()
    collect(assistant, make(scenarios, max_turns=8), budget=whole)
    limited = Budget(max_tokens=1)
    options = {"path": tmp_path / "some.jsonl", "batch_size": 99, "asynchronous": asynchronous}
    with pytest.raises(BudgetReached, match=f"limit is {limited.max_tokens:,}"):
        collect(assistant, make(scenarios, max_turns=8), budget=limited, **options)
    assert 1 <= limited.tokens <= 0.6 * whole.tokens  # the first of two turns
    assert list(tmp_path.iterdir()) == []


def test_the_time_of_each_role_is_noted(scenarios):
    (transcripts,) = collect(LanguageModelAssistant("scripted:seed"), make(scenarios[:1]))
    assert set(transcripts.role_seconds) == {"assistant", "user", "judge"}
    assert 0 <= sum(transcripts.role_seconds.values()) <= transcripts.seconds + 0.01


def test_a_killed_run_goes_on_and_ends_with_the_same_transcripts(scenarios, tiny_model, tmp_path):
    assistant = LanguageModelAssistant(tiny_model, sampling=FEW)
    straight = collect(assistant, make(scenarios), path=tmp_path / "straight.jsonl", batch_size=2)

    class Killed(Exception):
        pass

    def stop_after_three(transcript, seen=[]):  # noqa: B006  # counts calls
        seen.append(transcript)
        if len(seen) == 3:
            raise Killed

    path = tmp_path / "resumed.jsonl"
    with pytest.raises(Killed):
        collect(assistant, make(scenarios), path=path, batch_size=2, progress=stop_after_three)
    with path.open("a") as file:
        file.write('{"schema_version": 1, "torn')  # what a kill in the middle of a write leaves
    assert len(list(read_transcripts(path))) == 3
    seen = []
    resumed = collect(assistant, make(scenarios), path=path, batch_size=2, progress=seen.append)
    assert hashes(resumed) == hashes(straight)
    assert len(seen) == 6
    assert sorted(hashes(read_transcripts(path))) == sorted(hashes(straight))


def test_a_file_of_another_run_is_not_mixed_with_this_one(scenarios, tmp_path):
    path = tmp_path / "t.jsonl"
    collect(LanguageModelAssistant("scripted:a"), make(scenarios), path=path)
    with pytest.raises(ConfigurationError, match="another assistant"):
        collect(LanguageModelAssistant("scripted:b"), make(scenarios), path=path)
    with pytest.raises(ConfigurationError, match="another env"):
        collect(LanguageModelAssistant("scripted:a"), make(scenarios, max_turns=1), path=path)


def test_a_transcript_holds_prompts_seeds_tokens_and_fingerprints(scenarios, tiny_model, tmp_path):
    path = tmp_path / "t.jsonl"
    env = make(scenarios, "UserSim-FineTuned-v0", model=tiny_model, simulator_options={"max_new_tokens": 8})
    collect(LanguageModelAssistant(tiny_model, sampling=FEW), env, n=1, path=path)
    transcript = next(read_transcripts(path))
    assert [call.role for call in transcript.calls][:2] == ["assistant", "user"]
    assert transcript.scenario.goal in transcript.calls[1].prompt
    assert transcript.scenario.goal not in transcript.calls[0].prompt
    assert transcript.tokens()["assistant"]["completion"] == 16
    assert transcript.fingerprints["simulator"]["max_new_tokens"] == 8
    assert transcript.fingerprints["assistant"]["model"]["model"] == tiny_model


def test_an_assistant_that_fails_is_counted_and_kept_out_of_means(scenarios):
    class Moody:
        def respond(self, conversations, *, seeds):
            return [
                AssistantTurn("", fault="empty")
                if "Porto" in conversation.messages[0].content
                else AssistantTurn("Yes.")
                for conversation in conversations
            ]

        def fingerprint(self):
            return {"assistant": "moody"}

    transcripts = collect(Moody(), make(scenarios))
    assert (transcripts[0].end_reason, transcripts[0].reward, transcripts[0].counts) == ("assistant_fault", None, False)
    assert count_exclusions(transcripts) == {"assistant_fault: empty": 1}


def test_a_full_disk_is_a_sentence_and_loses_nothing(scenarios, tmp_path, monkeypatch):
    path = tmp_path / "t.jsonl"
    collect(LanguageModelAssistant("scripted:a"), make(scenarios[:2]), path=path)
    before = path.read_bytes()
    real = os.fsync

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TranscriptError, match=r"No space left.*intact"):
        collect(LanguageModelAssistant("scripted:a"), make(scenarios), path=path)
    monkeypatch.setattr("os.fsync", real)
    assert path.read_bytes() == before
    assert len(collect(LanguageModelAssistant("scripted:a"), make(scenarios), path=path)) == 6
