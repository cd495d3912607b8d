"""The rollout worker for TRL's asynchronous GRPO, against a policy server that is scripted, and TRL's own buffer."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

pytest.importorskip("trl", reason="the extra simgym[train] is not installed")

from transformers import AutoTokenizer
from trl.experimental.async_grpo.async_grpo_trainer import (
    DataCollatorForRollout,
    RolloutQueueDataset,
    TokenBudgetBatcher,
)

from simgym.integrations.trl_async import SimulatedUserWorker
from simgym.judges import Judgement


class Policy(ThreadingHTTPServer):
    """Writes tokens drawn by the request's seed; fails while `away`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, tokenizer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.tokenizer, self.bodies, self.away, self.slow = tokenizer, [], False, 0.0

    def reply(self, body):
        draw = random.Random(body["seed"])
        text = "".join(draw.choice("abcdefgh ") for _ in range(6)) + "z"
        ids = [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
        logprobs = [-0.1 * (place + 1) for place in range(len(ids))]
        return {"text": text, "token_ids": ids, "logprobs": {"token_logprobs": logprobs}, "finish_reason": "stop"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        time.sleep(self.server.slow)
        status = 503 if self.server.away else 200
        data = json.dumps({"choices": [self.server.reply(body)]} if status == 200 else {"error": "away"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        return


class Judge:
    """Scores by the length of what was said; has no judgement of every fourth conversation."""

    def __init__(self):
        self.asked = 0

    def judge(self, scenarios, conversations, *, seeds):
        self.asked += 1
        if self.asked % 4 == 0:
            return [Judgement(None, fault="unparsable: no score") for _ in scenarios]
        return [Judgement(len(talk.said_by("assistant")[0].strip()) / 20) for talk in conversations]

    def fingerprint(self):
        return {"judge": "test"}


@pytest.fixture
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def policy(tokenizer, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Policy(tokenizer)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def make_worker(policy, tokenizer, scenarios):
    workers = []

    def make(judge=None, waits=(0.1, 0.1), **changes):
        args = SimpleNamespace(**{
            "num_generations": 4, "max_inflight_tasks": 12, "queue_maxsize": 64, "max_staleness": 2,
            "vllm_server_base_url": f"http://127.0.0.1:{policy.server_port}", "max_completion_length": 16,
            "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0,
            "request_timeout": 10, "chat_template_kwargs": None, **changes,
        })  # fmt: skip
        workers.append(
            SimulatedUserWorker(
                "UserSim-Replay-v0",
                scenarios=scenarios,
                model="m",
                tokenizer=tokenizer,
                args=args,
                waits=waits,
                judge=judge or Judge(),
                max_turns=2,
            )
        )
        return workers[-1]

    yield make
    for worker in workers:
        worker.stop()


def take(worker, count):
    samples = []
    while len(samples) < count:
        worker.check_health(60)
        samples.append(worker.rollout_buffer.get(timeout=30))
    return samples


def test_samples_are_tokens_as_sampled_and_the_mask_covers_the_policys_alone(make_worker, policy, tokenizer):
    worker = make_worker()
    worker.start()
    sample = take(worker, 1)[0]
    worker.stop()
    trained = [int(token) for token, mask in zip(sample.input_ids, sample.completion_mask, strict=True) if mask]
    turns = [message["content"] for message in sample.completion if message["role"] == "assistant"]
    assert tokenizer.decode(trained, skip_special_tokens=True).replace(" ", "") == "".join(turns).replace(" ", "")
    assert trained.count(tokenizer.eos_token_id) == len(turns) == 2
    logprobs = sample.old_log_probs[sample.completion_mask == 1]
    assert logprobs[:2].tolist() == pytest.approx([-0.1, -0.2])
    assert not sample.old_log_probs[sample.completion_mask == 0].any()
    second = next(body for body in policy.bodies if body["prompt"] == sample.input_ids[: len(body["prompt"])].tolist()
                  and len(body["prompt"]) > len(policy.bodies[0]["prompt"]))  # fmt: skip
    assert second["return_token_ids"] is True
    assert len(second["prompt"]) < len(sample.input_ids)


def test_the_policy_and_the_user_are_different_models(policy, tokenizer, scenarios):
    args = SimpleNamespace(
        vllm_server_base_url="http://127.0.0.1:9", request_timeout=1, max_inflight_tasks=1, queue_maxsize=1,
        max_staleness=1, num_generations=2, chat_template_kwargs=None,
    )  # fmt: skip
    worker = SimulatedUserWorker(
        "UserSim-RolePlayOpening-v0", scenarios=scenarios, model="policy", user_model="scripted:and then?",
        tokenizer=tokenizer, args=args, judge=Judge(),
    )  # fmt: skip
    assert "and then?" in json.dumps(worker.simulation.simulator.fingerprint())
    worker.stop()


def test_a_group_meets_one_user_and_a_failed_judgement_is_no_sample_and_enters_no_mean(make_worker):
    worker = make_worker()
    worker.start()
    samples = take(worker, 30)
    groups = defaultdict(list)
    for sample in samples:
        groups[sample.group_id].append(sample)
    whole = [group for group in groups.values() if len(group) > 1][:-1]
    assert whole
    for group in whole:
        assert len({json.dumps(sample.prompt) for sample in group}) == 1
        assert sum(sample.advantage for sample in group) == pytest.approx(0, abs=1e-5)
        assert all(sample.metrics["reward"] > 0 for sample in group)
    metrics = list(worker.metrics_queue.queue)
    assert any(values.get("simgym/unjudged") == (1.0, 1.0) for values in metrics)
    assert any("simgym/faults/unparsable_total" in values for values in metrics)


def test_trls_own_buffer_batcher_and_collator_take_the_samples(make_worker, tokenizer):
    worker = make_worker()
    worker.start()
    metrics = defaultdict(list)
    source = RolloutQueueDataset(worker.rollout_buffer, lambda: 0, worker.check_health, 60, metrics, max_staleness=2)
    rows = next(iter(TokenBudgetBatcher(source, 1, 2000, metrics)))
    batch = DataCollatorForRollout(tokenizer.pad_token_id or 0, 1, metrics=metrics)([rows])
    assert batch["input_ids"].shape[0] == 1
    assert metrics["sample/staleness_max"]


def test_a_conversation_that_becomes_too_old_is_given_up(make_worker, policy):
    policy.slow = 0.3
    worker = make_worker()
    worker.start()
    time.sleep(0.1)
    worker.update_model_version(9)  # while all are in their first turn
    assert {sample.model_version for sample in take(worker, 4)} == {9}
    assert any(values["simgym/given_up"] == (1.0, 1.0) for values in worker.metrics_queue.queue)


def test_a_full_buffer_holds_conversations_back(make_worker, policy):
    worker = make_worker(queue_maxsize=2)
    worker.start()
    take(worker, 1)
    asked, end = -1, time.monotonic() + 30
    while asked != len(policy.bodies) and time.monotonic() < end:
        asked = len(policy.bodies)
        time.sleep(2)
    assert asked == len(policy.bodies)
    worker.check_health(2)  # it waits, and is well


def test_a_short_outage_is_waited_for_and_a_long_one_is_told_by_check_health(make_worker, policy):
    policy.away = True
    worker = make_worker(waits=(0.2, 60.0))
    worker.start()
    time.sleep(0.1)
    policy.away = False
    assert take(worker, 2)
    policy.away = True
    other = make_worker(waits=())
    other.start()
    other._rollouts.background.join()
    with pytest.raises(RuntimeError, match="has failed"):
        other.check_health(60)
