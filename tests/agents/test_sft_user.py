from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from warm_python import run_warm

from simgym.chat_template import token_id
from simgym.conversation import END_OF_CONVERSATION, INTENT_PREFIX, Conversation, Scenario
from simgym.data import LoggedConversation
from simgym.language_models import TransformersLM
from simgym.simulators import FineTuned

pytest.importorskip("trl", reason="the extra simgym[train] is not installed")

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "agents" / "sft_user.py"
CONFIGS = ROOT / "agents" / "configs"


@pytest.fixture(scope="module")
def recipe():
    specification = importlib.util.spec_from_file_location("sft_user_recipe", RECIPE)
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules[specification.name]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    path = tmp_path_factory.mktemp("logs") / "train.jsonl"
    with path.open("w") as file:
        for number in range(12):
            talk = Conversation()
            for turn in range(number % 3 + 1):
                talk = talk.add("user", f"so, {number} eggs?").add("assistant", "yes " * (turn + 1))
            logged = LoggedConversation(
                id=f"h{number}",
                user_key=f"u{number}",
                country="",
                language="English",
                conversation=talk,
                intent=f"{INTENT_PREFIX}buy eggs",
            )
            file.write(json.dumps(logged.to_json()) + "\n")
    return str(path)


def arguments(recipe, tiny_model, logs, folder, monkeypatch, *more):
    from trl import ModelConfig, SFTConfig, TrlParser

    words = ["--model_name_or_path", tiny_model, "--train_data", logs, "--validation_data", logs, "--max_tokens", "120",
             "--output_dir", str(folder), "--max_steps", "4", "--per_device_train_batch_size", "2", "--learning_rate",
             "0.01", "--lr_scheduler_type", "constant", "--save_strategy", "steps", "--save_steps", "2",
             "--logging_steps", "1", "--report_to", "none", "--disable_tqdm", "true", "--dtype", "float32",
             "--dataloader_pin_memory", "false", "--bf16", "false", *more]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(RECIPE), *words])
    parser = TrlParser((recipe.UserData, SFTConfig, ModelConfig))
    return parser.parse_args_and_config([*recipe.device_flags(), *words])


LORA = ("--use_peft", "true", "--lora_r", "4", "--lora_target_modules", "q_proj", "v_proj", "--lora_dropout", "0.0")


def weights(folder):
    from safetensors.torch import load_file

    return load_file(next(folder.glob("*.safetensors")))


def test_training_that_was_stopped_goes_on_to_the_same_adapter(recipe, tiny_model, logs, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    recipe.train(*arguments(recipe, tiny_model, logs, folder, monkeypatch, *LORA))
    straight = weights(folder / "final")
    log = json.loads((folder / "training_log.json").read_text())
    assert log["steps"] == 4
    assert len([entry for entry in log["history"] if "loss" in entry]) == 4
    shutil.rmtree(folder / "final")
    shutil.rmtree(folder / "checkpoint-4")
    recipe.train(*arguments(recipe, tiny_model, logs, folder, monkeypatch, *LORA))
    resumed = weights(folder / "final")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert not any("embed_tokens.weight" in name or "lm_head" in name for name in straight)

    simulator = FineTuned(TransformersLM(tiny_model), adapter=str(folder / "final"), max_new_tokens=8)
    turn = simulator.reply([scenario()], [Conversation().add("user", "hi").add("assistant", "yes")], seeds=[1])[0]
    assert turn.calls
    assert (folder / "final" / "tokenizer.json").is_file()


def test_a_user_is_trained_on_a_gguf_file(recipe, tiny_model, logs, tmp_path, monkeypatch):
    from gguf_writer import write_tiny_gguf

    monkeypatch.setenv("SIMGYM_CACHE", str(tmp_path / "cache"))
    _, file = write_tiny_gguf(tiny_model, tmp_path)
    folder = tmp_path / "run"
    recipe.train(*arguments(recipe, str(file), logs, folder, monkeypatch, *LORA, "--max_steps", "1"))
    simulator = FineTuned(TransformersLM(str(file)), adapter=str(folder / "final"), max_new_tokens=8)
    (turn,) = simulator.reply([scenario()], [Conversation().add("user", "hi").add("assistant", "yes")], seeds=[1])
    assert turn.calls
    assert json.loads((folder / "training_log.json").read_text())["model"] == str(file)


def scenario():
    return Scenario("s", f"{INTENT_PREFIX}buy eggs", opening="hi")


def test_bfloat16_is_left_on_where_the_processor_multiplies_it_fast(recipe, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", [str(RECIPE)])
    for fast in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda fast=fast: fast)
        assert ("--bf16" in recipe.device_flags()) is not fast


def test_full_fine_tuning_saves_a_model_that_plays_users(recipe, tiny_model, logs, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    recipe.train(*arguments(recipe, tiny_model, logs, folder, monkeypatch))
    model = TransformersLM(str(folder / "final"))
    assert token_id(model.tokenizer, END_OF_CONVERSATION) is not None
    turn = FineTuned(model, max_new_tokens=8).open([scenario()], seeds=[1])[0]
    assert turn.text == "hi"


def test_the_cheap_loss_has_the_value_and_gradients_of_trls_own(recipe, tiny_model, logs, tmp_path, monkeypatch):
    losses, make_trainer_class = [], recipe.trainer_class
    for frozen_head in (True, False):
        settings = arguments(recipe, tiny_model, logs, tmp_path / f"run{frozen_head}", monkeypatch, *LORA)
        with monkeypatch.context() as patch:
            patch.setattr(recipe, "trainer_class", lambda kind=frozen_head, **_: make_trainer_class(frozen_head=kind))
            torch.manual_seed(0)
            trainer, _ = recipe.make_trainer(*settings)
        batch = next(iter(trainer.get_train_dataloader()))
        if not frozen_head:
            batch = losses[0][2]
        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.01)
        loss = trainer.compute_loss(trainer.model, dict(batch))
        loss.backward()
        gradients = {
            name: weights.grad for name, weights in trainer.model.named_parameters() if weights.grad is not None
        }
        losses.append((loss.detach(), gradients, batch))
    (ours, our_gradients, _), (theirs, their_gradients, _) = losses
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert our_gradients.keys() == their_gradients.keys()
    assert any("trainable_tokens" in name for name in our_gradients)
    for name, gradient in our_gradients.items():
        torch.testing.assert_close(gradient, their_gradients[name], rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize(("name", "billions"), [("paper_7b", 7.62), ("paper_14b", 14.77), ("paper_32b", 32.76)])
def test_the_papers_configurations_say_what_they_would_take(name, billions):
    command = [str(RECIPE), "--config", str(CONFIGS / f"{name}.yaml"), "--dry_run"]
    outcome = run_warm(command, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    assert f"{billions:.2f} B weights" in outcome.stdout
    assert "steps          11,876 of 64 conversations" in outcome.stdout
    assert "GiB weights, gradients, optimizer on each of 8 device(s)" in outcome.stdout
