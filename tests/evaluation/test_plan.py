from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

import simgym  # noqa: F401  # registers the environments
from simgym.assistants import LanguageModelAssistant
from simgym.errors import BudgetReached, ConfigurationError, MalformedFile
from simgym.evaluation import MatrixRun, read_plan
from simgym.evaluation.forecast import forecast
from simgym.rollout import Budget, Price, RunSettings
from simgym.transcripts import read_transcripts

COLUMNS = ["UserSim-Replay-v0", "UserSim-RolePlayOpening-v0"]
OPTIONS = {"judge": "relevance", "judge_model": "scripted:echo", "max_turns": 2, "model": "scripted:seed"}


def arguments(folder, scenarios, **changes):
    assistants = {name: LanguageModelAssistant(f"scripted:I am {name}") for name in ("one", "two")}
    return {
        "assistants": assistants, "simulators": COLUMNS, "scenarios": scenarios, "folder": folder, "seed": 5,
        "env_options": OPTIONS, **changes,
    }  # fmt: skip


def hashes(folder):
    return {
        path.name: [transcript.content_hash() for transcript in read_transcripts(path)]
        for path in folder.rglob("*.jsonl")
    }


def test_a_scenario_that_kept_its_id_and_changed_is_refused(scenarios, tmp_path):
    MatrixRun(**arguments(tmp_path, scenarios)).run()
    changed = [replace(scenarios[0], opening="Something else entirely"), *scenarios[1:]]
    with pytest.raises(ConfigurationError, match=f"scenario '{scenarios[0].id}'"):
        MatrixRun(**arguments(tmp_path, changed)).run()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 6}, "seed"),
        ({"env_options": {**OPTIONS, "max_turns": 1}}, "max_turns"),
        ({"env_options": {**OPTIONS, "judge": "rubric"}}, "judge"),
        ({"assistants": {"one": LanguageModelAssistant("scripted:other")}}, r"assistant 'one' \(model\.model\)"),
        (
            {"simulator_options": {COLUMNS[1]: {"temperature": 0.5}}},
            r"simulator 'UserSim-RolePlayOpening-v0' \(temperature\)",
        ),
    ],
)
def test_another_experiment_is_refused_before_anything_is_held(scenarios, tmp_path, changes, said):
    MatrixRun(**arguments(tmp_path, scenarios[:1])).run()
    before = hashes(tmp_path)
    with pytest.raises(ConfigurationError, match=said):
        MatrixRun(**arguments(tmp_path, scenarios, **changes)).run()
    assert hashes(tmp_path) == before


def test_a_run_may_grow_and_its_plan_with_it(scenarios, tmp_path):
    small = MatrixRun(**arguments(tmp_path, scenarios[:2], simulators=COLUMNS[:1])).run()
    large = MatrixRun(**arguments(tmp_path, scenarios)).run()
    assert [transcript.content_hash() for transcript in small.transcripts["one", COLUMNS[0]]] == [
        transcript.content_hash() for transcript in large.transcripts["one", COLUMNS[0]][:2]
    ]
    assert small.plan_hash != large.plan_hash
    plan = read_plan(tmp_path)
    assert plan.hash == large.plan_hash
    assert list(plan.scenarios) == [scenario.id for scenario in scenarios]


def test_a_plan_that_cannot_be_read_is_refused(scenarios, tmp_path):
    (tmp_path / "plan.json").write_text('{"schema_version": 99}')
    with pytest.raises(MalformedFile, match="99"):
        MatrixRun(**arguments(tmp_path, scenarios)).run()


