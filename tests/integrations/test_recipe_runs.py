from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from simgym.errors import TrainingFailed
from simgym.integrations import RecipeRun, run_recipes

RECIPE = """
import os, signal, sys, time
from pathlib import Path

folder = Path(sys.argv[1])
steps = folder / "steps"
for step in range(len(steps.read_text()) if steps.is_file() else 0, 4):
    with steps.open("a") as file:
        file.write(str(step))
    if sys.argv[2] == "killed" and step == 1 and not (folder / "mark").exists():
        (folder / "mark").touch()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)  # ends with the worker; else it would go on writing beside the next attempt
if sys.argv[2] == "waits":
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(60)
if sys.argv[2] == "fails":
    raise SystemExit("the data are not there")
print("done")
"""


@pytest.fixture
def make(tmp_path):
    script = tmp_path / "recipe.py"
    script.write_text(RECIPE)

    def made(name, how="works"):
        (tmp_path / name).mkdir()
        return RecipeRun(
            name=name,
            script=str(script),
            arguments=(name, how),
            log=str(tmp_path / name / "recipe.log"),
            folder=str(tmp_path),
        )

    return made


def test_here_runs_come_one_after_the_other_and_one_that_fails_says_why(make, tmp_path):
    run_recipes([make("one"), make("two")])
    assert [(tmp_path / name / "steps").read_text() for name in ("one", "two")] == ["0123", "0123"]
    assert (tmp_path / "two" / "recipe.log").read_text() == "done\n"
    with pytest.raises(TrainingFailed, match=r"three ended with code 1; its last line: 'the data are not there'"):
        run_recipes([make("three", "fails"), make("four")])
    assert not (tmp_path / "four" / "steps").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are ended by a feature of Linux")
def test_a_recipe_ends_with_whoever_began_it_and_a_second_one_is_refused_until_then(make, tmp_path):
    run = make("one", "waits")
    beginning = f"from simgym.integrations._recipe_runs import *; run_recipe({run!r})"
    parent = subprocess.Popen([sys.executable, "-c", beginning])
    pid = tmp_path / "one" / "pid"
    wait_until(lambda: pid.is_file() and pid.read_text())
    with pytest.raises(TrainingFailed, match="one is running already"):
        run_recipes([run])
    parent.kill()
    parent.wait()
    wait_until(lambda: not Path(f"/proc/{pid.read_text()}").exists())


def wait_until(happened):
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_on_a_cluster_a_run_whose_worker_is_killed_goes_on_and_ends_as_it_would_have(cluster, make, tmp_path):
    run_recipes([make("one"), make("two", "killed")], address="auto", resources={"num_cpus": 1})
    assert (tmp_path / "two" / "mark").exists()
    assert [(tmp_path / name / "steps").read_text() for name in ("one", "two")] == ["0123", "0123"]
    with pytest.raises(TrainingFailed, match="the data are not there"):
        run_recipes([make("three", "fails")], address="auto")
