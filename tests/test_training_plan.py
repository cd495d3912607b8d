from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from simgym.errors import ConfigurationError
from simgym.integrations import TrainingPlan, batch_flags, plan_training
from simgym.training_plan import MemoryEstimate, check_memory, check_plan, estimate_state, movable_share

torch = pytest.importorskip("torch", reason="the extra simgym[train] is not installed")

CONFIGS = Path(__file__).resolve().parents[1] / "agents" / "configs"
PAPER = ["--config", str(CONFIGS / "grpo_paper_3b.yaml")]


def shares(flags):
    return int(flags[1]), int(flags[3])


@pytest.mark.parametrize("processes", [1, 2, 4, 5, 8, 16])
def test_an_update_has_the_size_that_the_file_says_in_any_number_of_processes(processes):
    each, accumulation = shares(batch_flags(PAPER, processes=processes))
    assert each * accumulation * processes == 80
    assert each <= 2
    assert 320 % (each * processes) == 0


def test_a_number_of_processes_that_cannot_share_an_update_is_refused_with_numbers_that_can(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(
        ConfigurationError, match=r"80 .* by 3 processes\. Start 1, 2, 4, 5, 8, 10, 16, 20, 40 .* 78 or 81"
    ):
        batch_flags(PAPER)


def test_flags_win_over_the_file_and_contradictions_are_refused():
    assert shares(batch_flags([*PAPER, "--effective-batch", "160", "--per_device_train_batch_size=8"])) == (8, 20)
    assert batch_flags(["--effective_batch", "8", "--gradient_accumulation_steps", "1"], processes=1) == []
    with pytest.raises(ConfigurationError, match=r"8 x gradient_accumulation_steps 2 x 1 process.* is 16"):
        batch_flags(["--effective_batch", "8", "--gradient_accumulation_steps", "2"], processes=1)
    assert batch_flags(["--per_device_train_batch_size", "4"], processes=3) == []


def test_a_small_learning_rate_moves_float32_weights_and_not_those_in_bfloat16():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(64, 1024, generator=generator) * 0.02
    assert movable_share([weights], 8e-7) > 0.99
    assert movable_share([weights.bfloat16()], 8e-7) < 0.02
    assert movable_share([weights.bfloat16()], 1e-2) > 0.99
    assert movable_share([torch.zeros(8, 8, dtype=torch.bfloat16)], 8e-7) == 1  # an adapter's second half


PLAN = TrainingPlan(
    processes=2,
    per_device_batch=2,
    accumulation=20,
    learning_rate=8e-7,
    weights="bfloat16",
    computing="bfloat16",
    parameters=100,
    trainable=100,
    movable=0.0112,
    sharding="none",
    memory=MemoryEstimate(state_gib=46.0, activation_gib=1.0),
)


def test_a_plan_that_trains_nothing_or_another_batch_or_does_not_fit_is_refused():
    with pytest.raises(ConfigurationError, match=r"bfloat16 and the learning rate is 8e-07: .* changes 1\.12 %"):
        check_plan(PLAN)
    good = replace(PLAN, movable=1.0)
    check_plan(good, effective_batch=80)
    with pytest.raises(ConfigurationError, match=r"80 examples .* effective_batch is 64"):
        check_plan(good, effective_batch=64)
    check_memory(good, 79.0)
    with pytest.raises(ConfigurationError, match=r"copy that writes the rollouts need 48\.0 GiB on"):
        check_memory(replace(good, memory=replace(good.memory, copy_gib=2.0)), 47.0)
    with pytest.raises(ConfigurationError, match=r"46\.0 GiB on each device, which has 24\.0 GiB"):
        check_memory(good, 24.0)
    assert "80 examples: 2 process(es) x 2 x 20 accumulated" in good.describe()


def test_sharding_divides_what_it_shards():
    settings = {"frozen_bytes": 0, "trainable": 2**30, "width": 4, "shards": 4}
    assert [estimate_state(**settings, stage=stage) for stage in range(4)] == [16, 10, 7, 4]


def test_the_plan_is_read_off_a_trainer(tiny_model):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="bfloat16")
    arguments = SimpleNamespace(
        world_size=1, per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=8e-7, bf16=False,
        fp16=False, gradient_checkpointing=False, device=torch.device("cpu"),
    )  # fmt: skip
    trainer = SimpleNamespace(model=model, args=arguments)
    with pytest.raises(ConfigurationError, match="kept in bfloat16"):
        plan_training(trainer)
    trainer.model = model.float()
    plan = plan_training(trainer, effective_batch=8, longest=100)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert (plan.trainable, plan.memory.state_gib, plan.memory.copy_gib) == (count, count * 16 / 2**30, 0)
    arguments.bf16 = True  # the engine writes with a copy in bfloat16
    assert plan_training(trainer, generation="engine").memory.copy_gib == count * 2 / 2**30
    assert "a copy that writes the rollouts" in plan_training(trainer, generation="engine").describe()
