"""GRPO with TRL's vLLM in the same process, on vLLM's CPU build: do the rollouts follow the weights?

    python benchmarks/trl_colocate.py --output benchmarks/results/trl_colocate.json

A few updates of a tiny random model over conversations with a user, and before each rollout the weights go to vLLM.
What is printed: how often that happened, how far the weights moved, and how far vLLM's log-probabilities of the sampled
tokens are from the trainer's. Were the rollouts drawn with old weights, the last number would grow with the second;
`--stale` leaves the weights in vLLM as they were, for comparison. vLLM's CPU build packs the weights of linear
layers and drops the originals, so that new ones cannot be loaded; one function is replaced here to keep them (on GPUs
nothing is packed). It runs in the environment that `make vllm` makes, with the extra `train` beside it. TRL warns of
vLLM 0.32, which is newer than what it has been tested with.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # TRL hands weights over inside this process
os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # bound, it waits for a processor that others use
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main() -> None:
    """Parse the arguments, train, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--stale", action="store_true", help="never give vLLM the new weights")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    keep_unpacked_weights()
    result = train(arguments.steps, arguments.learning_rate, stale=arguments.stale)
    print(json.dumps(result, indent=1), flush=True)
    if (file := arguments.output) is not None:
        runs = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        runs["stale" if arguments.stale else "synced"] = result
        file.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")


def keep_unpacked_weights() -> None:
    """Let vLLM's linear layers on CPUs multiply with the weights as they are loaded."""
    import torch
    import trl.kernels  # noqa: F401  # looks for Triton; behind vLLM it would find vLLM's placeholder without a version
    from vllm.model_executor.layers import utils

    def unpacked(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = unpacked


def train(steps: int, learning_rate: float, *, stale: bool) -> dict[str, Any]:
    """A few updates of the tiny model against a user who always says the same."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from simgym.data import load_scenarios
    from simgym.integrations import judge_reward, make_rollout_func, scenario_dataset
    from simgym.testing import save_tiny_model

    scenarios = load_scenarios("everyday")[:8]
    rollouts = make_rollout_func(
        "UserSim-RolePlayOpening-v0", scenarios=scenarios, model="scripted:and then?", judge=Vowels(), max_turns=2
    )
    with tempfile.TemporaryDirectory() as folder:
        path = str(save_tiny_model(Path(folder) / "model", head_size=32))
        trainer = GRPOTrainer(
            AutoModelForCausalLM.from_pretrained(path, dtype="float32"),
            judge_reward,
            args=GRPOConfig(
                output_dir=folder, use_cpu=True, bf16=False, report_to="none", save_strategy="no", logging_steps=1,
                max_steps=steps, per_device_train_batch_size=4, num_generations=4, max_completion_length=24,
                learning_rate=learning_rate, lr_scheduler_type="constant", use_vllm=True, vllm_mode="colocate",
                vllm_max_model_length=1024, vllm_importance_sampling_mode="token_truncate",
            ),
            train_dataset=scenario_dataset(scenarios),
            processing_class=AutoTokenizer.from_pretrained(path),
            rollout_func=rollouts,
        )  # fmt: skip
        before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        syncs = count_syncs(trainer.vllm_generation, stale=stale)
        started = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - started
    moved = [
        float((parameter.detach() - first).abs().mean())
        for parameter, first in zip(trainer.model.parameters(), before, strict=True)
    ]
    rows = [row for row in trainer.state.log_history if "reward" in row]
    return {
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "vllm")},
        "threads": torch.get_num_threads(),
        "steps": len(rows),
        "weight_syncs": syncs[0],
        "mean_weight_change": sum(moved) / len(moved),
        "logprob_difference_mean": [row["sampling/sampling_logp_difference/mean"] for row in rows],
        "turns": [row["simgym/turns"] for row in rows],
        "seconds": round(seconds, 1),
    }


def count_syncs(generation: Any, *, stale: bool) -> list[int]:
    """How often the weights were to go to vLLM, counted from now on; a list of one number."""
    count, original = [0], generation.sync_weights

    def sync_weights() -> None:
        count[0] += 1
        if not stale:
            original()

    generation.sync_weights = sync_weights
    return count


class Vowels:
    """A judge for which rewards differ within a group: the share of vowels in what the assistant said."""

    def judge(self, scenarios: Any, conversations: Any, *, seeds: Any) -> list[Any]:
        from simgym.judges import Judgement

        said = ["".join(conversation.said_by("assistant")) for conversation in conversations]
        return [Judgement(sum(letter in "aeiou" for letter in text) / max(1, len(text))) for text in said]

    def fingerprint(self) -> dict[str, Any]:
        return {"judge": "vowels"}


if __name__ == "__main__":
    main()
