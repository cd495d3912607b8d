"""Does a larger base make a better simulated user? Bits per byte of human turns by depth, fine-tuned and role-playing.

    python benchmarks/simulator_size.py

The default model is cut down from 30 to 20 and 10 layers: its first ones and its last three are kept, since what
leaves a layer in the middle is nothing that the output layer could read. Every depth is fine-tuned by the same recipe
on the same examples in the same order, so the token budget is equal, and scored on the same turns of held-out people.
The role-playing user runs on the same cut-down model without training. Cutting layers off a trained model damages it,
and a short training mends only part of that: this is an axis of capacity under one recipe, not of models trained at
their own size. About half an hour on two cores; what is trained is kept. Prediction before the first run: the fine-
tuned user gets better with every step of depth, the role-playing one is useless below full depth.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from simgym.evaluation import load_reference
from simgym.evaluation.simulated_turns import human_likelihoods
from simgym.language_models import DEFAULT_MODEL, resolve_weights
from simgym.simulators import FineTuned, RolePlay
from simgym.statistics import bootstrap_statistic
from simgym.statistics.resampling import Rows
from simgym.transcripts import write_json

LAST = 3
"""Layers kept at the end."""
ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "simulator_size.json"


def main() -> None:
    """Cut, train, score, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[10, 20, 30])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--conversations", type=int, default=38, help="of the test split; one a person")
    parser.add_argument("--folder", type=Path, default=Path("runs/simulator_size"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    people = load_reference("chitchat", conversations=options.conversations, later_turns=1)
    moments = [moment for moment in people.moments if moment.said is not None]
    rows = []
    for layers in options.layers:
        base = cut(layers, options.folder / f"base_{layers}")
        run = train(base, options.folder / f"tuned_{layers}_{options.steps}_steps", options.steps)
        log = json.loads((run / "training_log.json").read_text())
        row: dict[str, Any] = {"layers": layers, "steps": log["steps"], "tokens_seen": log["tokens_seen"]}
        for name, simulator in {
            "fine_tuned": FineTuned(str(base), adapter=str(run / "final")),
            "role_play": RolePlay(str(base)),
        }.items():
            row[name] = bits_per_byte(simulator, moments)
        rows.append(row)
        print(
            "\t".join([f"{layers} layers", *(_shown(name, row[name]) for name in ("fine_tuned", "role_play"))]),
            flush=True,
        )
        write_json(options.output, {"people": people.people, "turns": len(moments), "rows": rows})


def cut(layers: int, folder: Path) -> Path:
    """The default model without the layers in its middle, saved as a model of its own."""
    if not (folder / "model.safetensors").is_file():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        whole = resolve_weights(DEFAULT_MODEL).path
        model = AutoModelForCausalLM.from_pretrained(whole)
        kept = [*range(layers - LAST), *range(len(model.model.layers) - LAST, len(model.model.layers))]
        model.model.layers = model.model.layers.__class__(model.model.layers[number] for number in kept)
        model.config.num_hidden_layers = layers
        if getattr(model.config, "layer_types", None):
            model.config.layer_types = model.config.layer_types[:layers]
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(whole).save_pretrained(folder)
    return folder


def train(base: Path, folder: Path, steps: int) -> Path:
    """Run the recipe on a base, unless an earlier run has finished."""
    if not (folder / "training_log.json").is_file():
        command = [sys.executable, str(ROOT / "agents" / "sft_user.py"), "--config", "agents/configs/laptop.yaml",
                   "--model_name_or_path", str(base.resolve()), "--output_dir", str(folder.resolve()),
                   "--max_steps", str(steps), "--eval_strategy", "no"]  # fmt: skip
        subprocess.run(command, check=True, cwd=ROOT)
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    return folder


def bits_per_byte(simulator: Any, moments: Any) -> dict[str, Any]:
    """Of what the people said, with an interval over people."""
    likelihoods = []
    for start in range(0, len(moments), 16):
        likelihoods += human_likelihoods(simulator, moments[start : start + 16])
    bits = np.array([-likelihood.logprob / math.log(2) for likelihood in likelihoods])
    sizes = np.array([len(moment.said.strip().encode()) for moment in moments])

    def ratio(rows: Rows) -> float:
        return float(bits[rows].sum() / sizes[rows].sum())

    return bootstrap_statistic(ratio, [moment.person for moment in moments], seed=0, resamples=1999).to_json()


def _shown(name: str, estimate: dict[str, Any]) -> str:
    return f"{name} {estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}] bits per byte"


if __name__ == "__main__":
    main()
