"""Where the time of a GRPO step goes, and what stepping all rollouts together saves.

    python benchmarks/grpo_step.py [--rollouts 8] [--repeats 3]

The same work in one run, interleaved: simgym's rollout function on 8 rollouts (2 scenarios, groups of 4) at once, and
on one after the other, which is how TRL's `environment_factory` loop steps environments. The policy is the embedded
model with LoRA, user and judge are the defaults on the same weights; every assistant turn has exactly 48 tokens, what
users say may differ (their tokens are counted). Judging is timed inside the rollout, the update by a whole step.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from simgym.data import load_scenarios
from simgym.integrations import judge_reward, make_rollout_func, scenario_dataset
from simgym.integrations.trl import Rollouts
from simgym.judges import load_judge
from simgym.language_models import DEFAULT_MODEL, resolve_weights
from simgym.transcripts import write_json

RESULTS = Path(__file__).with_name("results") / "grpo_step.json"
TURNS, TOKENS = 2, 48


class Timed:
    """A judge, and the seconds spent in it."""

    def __init__(self, judge: Any) -> None:
        self.inner, self.seconds = judge, 0.0

    def judge(self, *arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return self.inner.judge(*arguments, **named)
        finally:
            self.seconds += time.perf_counter() - began

    def fingerprint(self) -> dict[str, Any]:
        return dict(self.inner.fingerprint())


class TimedRollouts:
    """A rollout function, and the seconds spent in it."""

    def __init__(self, rollouts: Rollouts) -> None:
        self.rollouts, self.seconds = rollouts, 0.0

    def __call__(self, *arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return self.rollouts(*arguments)
        finally:
            self.seconds += time.perf_counter() - began


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rollouts", type=int, default=8, help="an even number: two groups")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    judge = Timed(load_judge("reward_head"))
    scenarios = load_scenarios("everyday", limit=2)
    rollouts = TimedRollouts(
        make_rollout_func(
            "UserSim-FineTuned-v0",
            scenarios=scenarios,
            judge=judge,
            max_turns=TURNS,
            simulator_options={"max_new_tokens": 32},
        )
    )
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = make_trainer(scenarios, rollouts, options.rollouts, folder)
        began = time.perf_counter()
        trainer.train()
        step = time.perf_counter() - began
    parts = {
        "rollout": rollouts.seconds - judge.seconds,
        "judge": judge.seconds,
        "update": step - rollouts.seconds,
    }
    prompts = [
        [{"role": "user", "content": scenario.id}]
        for scenario in scenarios
        for _ in range(options.rollouts // len(scenarios))
    ]
    together, alone = [], []
    for _ in range(options.repeats):
        together.append(timed(rollouts.rollouts, [prompts], trainer))
        alone.append(timed(rollouts.rollouts, [[prompt] for prompt in prompts], trainer))
        print(f"together {together[-1]}, one at a time {alone[-1]}", flush=True)
    ratios = [slow["seconds"] / fast["seconds"] for slow, fast in zip(alone, together, strict=True)]
    results = {
        "rollouts": options.rollouts,
        "turns": TURNS,
        "tokens_per_assistant_turn": TOKENS,
        "share_of_a_step": {name: seconds / step for name, seconds in parts.items()},
        "together": together,
        "one_at_a_time": alone,
        "times_faster": {"median": float(np.median(ratios)), "lowest": min(ratios), "highest": max(ratios)},
    }
    print({name: round(value, 3) for name, value in results["share_of_a_step"].items()}, results["times_faster"])
    write_json(RESULTS, results)


def make_trainer(scenarios: Any, rollouts: Any, count: int, folder: str) -> Any:
    """A GRPO trainer for one step."""
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    path = resolve_weights(DEFAULT_MODEL).path
    return GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(path, dtype="float32", use_safetensors=True),
        judge_reward,
        args=GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            max_steps=1,
            per_device_train_batch_size=count,
            num_generations=count // 2,
            max_completion_length=TOKENS,
            generation_kwargs={"min_new_tokens": TOKENS},
        ),
        train_dataset=scenario_dataset(scenarios),
        processing_class=AutoTokenizer.from_pretrained(path),
        rollout_func=rollouts,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )


def timed(rollouts: Rollouts, batches: list[Any], trainer: Any) -> dict[str, Any]:
    """Seconds and tokens of some batches of rollouts, in evaluation mode: always the same users."""
    trainer.model.eval()
    began, assistant, others = time.perf_counter(), 0, 0
    for batch in batches:
        output = rollouts(batch, trainer)
        assistant += sum(map(sum, output["env_mask"]))
        others += sum(len(mask) - sum(mask) for mask in output["env_mask"])
    return {
        "seconds": round(time.perf_counter() - began, 2),
        "assistant_tokens": assistant,
        "tokens_between": others,
    }


if __name__ == "__main__":
    main()
