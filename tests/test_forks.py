"""Forked children: what another thread of the parent held, or was about to finish, does not stop them.

Sources: pytorch#41197 and pytorch#2245 (OpenMP after a fork), stable-baselines#428 (environments in forked workers).
"""

from __future__ import annotations

import os
import signal
import threading

import pytest
from warm_python import run_warm

from simgym import _forks
from simgym.conversation import Message
from simgym.errors import ConfigurationError
from simgym.language_models import OpenAILM, Request, SamplingParams

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
BUSY = """
import os, signal, sys, threading
from simgym.conversation import Message
from simgym.language_models import Request, SamplingParams, TransformersLM
model = TransformersLM(sys.argv[1])
def request(number, length):
    return Request(messages=(Message("user", "hello"),), next_role="assistant",
                   sampling=SamplingParams(max_new_tokens=length), seed=number)
first = model.generate([request(0, 4)])[0].text
begun = threading.Event()
def keep_busy():
    for number in range(10000):
        begun.set()
        model.generate([request(number, 400)])
threading.Thread(target=keep_busy, daemon=True).start()
begun.wait()
while not model._calls:
    pass
child = os.fork()
if child == 0:
    signal.alarm(100)
    os._exit(0 if model.generate([request(0, 4)])[0].text == first else 3)
status = os.waitpid(child, 0)[1]
print(status, flush=True)
os._exit(0)
"""


WORKERS = """
import sys
import gymnasium as gym
import simgym
settings = {"model": sys.argv[1], "judge": "relevance", "judge_model": sys.argv[1], "max_turns": 1,
            "simulator_options": {"max_new_tokens": 4, "max_attempts": 1}}
env = gym.make("UserSim-RolePlayOpening-v0", **settings)
env.reset(seed=1)
alone = env.step("Hello there.")[1]
workers = gym.make_vec("UserSim-RolePlayOpening-v0", num_envs=2, vectorization_mode="async", **settings)
workers.reset(seed=[1, 1])
workers.step_async(("Hello there.",) * 2)
_, rewards, terminated, _, _ = workers.step_wait(timeout=150)
assert terminated.all() and abs(rewards - alone).max() < 1e-6, (rewards, alone)
workers.close(terminate=True)
print("done")
"""


SUBPROC = """
import sys
import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import SubprocVecEnv
import simgym
from simgym.assistants.action_sets import Strategies
from simgym.envs.features import ConversationFeatures, DiscreteReplies, EmbeddingObservation
from simgym.language_models import SamplingParams, TransformersLM
model = TransformersLM(sys.argv[1])
replies = Strategies(model, names=("brief", "steps"), sampling=SamplingParams(max_new_tokens=4))
features = ConversationFeatures(model, layer=1, max_turns=1)
def make():
    env = gym.make("UserSim-Replay-v0", judge="relevance", judge_model=model, max_turns=1)
    return EmbeddingObservation(DiscreteReplies(env, replies), features)
env = make()
before, _ = env.reset(seed=1)
_, alone, _, _, _ = env.step(1)
workers = SubprocVecEnv([make, make], start_method="fork")
workers.seed(1)
seen = workers.reset()
assert np.allclose(seen[0], before, atol=1e-4)
_, rewards, dones, _ = workers.step([1, 1])
assert dones.all() and abs(rewards[0] - alone) < 1e-6, (rewards, alone)
workers.close()
print("done")
"""
LOADER = """
import sys
from torch.utils.data import DataLoader, Dataset
from simgym.conversation import Message
from simgym.language_models import Request, SamplingParams, TransformersLM
model = TransformersLM(sys.argv[1])
def reply(number):
    request = Request((Message("user", f"hello {number}"),), SamplingParams(max_new_tokens=4), seed=number)
    return model.generate([request])[0].text
class Replies(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, number):
        return reply(number)
here = [reply(number) for number in range(4)]
workers = DataLoader(Replies(), batch_size=1, num_workers=2, multiprocessing_context="fork", timeout=150)
assert [text for batch in workers for text in batch] == here
print("done")
"""


def status_of_child(work):
    """Exit status of a forked child that does some work within 20 s, while a thread here holds what it holds."""
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


class held:
    """A thread holds a lock for the length of the block."""

    def __init__(self, lock):
        self.lock, self.taken, self.done = lock, threading.Event(), threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.hold)
        self.thread.start()
        self.taken.wait()

    def hold(self):
        with self.lock:
            self.taken.set()
            self.done.wait()

    def __exit__(self, *exception):
        self.done.set()
        self.thread.join()


def test_a_lock_of_another_thread_is_free_in_a_child_and_held_in_the_parent():
    lock = _forks.ForkSafeLock()
    with held(lock):
        assert status_of_child(lock.__enter__) == 0
        assert not lock._lock.acquire(blocking=False)


def test_a_user_turn_of_a_served_model_is_composed_in_a_child_whatever_the_parent_holds(tiny_model):
    model = OpenAILM("m", base_url="http://127.0.0.1:9/v1", tokenizer=tiny_model, max_retries=0)
    ask = Request((Message("assistant", "Hello."),), SamplingParams(max_new_tokens=4), seed=1, next_role="user")
    with held(model._lock):
        assert status_of_child(lambda: model._compose(ask)) == 0


def test_a_model_that_another_thread_was_using_answers_the_same_in_a_child(tiny_model):
    outcome = run_warm(["-c", BUSY, tiny_model])
    assert outcome.stdout.strip() == "0", outcome.stderr[-2000:]


@pytest.mark.daily
@pytest.mark.parametrize(("package", "script"), [("stable_baselines3", SUBPROC), ("torch", LOADER)])
def test_forked_workers_of_other_libraries_answer_as_the_parent_that_used_the_model(tiny_model, package, script):
    pytest.importorskip(package)
    outcome = run_warm(["-c", script, tiny_model])
    assert outcome.stdout.strip().endswith("done"), outcome.stderr[-2000:]


def test_gymnasiums_forked_workers_answer_as_the_parent_that_used_the_model(tiny_model):
    outcome = run_warm(["-c", WORKERS, tiny_model])
    assert outcome.stdout.strip() == "done", outcome.stderr[-2000:]


def test_a_gpu_in_a_forked_child_is_refused_in_a_sentence(monkeypatch):
    torch = pytest.importorskip("torch")
    from simgym.language_models import threads

    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    threads.check_fork("auto")
    monkeypatch.setattr(threads, "_forked", True)
    threads.check_fork("cpu")
    with pytest.raises(ConfigurationError, match="context': 'spawn'"):
        threads.check_fork("auto")
