"""The benchmark of rollouts in step against asynchronous ones, in small: it runs, and it tells them apart."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("trl", reason="the extra simgym[train] is not installed")

import async_rollouts
from simulated_server import Served


def test_use_of_the_policys_places_is_counted_from_the_servers_log():
    served = [
        Served("policy", -1, 10.0, 2.0, 200),
        Served("policy", -1, 11.0, 3.0, 200),  # overlaps: busy from 10 to 14
        Served("user", 1, 12.0, 9.0, 200),
        Served("policy", -1, 16.0, 8.0, 200),  # cut at 20
        Served("policy", -1, 25.0, 1.0, 200),  # after the end
    ]
    use = async_rollouts.use(served, seconds=10.0, places=2)
    assert use == {"policy_turns": 3, "seconds": 10.0, "idle_seconds": 2.0, "idle": 0.2, "empty": 1 - 9 / 20}


@pytest.mark.slow
def test_it_runs_in_small_and_the_policy_waits_less_without_steps(tmp_path, monkeypatch, capsys):
    output = tmp_path / "results.json"
    monkeypatch.setattr("sys.argv", ["async_rollouts.py", "--small", "--output", str(output)])
    async_rollouts.main()
    (row,) = json.loads(output.read_text())["runs"]
    assert row["conversations"] == 8
    assert row["in_step"]["policy_turns"] == 8 * async_rollouts.TURNS * async_rollouts.ROUNDS
    assert row["asynchronous"]["policy_turns"] >= row["in_step"]["policy_turns"] - 8 * async_rollouts.TURNS
    assert row["in_step"]["empty"] > row["asynchronous"]["empty"]
    assert "in time" in capsys.readouterr().out
