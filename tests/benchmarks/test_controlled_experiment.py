from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import warm_python
import yaml
from warm_python import run_warm

from simgym.conversation import Conversation
from simgym.report import MatrixResults

pytest.importorskip("stable_baselines3", reason="the extra simgym[train] is not installed")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
WARM = """
import runpy, sys, types
from simgym.integrations import _recipe_runs
sys.path.insert(0, sys.argv.pop(1))
from warm_python import run_forked
_recipe_runs.subprocess = types.SimpleNamespace(run=run_forked, STDOUT=None)
sys.argv.pop(0)
sys.path[0] = sys.argv[0].rpartition("/")[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Begins a script whose recipes begin warm, too."""


@pytest.fixture(scope="module")
def study(tiny_model, tmp_path_factory):
    """A whole study with a random model, run once: its folder and how to run it again."""
    folder = tmp_path_factory.mktemp("study")
    history = [{"role": "user", "content": "What is a good name?"}, {"role": "assistant", "content": "Ada."}] * 2
    rows = [
        {
            "id": f"s{number}",
            "intent": "You are a user chatting with an assistant language model to name a cat.",
            "opening": history[0]["content"],
            "persona_seed": number,
            "source": "test",
            "history": history,
        }
        for number in range(12)
    ]
    (folder / "scenarios.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {"layer": 1, "components": 2, "num_envs": 2, "n_steps": 2, "updates": 1, "candidates": 2, "held_out": 2}
    (folder / "ppo.yaml").write_text(yaml.safe_dump(recipe))
    scenarios = str(folder / "scenarios.jsonl")
    config = {
        "question": "Does it run?",
        "output_dir": str(folder / "run"),
        "model": tiny_model,
        "temperature": 1.0,
        "max_new_tokens": 4,
        "simulators": {
            "Replay": {"env_id": "UserSim-Replay-v0"},
            "Opening": {"env_id": "UserSim-RolePlayOpening-v0", "temperature": 0.5},
        },
        "held_out": {"Hot": {"env_id": "UserSim-RolePlayOpening-v0", "temperature": 1.5}},
        "simulator_options": {"model": "scripted:role_play", "max_new_tokens": 90},
        "judge": "relevance",
        "judge_model": tiny_model,
        "trainer": {
            "kind": "ppo",
            "config": str(folder / "ppo.yaml"),
            "output_dir": str(folder / "training"),
            "scenarios": scenarios,
        },
        "training_seeds": [0, 1],
        "test": {"scenarios": scenarios, "n": 4},
        "openings": {"scenarios": scenarios, "n": 3},
        "contrasts": [["Opening", "initial"], ["Opening", "Replay"]],
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    def run(*more):
        command = ["-c", WARM, str(Path(warm_python.__file__).parent), str(BENCHMARKS / "controlled_experiment.py")]
        command += ["--config", str(folder / "study.yaml"), "--results", str(folder / "results"), *more]
        return run_warm(command, env={**os.environ, "HF_HUB_OFFLINE": "1"})

    before = run("--dry-run")
    outcome = run()
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    return folder, run, before, outcome


def test_a_study_trains_one_assistant_per_simulator_and_seed_and_compares_all_with_the_initial_one(study):
    folder, _, before, outcome = study
    assert before.stdout.count("not begun") == 4
    results = MatrixResults.from_json(json.loads((folder / "results" / "results.json").read_text()))
    trained = [f"{name} (seed {seed})" for name in ("Replay", "Opening") for seed in (0, 1)]
    assert list(results.assistants) == ["initial", *trained]
    assert list(results.simulators) == ["UserSim-Replay-v0", "UserSim-Opening-v0", "UserSim-Hot-v0"]
    assert {cell.conversations for cell in results.cells} == {4}
    assert {curve.name for curve in results.curves} == set(trained)
    simulators = results.fingerprints["simulators"]
    assert [simulators[name]["temperature"] for name in results.simulators[1:]] == [0.5, 1.5]
    # what a pair is compared by: win rates on the openings, then the simulator that nobody was trained with
    assert [(contrast.kind, contrast.simulator, contrast.first, contrast.second) for contrast in results.contrasts] == [
        ("win_rate", "UserSim-Replay-v0", "Opening", "initial"),
        ("win_rate", "UserSim-Replay-v0", "Opening", "Replay"),
        ("difference", "UserSim-Hot-v0", "Opening", "initial"),
        ("difference", "UserSim-Hot-v0", "Opening", "Replay"),
    ]
    report = (folder / "results" / "report.html").read_text()
    assert "Assistants against each other" in report
    assert (folder / "results" / "matrix.svg").read_text().startswith("<svg")
    summary = json.loads((folder / "results" / "study.json").read_text())
    assert set(summary["methods"]["gaps"]) == {"Replay", "Opening"}
    assert set(summary["seconds"]["training"]) == set(trained)
    assert outcome.stdout.count("generalization gap of") == 2


def test_the_same_command_again_does_nothing_twice_and_says_the_same(study):
    folder, run, _, _ = study
    files = sorted((folder / "run").rglob("*.jsonl")) + sorted((folder / "training").rglob("policy.safetensors"))
    written = {path: path.read_bytes() for path in files if path.name != "times.jsonl"}
    numbers = json.loads((folder / "results" / "results.json").read_text())
    again = run()
    assert again.returncode == 0, again.stderr[-3000:]
    assert {path: path.read_bytes() for path in written} == written
    after = json.loads((folder / "results" / "results.json").read_text())
    assert [after[key] for key in ("cells", "comparisons", "contrasts")] == [
        numbers[key] for key in ("cells", "comparisons", "contrasts")
    ]


def test_a_training_with_other_settings_is_refused_however_often_it_is_asked_for(study):
    folder, run, _, _ = study
    path = folder / "study.yaml"
    before = path.read_text()
    path.write_text(before.replace("temperature: 1.0", "temperature: 0.9"))
    try:
        for _ in range(2):
            outcome = run("--stages", "train")
            assert outcome.returncode == 1
            assert "was begun with another temperature" in outcome.stderr
            assert "Traceback" not in outcome.stderr
    finally:
        path.write_text(before)


def test_every_study_that_is_shipped_can_be_read(monkeypatch):
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import controlled_experiment
    finally:
        sys.path.remove(str(BENCHMARKS))
    monkeypatch.chdir(BENCHMARKS.parent)
    configs = sorted((BENCHMARKS / "configs").glob("*.yaml"))
    assert len(configs) == 6
    for path in configs:
        study = controlled_experiment.Study.read(path)
        names = {controlled_experiment.INITIAL, *study.simulators}
        assert {name for pair in study.contrasts for name in pair} <= names
        study.check()
        controlled_experiment.register_columns(study)
        for name in study.simulators:
            settings = study.recipe_settings(name, 0, Path("nowhere"))
            assert settings["env_id"] == study.simulators[name]["env_id"]


def test_what_would_be_found_out_after_hours_is_refused_at_once(study):
    folder, run, _, _ = study
    path = folder / "study.yaml"
    before = path.read_text()
    try:
        for old, new, words in (
            ("- - Opening\n  - Replay", "- - Opening\n  - Replya", "contrasts has ['Opening', 'Replya']"),
            ("  Hot:", "  Opening:", "Opening stands for two things"),
            ("kind: ppo", "kind: dpo", "trainer.kind is 'dpo'"),
            ("  config:", "  options: {judge: rubric}\n  config:", "judge, which the study decides"),
        ):
            assert old in before
            path.write_text(before.replace(old, new))
            outcome = run()
            assert outcome.returncode == 1
            assert words in outcome.stderr
            assert "Traceback" not in outcome.stderr
    finally:
        path.write_text(before)


def test_a_setting_that_there_is_not_is_a_sentence(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("question: why\nsimulator: typo\n")
    outcome = run_warm([str(BENCHMARKS / "persona.py"), "--config", str(path)])
    assert outcome.returncode == 1
    assert "unknown setting simulator" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_checkpoints_of_grpo_are_whole_models_adapters_or_the_base_model(
    tiny_model, tiny_adapter, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from experiment_config import Study
    from experiment_training import DONE, all_settings, load_assistants, training_folder

    (tmp_path / "grpo.yaml").write_text("max_steps: 1\n")
    users = {name: {"env_id": "UserSim-Replay-v0"} for name in ("Adapter", "Base", "Whole")}
    study = Study(
        question="?",
        output_dir=str(tmp_path),
        model=tiny_model,
        simulators=users,
        trainer={"kind": "grpo", "config": str(tmp_path / "grpo.yaml"), "output_dir": str(tmp_path), "scenarios": "x"},
        test={},
        openings={},
        contrasts=[],
        max_new_tokens=4,
    )
    for name, saved in (("Adapter", tiny_adapter), ("Base", None), ("Whole", tiny_model)):
        folder = training_folder(study, name, 0)
        folder.mkdir()
        (folder / DONE).write_text(yaml.safe_dump(all_settings(study, name, 0)))
        (folder / "checkpoint.json").write_text(json.dumps({"checkpoint": "checkpoint-1" if saved else "base model"}))
        if saved:
            (folder / "checkpoint-1").symlink_to(saved)
    loaded = load_assistants(study)
    talk = [Conversation().add("user", "hello")]
    said = {name: assistant.respond(talk, seeds=[3])[0].text for name, assistant in loaded.items()}
    assert said["initial"] == said["Base"] == said["Whole"]
    assert said["Adapter"] != said["initial"]
    prints = {name: json.dumps(assistant.fingerprint()) for name, assistant in loaded.items()}
    assert "sha256:" in prints["Adapter"]
    assert len({prints["initial"], prints["Adapter"], prints["Whole"]}) == 3
