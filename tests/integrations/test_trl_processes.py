"""Rollouts in two processes: each trains on the replies to its own conversations."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="the extra simgym[train] is not installed")

from real_servers import free_port
from warm_python import run_warm

WORKER = Path(__file__).with_name("two_processes.py")


LAUNCH = """
import os, runpy, sys
sys.argv.pop(0)
ranks = set()
for rank in ("0", "1"):
    if (child := os.fork()) == 0:
        os.environ.update(RANK=rank, LOCAL_RANK=rank)
        runpy.run_path(sys.argv[0], run_name="__main__")
        sys.exit()
    ranks.add(child)
while ranks:
    child, status = os.wait()
    ranks.discard(child)
    if status:
        for other in ranks:
            os.kill(other, 9)
        sys.exit("a process has failed")
"""
"""What of torchrun a program sees, without two new Pythons: `agents/test_two_processes.py` has torchrun itself."""


def run(test, tiny_model, settings, folder):
    """What each of two processes ends with."""
    out = folder / "out.json"
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment = {**os.environ, **world, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    outcome = run_warm(["-c", LAUNCH, str(WORKER), test, tiny_model, json.dumps(settings), str(out)], env=environment)
    assert outcome.returncode == 0, outcome.stderr[:3000]
    return [json.loads(out.with_suffix(f".{rank}").read_text()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("turns", [[[1, 3, 2], [4, 1, 1]], [[1, 1, 1], [2, 3, 3]]])
def test_each_process_gets_the_replies_to_its_own_conversations(tiny_model, tmp_path, turns):
    """TRL's vLLM server mode deals replies out in equal shares; numbers of running conversations differ."""
    for rank, result in enumerate(run("replies", tiny_model, turns, tmp_path)):
        assert len(result["conversations"]) == 3
        for number, messages in enumerate(result["conversations"]):
            said = [message["content"] for message in messages]
            assert said[0] == f"p{rank}c{number} 0"
            assert len(said) >= 2 * turns[rank][number]
            for question, reply in zip(said[::2], said[1::2], strict=False):
                assert reply == f"echo {question}"


@pytest.mark.slow
def test_a_group_over_two_processes_meets_one_user_and_faults_are_counted_together(tiny_model, tmp_path):
    names = [["first", "first", "both"], ["both", "both", "second"]]
    results = run("openings", tiny_model, names, tmp_path)
    met = {}
    for rank, result in enumerate(results):
        for name, messages, seed in zip(names[rank], result["conversations"], result["seeds"], strict=True):
            met.setdefault(name, set()).add((messages[0]["content"], seed))
    assert {name: len(users) for name, users in met.items()} == {"first": 1, "both": 1, "second": 1}
    assert [result["faults"] for result in results] == [{"judge_fault: refused": 3}] * 2
