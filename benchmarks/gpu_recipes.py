"""The training recipes of `gpu.py`: as the laptop configurations say, unedited but for their length."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu_engine import Setup

FIGURES = ("step", "update", "reward", "eval_reward", "kl", "grad_norm", "step_time", "seconds", "faults")
"""What is kept of a line of a recipe's log."""
FEW_WORDS = '{"max_new_tokens": 6, "adapter": null}'
SMALL_GRPO = (
    *("--max_steps", "2", "--per_device_train_batch_size", "2", "--num_generations", "2"),
    *("--max_completion_length", "4", "--validation", "2", "--eval_strategy", "no", "--simulator_options", FEW_WORDS),
)
SMALL_PPO = (
    *("--updates", "2", "--num_envs", "2", "--n_steps", "2", "--max_new_tokens", "6", "--candidates", "2"),
    *("--components", "4", "--max_turns", "1", "--simulator_options", FEW_WORDS),
)


def train_grpo(setup: Setup) -> dict[str, Any]:
    """Twenty steps of GRPO with a validation before and behind them, then a few whose turns TRL generates."""
    length = SMALL_GRPO if setup.small else ("--max_steps", "20", "--eval_steps", "20")
    engine = train(setup, "grpo", (*length, "--save_strategy", "no", "--generation", "engine"), share=0.6)
    short = SMALL_GRPO if setup.small else ("--max_steps", "4", "--eval_strategy", "no")
    return {"engine": engine, "trl": train(setup, "grpo", (*short, "--save_strategy", "no"), share=0.4)}


def train_ppo(setup: Setup) -> dict[str, Any]:
    """Twenty updates of PPO over replies to choose from."""
    length = SMALL_PPO if setup.small else ("--updates", "20")
    with tempfile.TemporaryDirectory() as folder:
        scenarios = ("--scenarios", str(few_scenarios(Path(folder)))) if setup.small else ()
        return train(setup, "ppo", (*length, *scenarios, "--compare", "false", "--env_id", "UserSim-FineTuned-v0"))


def few_scenarios(folder: Path) -> Path:
    """A file of the first everyday scenarios."""
    from simgym.data import load_scenarios

    path = folder / "few.jsonl"
    rows = [json.dumps(scenario.to_json()) for scenario in load_scenarios("everyday", limit=14)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def train(setup: Setup, recipe: str, flags: tuple[str, ...], *, share: float = 1.0) -> dict[str, Any]:
    """Run a recipe in a process of its own; seconds of the whole, and its log as far as it came within the budget.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        script, config = f"agents/{recipe}.py", f"agents/configs/{recipe}_laptop.yaml"
        command = [sys.executable, script, "--config", config, "--output_dir", folder, *flags]
        path = os.pathsep.join([str(setup.root), os.environ.get("PYTHONPATH", "")])
        begun = time.monotonic()
        try:
            outcome = subprocess.run(
                command, cwd=setup.root, capture_output=True, text=True, check=False,
                env={**os.environ, "PYTHONPATH": path, "TRL_EXPERIMENTAL_SILENCE": "1"},
                timeout=max(30.0, share * (setup.deadline - time.monotonic())),
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            return {"broken_off_after_s": round(error.timeout), "log": logged(folder)[-26:]}
        if outcome.returncode:
            raise RuntimeError(f"{script} ended with {outcome.returncode}: {outcome.stderr[-1400:]}")
        return {"seconds": round(time.monotonic() - begun, 1), "log": logged(folder)[-26:]}


def logged(folder: str) -> list[dict[str, Any]]:
    """Figures of each logged step."""
    lines = [line for log in Path(folder).rglob("log.jsonl") for line in log.read_text(encoding="utf-8").splitlines()]
    return [{key: row[key] for key in FIGURES if key in row} for row in map(json.loads, lines)]
