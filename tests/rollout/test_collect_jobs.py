"""Several jobs at once: the same conversations as one after the other, in files of their own."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from dataclasses import replace

import gymnasium as gym
import pytest

from simgym.assistants import AssistantTurn, LanguageModelAssistant
from simgym.errors import BudgetReached, ConfigurationError
from simgym.language_models import SamplingParams
from simgym.rollout import Budget, Job, RunSettings, collect_jobs
from simgym.transcripts import read_transcripts

TOGETHER = RunSettings(asynchronous=True)


def make(scenarios, **options):
    settings = {"judge": "relevance", "judge_model": "scripted:echo", "max_turns": 2, **options}
    return gym.make(settings.pop("env_id", "UserSim-Replay-v0"), scenarios=scenarios, **settings)


def hashes(jobs):
    return [[transcript.content_hash() for transcript in job] for job in jobs]


def open_files():
    """Where /proc says what a process has open; other threads close theirs meanwhile."""
    for name in os.listdir("/proc/self/fd") if sys.platform == "linux" else []:
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(f"/proc/self/fd/{name}")


@pytest.fixture
def jobs(scenarios, tmp_path):
    assistants = [LanguageModelAssistant(f"scripted:{word}") for word in ("seed", "echo", "clarify")]
    return [
        Job(assistant=assistant, env=make(scenarios[:2]), path=tmp_path / "cells" / f"{number}.jsonl", seed=1)
        for number, assistant in enumerate(assistants * 4)
    ]


def test_conversations_of_several_jobs_in_one_batch_are_the_same(scenarios, tiny_model, tmp_path):
    options = {"env_id": "UserSim-FineTuned-v0", "model": tiny_model, "simulator_options": {"max_new_tokens": 8}}
    assistants = [LanguageModelAssistant(tiny_model, sampling=SamplingParams(max_new_tokens=n)) for n in (5, 8)]
    told = []

    def cells(folder):
        return [
            Job(
                assistant=assistant,
                env=make(scenarios[:3], **options),
                path=tmp_path / folder / f"{number}.jsonl",
                progress=told.append,
                seed=3,
            )
            for number, assistant in enumerate(assistants)
        ]

    one_by_one = collect_jobs(cells("one"))
    told.clear()
    together = collect_jobs(cells("together"), TOGETHER)
    assert hashes(together) == hashes(one_by_one)
    assert len(told) == 6
    for number, expected in enumerate(hashes(one_by_one)):
        stored = [each.content_hash() for each in read_transcripts(tmp_path / "together" / f"{number}.jsonl")]
        assert sorted(stored) == sorted(expected)


def test_a_batch_is_filled_from_the_next_jobs_and_few_files_are_open(scenarios, tmp_path):
    meeting, most_files, turns = threading.Barrier(4), [], []

    class Meets:
        def respond(self, conversations, *, seeds):
            if all(len(conversation.messages) <= 1 for conversation in conversations):
                turns.append(1)
                if len(turns) <= 4:  # four conversations of two jobs: nobody begins alone
                    meeting.wait(120)
            most_files.append(len({name for name in open_files() if name.startswith(str(tmp_path))}))
            return [AssistantTurn("well then") for _ in conversations]

        def fingerprint(self):
            return {"assistant": "meets"}

    cells = [Job(assistant=Meets(), env=make(scenarios[:2]), path=tmp_path / f"{number}.jsonl") for number in range(20)]
    transcripts = collect_jobs(cells, replace(TOGETHER, batch_size=4))
    assert [len(job) for job in transcripts] == [2] * 20
    if sys.platform == "linux":
        assert max(most_files) <= 2 * 5  # a file and its lock


def test_a_budget_ends_all_jobs_and_the_same_call_goes_on(jobs):
    whole = hashes(collect_jobs(jobs, TOGETHER))
    for job in jobs:
        job.path.unlink()
    budget = Budget(max_tokens=200)
    with pytest.raises(BudgetReached):
        collect_jobs(jobs, replace(TOGETHER, batch_size=3, budget=budget))
    kept = sum(1 for job in jobs if job.path.exists() for _ in read_transcripts(job.path))
    assert 0 < kept < 24
    assert hashes(collect_jobs(jobs, replace(TOGETHER, batch_size=3))) == whole


def test_a_file_of_another_run_ends_all_jobs(jobs):
    collect_jobs(jobs[:1])
    jobs[5].path.write_bytes(jobs[0].path.read_bytes())
    with pytest.raises(ConfigurationError, match=r"5\.jsonl was written with another assistant"):
        collect_jobs(jobs, TOGETHER)
