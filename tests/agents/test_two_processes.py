"""Recipes in two processes, as `torchrun` starts them: the same run as in one, resumed or not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

pytest.importorskip("trl", reason="the extra simgym[train] is not installed")

AGENTS = Path(__file__).resolve().parents[2] / "agents"
LORA = ("--use_peft", "true", "--lora_target_modules", "q_proj", "v_proj", "--lora_dropout", "0.0")
pytestmark = [pytest.mark.slow, pytest.mark.daily]


def torchrun(recipe, options):
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*command, str(AGENTS / recipe), *flags, *LORA], capture_output=True, text=True, timeout=400, env=environment
    )


def finished(outcome):
    assert outcome.returncode == 0, outcome.stderr[-4000:]
    return outcome.stdout


def assert_same_adapter(first, second):
    alone, other = (load_file(folder / "final" / "adapter_model.safetensors") for folder in (first, second))
    assert alone.keys() == other.keys()
    assert all((alone[name] == other[name]).all() for name in alone)


@pytest.mark.parametrize("generation", ["trl", "engine"])
def test_grpo_is_resumed_to_the_same_weights_and_writes_its_log_once(tiny_model, scenarios, tmp_path, generation):
    path = tmp_path / "scenarios.jsonl"
    rows = [{**scenario.to_json(), "id": f"{around}{scenario.id}"} for around in "ab" for scenario in scenarios]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {
        "model_name_or_path": tiny_model, "dtype": "float32", "env_id": "UserSim-FineTuned-v0",
        "generation": generation, "user_model": tiny_model,
        "simulator_options": '{"max_new_tokens": 6}', "scenarios": path, "validation": 2,
        "max_turns": 2, "judge": "relevance", "judge_model": tiny_model, "effective_batch": 4,
        "per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 6, "learning_rate": 0.01,
        "lr_scheduler_type": "constant", "eval_strategy": "steps", "eval_steps": 2, "num_generations_eval": 1,
        "per_device_eval_batch_size": 1, "save_steps": 2, "logging_steps": 1, "report_to": "none",
        "disable_tqdm": "true", "max_steps": 4,
    }  # fmt: skip
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    printed = finished(torchrun("grpo.py", {**options, "output_dir": straight}))
    assert printed.count("an update   4 examples: 2 process(es) x 2 x 1 accumulated") == 1
    shutil.copytree(straight, parts)
    shutil.rmtree(parts / "final")
    shutil.rmtree(parts / "checkpoint-4")
    finished(torchrun("grpo.py", {**options, "output_dir": parts}))
    assert_same_adapter(straight, parts)
    for folder in (straight, parts):
        steps = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert [row["step"] for row in steps if "reward" in row] == [1, 2, 3, 4]
    curves = [json.loads((folder / "checkpoint.json").read_text())["validation_reward"] for folder in (straight, parts)]
    assert list(curves[0]) == ["0", "2", "4"]
    assert curves[0] == curves[1]


START_ROW = """
import sys, warnings, torch, deepspeed
deepspeed.init_distributed("gloo")
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.integrations import HfDeepSpeedConfig
settings = HfDeepSpeedConfig({"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}})
from simgym.chat_template import add_end_token
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
token = add_end_token(tokenizer, model)
for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
    with deepspeed.zero.GatheredParameters([layer.weight]), torch.no_grad():
        assert layer.weight.shape[0] == int(sys.argv[2]), layer.weight.shape
        assert (layer.weight[token] == layer.weight[tokenizer.eos_token_id]).all()
        assert layer.weight[token].any()
"""


@pytest.mark.parametrize("rows", [261, 300], ids=["as many rows as tokens", "more rows than tokens"])
def test_the_end_token_has_its_row_under_zero_3(tiny_model, tmp_path, rows):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    if rows > 261:
        model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[256] = 0.5  # the end of a sequence is all zeros, as padding is
    model.save_pretrained(tmp_path)
    for file in Path(tiny_model).glob("*token*"):
        shutil.copy(file, tmp_path)
    (tmp_path / "start.py").write_text(START_ROW)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    words = [*command, str(tmp_path / "start.py"), str(tmp_path), str(rows)]
    finished(subprocess.run(words, capture_output=True, text=True, timeout=300, env=environment))


def test_sft_is_resumed_to_the_same_weights(tiny_model, tmp_path):
    from simgym.conversation import INTENT_PREFIX, Conversation
    from simgym.data import LoggedConversation

    path = tmp_path / "train.jsonl"
    with path.open("w") as file:
        for number in range(12):
            talk = Conversation().add("user", f"hi {number}").add("assistant", "yes?").add("user", "eggs")
            logged = LoggedConversation(
                id=f"c{number}", user_key=f"u{number}", country="", language="English", conversation=talk,
                intent=f"{INTENT_PREFIX}buy eggs",
            )  # fmt: skip
            file.write(json.dumps(logged.to_json()) + "\n")
    options = {
        "model_name_or_path": tiny_model, "dtype": "float32", "train_data": path, "validation_data": path,
        "max_tokens": 120, "max_steps": 4, "effective_batch": 4, "per_device_train_batch_size": 1,
        "learning_rate": 0.01, "lr_scheduler_type": "constant", "save_strategy": "steps", "save_steps": 2,
        "eval_strategy": "steps", "eval_steps": 2, "logging_steps": 1, "report_to": "none", "disable_tqdm": "true",
        "dataloader_pin_memory": "false",
    }  # fmt: skip
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    printed = finished(torchrun("sft_user.py", {**options, "output_dir": straight}))
    assert printed.count("an update   4 examples: 2 process(es) x 1 x 2 accumulated") == 1
    shutil.copytree(straight, parts)
    shutil.rmtree(parts / "final")
    shutil.rmtree(parts / "checkpoint-4")
    finished(torchrun("sft_user.py", {**options, "output_dir": parts}))
    assert_same_adapter(straight, parts)
    losses = [
        [row["eval_loss"] for row in json.loads((folder / "training_log.json").read_text())["history"]
         if "eval_loss" in row]
        for folder in (straight, parts)
    ]  # fmt: skip
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]