def test_a_budget_stops_the_run_keeps_what_was_held_and_counts_it_when_it_goes_on(scenarios, tmp_path):
    whole = Budget(prices={"user": Price(1.0, 2.0)})
    MatrixRun(**arguments(tmp_path / "whole", scenarios)).run(RunSettings(budget=whole, batch_size=1))
    limited = Budget(max_tokens=whole.tokens // 2)
    with pytest.raises(BudgetReached, match="its limit is"):
        MatrixRun(**arguments(tmp_path / "limited", scenarios)).run(RunSettings(budget=limited, batch_size=1))
    assert whole.tokens // 2 <= limited.tokens < whole.tokens
    completed = sum(len(hashe) for hashe in hashes(tmp_path / "limited").values())
    assert 0 < completed < 4 * len(scenarios)
    again = Budget(max_tokens=whole.tokens // 2)
    with pytest.raises(BudgetReached):
        MatrixRun(**arguments(tmp_path / "limited", scenarios)).run(RunSettings(budget=again, batch_size=1))
    assert sum(len(hashe) for hashe in hashes(tmp_path / "limited").values()) == completed
    MatrixRun(**arguments(tmp_path / "limited", scenarios)).run(RunSettings(budget=Budget(), batch_size=1))
    assert hashes(tmp_path / "limited") == hashes(tmp_path / "whole")


def test_what_a_later_cell_holds_already_counts_before_anything_begins(scenarios, tmp_path):
    MatrixRun(**arguments(tmp_path, scenarios[:1])).run()
    stored = [transcript for path in tmp_path.rglob("*.jsonl") for transcript in read_transcripts(path)]
    used = sum(sum(numbers.values()) for transcript in stored for numbers in transcript.tokens().values())
    with pytest.raises(BudgetReached):
        MatrixRun(**arguments(tmp_path, scenarios)).run(RunSettings(budget=Budget(max_tokens=used)))
    assert sum(len(hashe) for hashe in hashes(tmp_path).values()) == 4
    all_of_it = Budget()
    MatrixRun(**arguments(tmp_path, scenarios)).run(RunSettings(budget=all_of_it))
    assert all_of_it.tokens == sum(sum(token) for token in _tokens(tmp_path))


def test_cost_is_tokens_times_price(scenarios, tmp_path):
    budget = Budget(max_cost=1e9, prices={"user": Price(3.0, 5.0)})
    matrix = MatrixRun(**arguments(tmp_path, scenarios)).run(RunSettings(budget=budget))
    read = sum(cell.tokens["user"]["prompt"] for cell in matrix.cells if "user" in cell.tokens)
    written = sum(cell.tokens["user"]["completion"] for cell in matrix.cells if "user" in cell.tokens)
    assert budget.cost == pytest.approx((3.0 * read + 5.0 * written) / 1e6)
    with pytest.raises(ConfigurationError, match="needs prices"):
        Budget(max_cost=1.0)
    with pytest.raises(ConfigurationError, match="referee"):
        Budget(prices={"referee": Price(1.0, 1.0)})


def test_a_forecast_says_what_is_left_and_is_right_in_the_end(scenarios, tmp_path):
    run = MatrixRun(**arguments(tmp_path, scenarios))
    nothing = forecast(run)
    assert (nothing.planned, nothing.done, nothing.tokens) == (4 * len(scenarios), 0, None)
    # two turns of 2,048 tokens of the assistant in both columns, and of 1,024 of the role-playing user in one
    assert nothing.most_written == len(scenarios) * 2 * 2 * (2048 + 2048 + 1024)
    assert not list(tmp_path.iterdir())
    MatrixRun(**arguments(tmp_path, scenarios[:2])).run()
    prices = {"assistant": Price(1.0, 1.0), "user": Price(1.0, 1.0)}
    part = forecast(run, prices)
    assert part.missing == 4 * (len(scenarios) - 2)
    before = sum(map(sum, _tokens(tmp_path)))
    run.run()
    expected = sum(sum(numbers.values()) for numbers in part.tokens.values())
    assert expected == pytest.approx(sum(map(sum, _tokens(tmp_path))) - before, rel=0.35)
    assert part.cost > 0
    assert forecast(run).tokens["assistant"]["prompt"] == 0


def _tokens(folder):
    for path in folder.rglob("*.jsonl"):
        for transcript in read_transcripts(path):
            yield [sum(numbers.values()) for numbers in transcript.tokens().values()]


SCRIPT = """
import json, sys, time
import simgym
from simgym.assistants import AssistantTurn
from simgym.conversation import read_scenarios
from simgym.evaluation import MatrixRun
from simgym.rollout import RunSettings

class Slow:
    def __init__(self, word):
        self.word = word
    def respond(self, conversations, *, seeds):
        time.sleep(0.02)
        return [AssistantTurn(f"{self.word} {seed % 1000}") for seed in seeds]
    def fingerprint(self):
        return {"word": self.word}

MatrixRun(
    {"one": Slow("yes"), "two": Slow("no")}, ["UserSim-Replay-v0", "UserSim-RolePlayOpening-v0"],
    read_scenarios(sys.argv[2]), folder=sys.argv[1], seed=5,
    env_options={"judge": "relevance", "judge_model": "scripted:echo", "max_turns": 2, "model": "scripted:seed"},
).run(RunSettings(batch_size=2))
"""


def test_killed_at_any_moment_it_goes_on_with_nothing_lost_or_done_twice(scenarios, tmp_path):
    (tmp_path / "scenarios.jsonl").write_text("".join(json.dumps(scenario.to_json()) + "\n" for scenario in scenarios))

    def start(folder):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / folder), str(tmp_path / "scenarios.jsonl")]
        return subprocess.Popen(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})

    assert start("straight").wait(120) == 0
    kills = 0
    for waited in range(1, 20):
        process = start("killed")
        lines = len(_lines(tmp_path / "killed"))
        while process.poll() is None and len(_lines(tmp_path / "killed")) < lines + 2 + waited % 3:
            time.sleep(0.005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            break
    else:
        pytest.fail("it never came to its end")
    assert kills >= 3
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "straight")
    assert len(_lines(tmp_path / "killed")) == 4 * len(scenarios)


def _lines(folder):
    return [line for path in folder.rglob("*.jsonl") for line in path.read_bytes().split(b"\n")[:-1]]
