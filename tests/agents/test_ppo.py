from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from warm_python import run_warm

pytest.importorskip("stable_baselines3", reason="the extra simgym[train] is not installed")

RECIPE = Path(__file__).resolve().parents[2] / "agents" / "ppo.py"


@pytest.fixture
def command(tiny_model, scenarios, tmp_path):
    path = tmp_path / "scenarios.jsonl"
    rows = [{**scenario.to_json(), "id": f"{around}{scenario.id}"} for around in "ab" for scenario in scenarios]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {
        "env_id": "UserSim-Replay-v0",
        "scenarios": path,
        "model": tiny_model,
        "judge": "relevance",
        "judge_model": "scripted:echo",
        "max_turns": 2,
        "layer": 1,
        "components": 2,
        "num_envs": 2,
        "n_steps": 3,
        "max_new_tokens": 4,
        "held_out": 2,
        "seeds": 2,
        "candidates": 2,
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [str(RECIPE), *flags, "--strategies", "direct", "brief"]


def run(command, folder, updates):
    outcome = run_warm([*command, "--output_dir", str(folder), "--updates", str(updates)], env=ENV)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    return folder / "UserSim-Replay-v0-seed0"


KILLED = """
import os, runpy, sys, threading, time
log = sys.argv[1]
def kill():
    while not (os.path.isfile(log) and open(log).read().count("\\n") >= 2):
        time.sleep(0.02)
    os.kill(os.getpid(), 9)
threading.Thread(target=kill, daemon=True).start()
del sys.argv[:2]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Begins a recipe, and kills it when its log has two lines."""
ENV = {**os.environ, "HF_HUB_OFFLINE": "1"}


def logged(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_a_run_that_is_killed_and_started_again_gives_what_an_undisturbed_one_gives(command, tmp_path):
    straight = run(command, tmp_path / "straight", 4)
    broken = tmp_path / "broken"
    log = broken / "UserSim-Replay-v0-seed0" / "log.jsonl"
    killed = run_warm(["-c", KILLED, str(log), *command, "--output_dir", str(broken), "--updates", "4"], env=ENV)
    assert killed.returncode == -signal.SIGKILL
    again = run(command, broken, 4)
    assert len(logged(again)) == 4
    assert logged(again) == logged(straight)
    first, other = (load_file(folder / "policy" / "policy.safetensors") for folder in (straight, again))
    assert first.keys() == other.keys()
    assert all((first[name] == other[name]).all() for name in first)
    result = json.loads((again / "result.json").read_text())
    assert set(result["assistants"]) == {
        "trained",
        "initial",
        "always direct",
        "always brief",
        "the longest",
        "the shortest",
    }
    assert result["assistants"]["always direct"]["conversations"] == 4
    assert (again / "curves.png").stat().st_size > 1000
    refused = run_warm([*command, "--output_dir", str(broken), "--ent_coef", "0.5"], env=ENV)
    assert refused.returncode == 1
    assert "another ent_coef" in refused.stderr
