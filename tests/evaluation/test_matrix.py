from __future__ import annotations

import pytest

import simgym  # noqa: F401  # registers the environments
from simgym.assistants import LanguageModelAssistant
from simgym.conversation import Scenario
from simgym.errors import ConfigurationError
from simgym.evaluation import MatrixRun

OPTIONS = {"judge": "relevance", "judge_model": "scripted:echo", "max_turns": 2}
COLUMNS = ["UserSim-Replay-v0", "UserSim-RolePlayOpening-v0"]


def run(folder, scenarios, names=("one", "two"), **options):
    assistants = {name: LanguageModelAssistant(f"scripted:I am {name}") for name in names}
    return MatrixRun(
        assistants, COLUMNS, scenarios, folder=folder, seed=5,
        env_options={**OPTIONS, "model": "scripted:seed"},
    ).run(**options)  # fmt: skip


def test_every_cell_holds_the_same_scenarios_with_the_same_seeds(scenarios, tmp_path):
    matrix = run(tmp_path, scenarios)
    assert [(cell.assistant, cell.simulator) for cell in matrix.cells] == [
        (r, c) for r in ("one", "two") for c in COLUMNS
    ]
    keys = {tuple(transcript.key for transcript in transcripts) for transcripts in matrix.transcripts.values()}
    assert len(keys) == 1
    assert all((tmp_path / cell.transcripts).is_file() for cell in matrix.cells)
    assert all(0 <= cell.estimate.value <= 100 for cell in matrix.cells)
    assert set(matrix.fingerprints["simulators"]) == set(COLUMNS)


def test_a_second_run_does_nothing_again_and_says_the_same(scenarios, tmp_path):
    first = run(tmp_path, scenarios)
    sizes = {path: path.stat().st_size for path in tmp_path.rglob("*.jsonl")}
    seen = []
    second = run(tmp_path, scenarios, progress=lambda *what: seen.append(what))
    assert second.cells == first.cells
    assert {path: path.stat().st_size for path in tmp_path.rglob("*.jsonl")} == sizes
    assert len(seen) == 4 * len(scenarios)


def test_empty_axes_unknown_ids_and_colliding_names_are_refused(scenarios, tmp_path):
    with pytest.raises(ConfigurationError, match="at least one"):
        run(tmp_path, [])
    with pytest.raises(ConfigurationError, match="same file name"):
        run(tmp_path, scenarios, names=("a b", "a-b"))
    with pytest.raises(ConfigurationError, match=r"UserSim-RolePlay-v0"):
        MatrixRun({"x": LanguageModelAssistant("scripted:x")}, ["UserSim-Nobody-v0"], scenarios, folder=tmp_path)


def test_a_column_that_cannot_play_the_scenarios_is_refused_before_anything_is_held(scenarios, tmp_path):
    bare = [Scenario(scenario.id, scenario.intent, opening=scenario.opening) for scenario in scenarios]
    env_options = {**OPTIONS, "model": "scripted:seed"}
    columns = ["UserSim-RolePlayOpening-v0", "UserSim-Replay-v0"]
    with pytest.raises(ConfigurationError, match="no recorded user turns"):
        MatrixRun({"x": LanguageModelAssistant("scripted:x")}, columns, bare, folder=tmp_path, env_options=env_options)
    assert not list(tmp_path.rglob("*.jsonl"))
