from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

pytest.importorskip("trl", reason="the extra simgym[train] is not installed")

RECIPE = Path(__file__).resolve().parents[2] / "agents" / "grpo.py"


def run(folder, scenarios_file, model, steps):
    options = {
        "model_name_or_path": model,
        "dtype": "float32",
        "env_id": "UserSim-FineTuned-v0",
        "user_model": model,
        "simulator_options": '{"max_new_tokens": 6}',
        "scenarios": scenarios_file,
        "validation": 2,
        "max_turns": 2,
        "judge": "relevance",
        "judge_model": model,
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 6,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "beta": 0.01,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "num_generations_eval": 1,
        "per_device_eval_batch_size": 2,
        "save_steps": 3,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": "true",
        "use_peft": "true",
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    outcome = subprocess.run(
        [sys.executable, str(RECIPE), *flags, "--lora_target_modules", "q_proj", "v_proj"],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    return outcome


def test_a_run_in_two_parts_is_a_run_in_one(tiny_model, scenarios, tmp_path):
    path = tmp_path / "scenarios.jsonl"
    rows = [{**scenario.to_json(), "id": f"{around}{scenario.id}"} for around in "ab" for scenario in scenarios]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(tmp_path / "straight", path, tiny_model, 6)
    run(tmp_path / "parts", path, tiny_model, 3)
    run(tmp_path / "parts", path, tiny_model, 6)
    one, other = (load_file(tmp_path / name / "final" / "adapter_model.safetensors") for name in ("straight", "parts"))
    assert all((one[name] == other[name]).all() for name in one)
    first, second = (json.loads((tmp_path / name / "checkpoint.json").read_text()) for name in ("straight", "parts"))
    assert list(first["validation_reward"]) == ["0", "3", "6"]
    assert first["validation_reward"] == second["validation_reward"]
    assert first["plateau_onset"] in (0, 3, 6)
    talks = [json.loads(line) for line in (tmp_path / "straight" / "conversations.jsonl").read_text().splitlines()]
    assert {talk["step"] for talk in talks} == {0, 1, 2, 3, 4, 5, 6}
    assert talks[0]["messages"][0]["role"] == "user"
