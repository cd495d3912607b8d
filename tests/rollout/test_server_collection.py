"""Asynchronous collection against a server: hundreds of conversations in few threads, and each goes on by itself."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

import gymnasium as gym
import pytest
from server_collection import scenario
from simulated_server import Latency, ServerConfig, simulated_server

from simgym import _fibers
from simgym.assistants import LanguageModelAssistant
from simgym.language_models import OpenAILM
from simgym.rollout import collect
from simgym.rollout._conversing import THREADS


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def parts(url, count):
    model = OpenAILM("m", base_url=url, max_concurrency=200)
    env = gym.make(
        "UserSim-RolePlayOpening-v0",
        model=model,
        judge="rubric",
        judge_model=model,
        scenarios=[scenario(number) for number in range(count)],
        max_turns=2,
    )
    return model, LanguageModelAssistant(model), env


def fast(sigma):
    return ServerConfig(dict.fromkeys(("assistant", "user", "judge"), Latency(0.4, sigma)), failures=0.01)


def test_a_hundred_conversations_at_once_are_those_of_a_run_in_step_and_need_few_threads():
    with simulated_server(fast(0.6)) as (url, log):
        model, assistant, env = parts(url, 100)
        in_step = collect(assistant, env, batch_size=100)
        most, before = [], threading.active_count()
        together = collect(
            assistant,
            env,
            batch_size=100,
            asynchronous=True,
            progress=lambda _: most.append(threading.active_count() - before),
        )
        model.close()
    assert [talk.content_hash() for talk in together] == [talk.content_hash() for talk in in_step]
    assert all(talk.counts for talk in together)
    assert max(most) <= THREADS + 1  # the model's own connection
    running, most_running = 0, 0
    for _, change in sorted(
        event for request in log.served[-400:] for event in [(request.began, 1), (request.began + request.seconds, -1)]
    ):
        running += change
        most_running = max(most_running, running)
    assert most_running > THREADS  # more requests in flight than there are threads


def test_a_conversation_goes_on_as_soon_as_its_own_reply_is_there():
    with simulated_server(fast(0.8)) as (url, log):
        model, assistant, env = parts(url, 80)
        collect(assistant, env, batch_size=80, asynchronous=True)
        model.close()
    first = [request for request in log.served if request.role == "assistant"]
    judged = [request for request in log.served if request.role == "judge"]
    slowest = max(request.began + request.seconds for request in first)
    assert min(request.began for request in judged) < slowest / 2  # judged while others wait for their first answers


def test_tasks_that_wait_let_others_of_their_thread_go_on():
    said, open_gate, threads = [], Future(), set()

    def waits():
        said.append("begins")
        said.append(_fibers.result(open_gate))
        threads.add(threading.get_ident())

    def opens():
        said.append("opens")
        assert not _fibers.pause(threading.Event(), 0.05)
        open_gate.set_result("goes on")
        threads.add(threading.get_ident())

    _fibers.run_tasks(iter([waits, opens]), 2)
    assert said == ["begins", "opens", "goes on"]
    assert threads == {threading.get_ident()}
    assert _fibers.result(open_gate) == "goes on"  # outside of a task it simply waits


def test_after_an_error_no_task_begins_and_those_that_have_begun_end():
    said, gate = [], Future()

    def fails():
        threading.Timer(0.05, gate.set_result, [None]).start()
        raise ValueError("broken")

    def waits():
        _fibers.result(gate)
        said.append("ended")

    with pytest.raises(ValueError, match="broken"):
        _fibers.run_tasks(iter([waits, fails, lambda: said.append("never")]), 2)
    assert said == ["ended"]


def test_a_pause_ends_when_the_run_is_stopped():
    stopping, began = threading.Event(), time.monotonic()
    _fibers.run_tasks(iter([lambda: _fibers.pause(stopping, 60), stopping.set]), 2)
    assert time.monotonic() - began < 10
