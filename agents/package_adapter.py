"""Put a trained adapter where the package ships it: half precision, no paths of this machine, a model card.

    python agents/package_adapter.py runs/sft_user_laptop
    python benchmarks/simulator_realism.py
    python agents/package_adapter.py runs/sft_user_laptop      # again: the card now has the measured realism

Copies the adapter's weights as float16 safetensors and its configuration, names its added tokens, and writes the card
from `training_log.json` and `benchmarks/results/simulator_realism.json`, so that every number on it was measured.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from simgym.conversation import END_OF_CONVERSATION
from simgym.simulators import SHIPPED_ADAPTER
from simgym.statistics import Estimate, format_interval

REALISM = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "simulator_realism.json"
CARD = Path(__file__).with_name("adapter_card.md")


def main() -> None:
    """Copy, convert, describe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path, help="output folder of agents/sft_user.py")
    parser.add_argument("--target", type=Path, default=SHIPPED_ADAPTER)
    options = parser.parse_args()
    log = json.loads((options.run / "training_log.json").read_text())
    package(options.run / "final", options.target, log["model"])
    shutil.copy(options.run / "training_log.json", options.target / "training_log.json")
    realism = json.loads(REALISM.read_text()) if REALISM.is_file() else None
    (options.target / "README.md").write_text(card(log, realism))
    size = sum(entry.stat().st_size for entry in options.target.iterdir()) / 1e6
    print(f"{options.target}: {size:.1f} MB")


def package(source: Path, target: Path, base: str) -> None:
    """Weights in half precision, configuration without paths, names of the added tokens."""
    import torch
    from safetensors.torch import load_file, save_file

    target.mkdir(parents=True, exist_ok=True)
    weights = load_file(source / "adapter_model.safetensors")
    save_file(
        {name: weight.to(torch.float16) for name, weight in weights.items()}, target / "adapter_model.safetensors"
    )
    (target / "adapter_model.safetensors").chmod(0o644)
    config = json.loads((source / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base
    (target / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    (token,) = config["trainable_token_indices"]
    (target / "added_tokens.json").write_text(json.dumps({END_OF_CONVERSATION: token}) + "\n")


def card(log: dict[str, Any], realism: dict[str, Any] | None) -> str:
    """The model card."""
    settings, data = log["settings"], log["data"]["train"]
    evaluations = [(entry["step"], entry["eval_loss"]) for entry in log["history"] if "eval_loss" in entry]
    seconds = _training_seconds(log["history"])
    return CARD.read_text().format(
        end=END_OF_CONVERSATION,
        kept=data["kept"],
        skipped=sum(data["skipped"].values()),
        cut=data["conversations_cut"],
        max_tokens=settings["max_tokens"],
        r=log["lora"]["r"],
        alpha=log["lora"]["alpha"],
        parameters=log["trainable_parameters"],
        steps=log["steps"],
        batch=settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"],
        tokens=log["tokens_seen"],
        epochs=max(entry["epoch"] for entry in log["history"] if "epoch" in entry),
        lr=settings["learning_rate"],
        schedule=settings["lr_scheduler_type"],
        hours=seconds / 3600,
        curve="\n".join(f"| {step} | {loss:.3f} |" for step, loss in evaluations),
        realism=_realism(realism),
        **log["versions"],
    )


def _training_seconds(history: list[dict[str, Any]]) -> float:
    """The runtime of all sessions; each counts from its own start, so a smaller number begins a new one."""
    total = last = 0.0
    for runtime in (entry["train_runtime"] for entry in history if "train_runtime" in entry):
        if runtime < last:
            total += last
        last = runtime
    return total + last


def _realism(results: dict[str, Any] | None) -> str:
    if results is None:
        return "\n"
    ours = next(card for card in results["scorecards"] if card["simulator"] == "FineTuned")
    theirs = next(card for card in results["scorecards"] if card["simulator"] == "RolePlay")
    rows = []
    for mine, other in zip(_metrics(ours), _metrics(theirs), strict=True):
        cells = [_format_estimate(estimate) for estimate in (mine["simulated"], other["simulated"], mine["human"])]
        rows.append(f"| {mine['title']} | {' | '.join(cells)} |")
    source = results["reference"]
    fewer, strangers = (results["comparison"][key] for key in ("fewer_bits_per_byte_percent", "strangers"))
    people = f"{source['conversations']} conversations of {source['people']} people, {source['moments']} moments"
    return f"""
## Beside people, and beside the same base model told to play the user

{people}: people whose turns it was not trained to write (`python benchmarks/simulator_realism.py`; 95 %
intervals over people). For what they said it needs {_percent(fewer)} fewer bits per byte than the role-playing
user; {_percent(strangers)} for the {strangers["n"]} people who sit in neither seat of a train conversation.

| | this adapter | role-play | people |
|---|---|---|---|
{chr(10).join(rows)}

"""


def _metrics(card: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a scorecard; before version 2 of the results they are called figures."""
    rows: list[dict[str, Any]] = card.get("metrics", card.get("figures"))
    return rows


def _percent(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.1f} % {format_interval(Estimate.from_json(estimate))}"


def _format_estimate(estimate: dict[str, Any] | None) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    digits = 1 if abs(estimate["value"]) >= 10 else 2 if abs(estimate["value"]) >= 1 else 3
    value = f"{estimate['value']:.{digits}f}"
    return (
        value if estimate["low"] is None else f"{value} [{estimate['low']:.{digits}f}, {estimate['high']:.{digits}f}]"
    )


if __name__ == "__main__":
    main()
