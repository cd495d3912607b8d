from __future__ import annotations

import os
import signal
import socket
import time
from dataclasses import replace

import pytest

import simgym  # noqa: F401  # registers the environments
from simgym.assistants import LanguageModelAssistant
from simgym.errors import BudgetReached, ConfigurationError
from simgym.evaluation import MatrixRun
from simgym.evaluation.matrix import make_env
from simgym.language_models import SamplingParams
from simgym.rollout import Budget, Job, RunSettings, collect_jobs, ray_collect_jobs

ray = pytest.importorskip("ray", reason="needs the extra `ray`")

GREEDY = SamplingParams(temperature=0, max_new_tokens=6)
TWO_AT_A_TIME = RunSettings(batch_size=2)
OPTIONS = {"judge": "relevance", "judge_model": "scripted:echo", "max_turns": 2, "model": "scripted:seed"}
COLUMNS = ["UserSim-Replay-v0", "UserSim-RolePlayOpening-v0"]


def timeless(transcript):
    return replace(transcript, seconds=None, role_seconds={}).to_json()


def test_two_nodes_give_byte_for_byte_what_this_process_gives(cluster, scenarios, tiny_model, tmp_path):
    assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    assistants = {
        "model": LanguageModelAssistant(tiny_model, sampling=GREEDY),
        "script": LanguageModelAssistant("scripted:seed"),
    }
    options = {"env_options": OPTIONS, "seed": 3}
    here = MatrixRun(assistants, COLUMNS, scenarios, folder=tmp_path / "here", **options).run(TWO_AT_A_TIME)
    there = MatrixRun(assistants, COLUMNS, scenarios, folder=tmp_path / "there", **options).run(
        TWO_AT_A_TIME, collector=ray_collect_jobs
    )
    for cell, of_cell in here.transcripts.items():
        assert [timeless(transcript) for transcript in there.transcripts[cell]] == [
            timeless(transcript) for transcript in of_cell
        ]
    assert here.plan_hash == there.plan_hash


class KillsItsWorkerOnce:
    """Answers, but takes its process down the first time that it is asked on a cluster."""

    def __init__(self, mark, word):
        self.mark, self.word = str(mark), word

    def respond(self, conversations, *, seeds):
        from simgym.assistants import AssistantTurn

        if not os.path.exists(self.mark):
            with open(self.mark, "w"):
                pass
            os.kill(os.getpid(), signal.SIGKILL)
        return [AssistantTurn(f"{self.word} {seed}") for seed in seeds]

    def fingerprint(self):
        return {"word": self.word}


def test_a_batch_whose_worker_is_killed_is_held_again_and_is_the_same(cluster, scenarios, tmp_path):
    import ray.cloudpickle as by_value

    by_value.register_pickle_by_value(__import__("sys").modules[__name__])
    mark = tmp_path / "killed"
    env = make_env(COLUMNS[0], scenarios, OPTIONS)
    jobs = [Job(assistant=KillsItsWorkerOnce(mark, "yes"), env=env, path=tmp_path / "there.jsonl", seed=3)]
    (there,) = ray_collect_jobs(jobs, TWO_AT_A_TIME)
    assert mark.exists()
    (here,) = collect_jobs([replace(jobs[0], path=tmp_path / "here.jsonl")], TWO_AT_A_TIME)
    assert [timeless(transcript) for transcript in there] == [timeless(transcript) for transcript in here]


class TellsItsProcess:
    """Answers with the number of its process once two of them have been asked."""

    def __init__(self, folder):
        self.folder = folder

    def respond(self, conversations, *, seeds):
        from simgym.assistants import AssistantTurn

        (self.folder / str(os.getpid())).touch()
        deadline = time.monotonic() + 120
        while len(list(self.folder.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        return [AssistantTurn(str(os.getpid())) for _ in seeds]

    def fingerprint(self):
        return {"assistant": "process"}


def test_a_worker_with_a_gpu_is_one_process_for_the_whole_job(cluster, scenarios, tmp_path):
    """Ray ends the process of a GPU task after each one, and the models loaded in it with it."""
    import ray.cloudpickle as by_value

    by_value.register_pickle_by_value(__import__("sys").modules[__name__])
    (tmp_path / "processes").mkdir()
    assistant = TellsItsProcess(tmp_path / "processes")
    jobs = [
        Job(assistant=assistant, env=make_env(name, scenarios, OPTIONS), path=tmp_path / f"{name}.jsonl")
        for name in COLUMNS
    ]
    collected = ray_collect_jobs(jobs, RunSettings(batch_size=1), resources={"num_cpus": 1, "num_gpus": 1})
    transcripts = [transcript for job in collected for transcript in job]
    assert len(transcripts) == 12
    processes = {said for transcript in transcripts for said in transcript.conversation.said_by("assistant")}
    assert len(processes) == 2  # the cluster has room for two
    assert str(os.getpid()) not in processes


def test_no_cluster_at_the_address_is_a_sentence_at_once(monkeypatch, scenarios, tmp_path):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    jobs = [
        Job(
            assistant=LanguageModelAssistant("scripted:seed"),
            env=make_env(COLUMNS[0], scenarios, OPTIONS),
            path=tmp_path / "x",
        )
    ]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: refused
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match=f"no Ray cluster at '{address}'"):
            ray_collect_jobs(jobs, address=address)


def test_what_was_begun_is_kept_when_a_budget_ends_the_run(cluster, scenarios, tmp_path):
    env = make_env(COLUMNS[0], scenarios, OPTIONS)
    jobs = [Job(assistant=LanguageModelAssistant("scripted:seed"), env=env, path=tmp_path / "some.jsonl")]
    with pytest.raises(BudgetReached):
        ray_collect_jobs(jobs, RunSettings(batch_size=1, budget=Budget(max_tokens=1)))
    assert 1 <= len((tmp_path / "some.jsonl").read_text().splitlines()) < len(scenarios)
    (all_of_them,) = ray_collect_jobs(jobs, RunSettings(batch_size=1))
    assert len(all_of_them) == len(scenarios)
