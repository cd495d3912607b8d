from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from warm_python import run_warm

from simgym.evaluation import judge_pairs, read_pairs, validate
from simgym.judges import RewardModelJudge

pytest.importorskip("trl", reason="the extra simgym[train] is not installed")

RECIPE = Path(__file__).resolve().parents[2] / "agents" / "reward_model.py"


LORA = ("--use_peft", "true", "--lora_r", "8", "--lora_target_modules", "q_proj", "v_proj")


@pytest.mark.parametrize("more", [(), LORA], ids=["full", "lora"])
def test_what_is_trained_is_a_judge_that_prefers_what_it_was_shown(tiny_model, tmp_path, more):
    pairs = tmp_path / "pairs.jsonl"
    with pairs.open("w") as file:
        for number in range(24):
            chosen, rejected = "yes! " * (1 + number % 3), "no? " * (1 + (number + 1) % 3)
            file.write(json.dumps({"instruction": f"q{number}", "chosen": chosen, "rejected": rejected}) + "\n")
    command = [str(RECIPE), "--model_name_or_path", tiny_model, "--train_data", str(pairs),
               "--output_dir", str(tmp_path / "run"), "--max_steps", "30", "--learning_rate", "0.01", "--report_to",
               "none", "--per_device_train_batch_size", "8", "--balance_length", "true", "--disable_tqdm", "true",
               "--save_strategy", "no", "--dtype", "float32", *more]  # fmt: skip
    outcome = run_warm(command, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    assert "pairs after balancing" in outcome.stdout
    verdicts = judge_pairs(RewardModelJudge(str(tmp_path / "run" / "final")), read_pairs(pairs))
    assert validate("trained", {}, verdicts, resamples=19).accuracy.value > 0.9
