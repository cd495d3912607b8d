from __future__ import annotations

import os
import subprocess
import sys

import pytest
from warm_python import run_warm

from simgym.language_models.threads import _quota, usable_processors

REPORT = (
    "import os; from simgym.language_models.threads import settle_threads; settle_threads(); import torch; "
    "print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'), torch.get_num_threads())"
)
FORK = """
import os, signal, sys
import torch
from simgym.language_models import Request, SamplingParams
from simgym.language_models.base import Message
from simgym.language_models import TransformersLM
torch.set_num_threads(2)
model = TransformersLM(sys.argv[1])
matrix = torch.randn(800, 800)
(matrix @ matrix).sum(); torch.softmax(matrix, 1)
request = Request(messages=(Message("user", "hello"),), next_role="assistant",
                  sampling=SamplingParams(max_new_tokens=4), seed=1)
first = model.generate([request])[0].text
child = os.fork()
if child == 0:
    signal.alarm(40)
    same = model.generate([request])[0].text == first
    torch.softmax(matrix, 1).sum()
    os._exit(0 if same else 3)
print(os.waitpid(child, 0)[1])
"""


def report(**environment):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-c", REPORT]
    return subprocess.run(
        command, env={**clean, **environment}, capture_output=True, text=True, check=True
    ).stdout.split()


def test_threads_wait_passively_unless_the_user_says_otherwise():
    assert report()[:2] == ["PASSIVE", "0"]
    assert int(report()[2]) <= usable_processors()
    assert report(OMP_WAIT_POLICY="ACTIVE", OMP_NUM_THREADS="1") == ["ACTIVE", "None", "1"]


@pytest.mark.parametrize(
    ("files", "processors"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, float("inf")),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, float("inf")),
    ],
)
def test_the_quota_of_a_control_group_is_read(files, processors, tmp_path):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert _quota(tmp_path) == processors


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_of_a_process_that_used_the_model_answers_the_same(tiny_model):
    outcome = run_warm(["-c", FORK, tiny_model])
    assert outcome.stdout.strip() == "0", outcome.stderr[-2000:]
