"""The policy's turns by simgym's engine: on the weights of this moment, the same for the same seed."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest

from simgym.errors import ConfigurationError
from simgym.integrations import judge_reward, make_rollout_func, scenario_dataset
from simgym.judges import Judgement
from simgym.language_models.policy_engine import PolicyEngine

trl = pytest.importorskip("trl", reason="the extra simgym[train] is not installed")


class Length:
    def judge(self, scenarios, conversations, *, seeds):
        return [Judgement(min(1.0, len(str(talk.to_json())) / 999)) for talk in conversations]

    def fingerprint(self):
        return {"judge": "length"}


def make_trainer(tiny_model, scenarios, folder, *, lora=False, **options):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rollouts = make_rollout_func(
        "UserSim-Replay-v0", scenarios=scenarios, judge=Length(), max_turns=2, generation="engine", seed=3
    )
    settings = {"temperature": 1.0, "max_completion_length": 6, "learning_rate": 1e-2, **options}
    settings.setdefault("bf16", False)
    config = trl.GRPOConfig(
        output_dir=str(folder), use_cpu=True, report_to="none", per_device_train_batch_size=8,
        num_generations=4, max_steps=2, logging_steps=1, save_strategy="no", disable_tqdm=True, **settings,
    )  # fmt: skip
    adapter = None
    if lora:
        from peft import LoraConfig

        adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return trl.GRPOTrainer(
            AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32"), judge_reward, args=config,
            train_dataset=scenario_dataset(scenarios), processing_class=AutoTokenizer.from_pretrained(tiny_model),
            rollout_func=rollouts, peft_config=adapter,
        )  # fmt: skip


def prompts_of(scenarios):
    return [[{"role": "user", "content": scenario.id}] for scenario in scenarios[:2] for _ in range(4)]


@pytest.mark.parametrize("lora", [False, True])
def test_rollouts_follow_the_weights_that_are_trained(tiny_model, scenarios, tmp_path, lora):
    """All but greedy sampling gives the most likely token of the model as it is after each step, not as it was."""
    import torch

    trainer = make_trainer(tiny_model, scenarios, tmp_path, lora=lora, top_p=1e-6)
    trainer.train()
    output = trainer.rollout_func(prompts_of(scenarios), trainer)
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    for prompt, completion, mask in zip(
        output["prompt_ids"], output["completion_ids"], output["env_mask"], strict=True
    ):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *completion]])).logits[0]
        likeliest = logits[len(prompt) - 1 : -1].argmax(-1).tolist()
        written = [(token, best) for token, best, ours in zip(completion, likeliest, mask, strict=True) if ours]
        assert written
        assert all(token == best for token, best in written)


def test_the_same_seed_and_step_write_the_same_turns_and_others_write_others(tiny_model, scenarios, tmp_path):
    trainer = make_trainer(tiny_model, scenarios, tmp_path)
    trainer.model.train()
    first, again = (trainer.rollout_func(prompts_of(scenarios), trainer)["completion_ids"] for _ in range(2))
    assert first == again
    assert len({tuple(ids) for ids in first[:4]}) == 4  # a group explores
    assert trainer.model.training
    trainer.state.global_step = 1
    assert trainer.rollout_func(prompts_of(scenarios), trainer)["completion_ids"] != first


@pytest.mark.parametrize("lora", [False, True])
def test_under_mixed_precision_the_engine_reads_rounded_weights_outside_of_autocast(
    tiny_model, scenarios, tmp_path, lora
):
    """What it writes is most likely for the policy's weights of this moment in bfloat16, without any autocast."""
    import torch

    trainer = make_trainer(tiny_model, scenarios, tmp_path, lora=lora, bf16=True, top_p=1e-6)
    seen = []
    trainer.train()
    policy = trainer.accelerator.unwrap_model(trainer.model)
    forward = policy.forward
    engine = trainer.rollout_func._engine
    for layer in engine._copy.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16):
        output = trainer.rollout_func(prompts_of(scenarios), trainer)
    assert seen
    assert not any(seen)
    assert policy.forward == forward  # TRL trains under autocast as before
    assert {weight.dtype for weight in policy.parameters()} == {torch.float32}
    assert {weight.dtype for weight in engine._copy.parameters()} == {torch.bfloat16}
    for ours, theirs in zip(engine._copy.parameters(), policy.parameters(), strict=True):
        assert torch.equal(ours, theirs.to(torch.bfloat16))
    prompt, completion = output["prompt_ids"][0], output["completion_ids"][0]
    with torch.no_grad():
        logits = engine._copy(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    drawn = logits.gather(-1, torch.tensor(completion)[:, None])[:, 0]
    ours = torch.tensor(output["env_mask"][0], dtype=torch.bool)
    assert ((logits.amax(-1) - drawn)[ours] < 0.1).all()  # the likeliest, up to rounding in another order


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top_k": 5}, "top_k, which is 5"),
        ({"repetition_penalty": 1.2}, "repetition_penalty, which is 1.2"),
        ({"generation_kwargs": {"num_beams": 2}}, "generation_kwargs"),
    ],
)
def test_sampling_that_the_engine_does_not_have_is_refused_before_the_training(
    tiny_model, scenarios, tmp_path, options, said
):
    trainer = make_trainer(tiny_model, scenarios, tmp_path, **options)
    with pytest.raises(ConfigurationError, match=said):
        trainer.train()
    with pytest.raises(ConfigurationError, match="use_vllm"):
        PolicyEngine(0).check(SimpleNamespace(use_vllm=True))
