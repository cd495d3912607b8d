"""Put a trained adapter where the package ships it: half precision, no paths of this machine, a model card.

    python agents/package_adapter.py runs/sft_user
    python benchmarks/shipped_user.py
    python agents/package_adapter.py      # the card anew: it now has what was measured

Copies the weights that `calibrate_leaving.py` wrote as float16 safetensors with their configuration, names the added
token, and writes the card from `training_log.json`, the record of the calibration that is put into it, and
`benchmarks/results/shipped_user.json` and `shipped_user_60.json` (of more conversations, `--conversations 60 --speak
shipped`), so that every number on it was measured.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from simgym.conversation import END_OF_CONVERSATION
from simgym.simulators import SHIPPED_ADAPTER
from simgym.statistics import Estimate, format_interval

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "shipped_user.json"
WIDER = RESULTS.with_name("shipped_user_60.json")
CARD = Path(__file__).with_name("adapter_card.md")


def main() -> None:
    """Copy, convert, describe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path, nargs="?", help="output folder of agents/sft_user.py; none: the card alone")
    parser.add_argument("--target", type=Path, default=SHIPPED_ADAPTER)
    options = parser.parse_args()
    if options.run is None:
        log = json.loads((options.target / "training_log.json").read_text())
    else:
        log = json.loads((options.run / "training_log.json").read_text())
        log["leaving"] = json.loads((options.run / "calibrated" / "leaving.json").read_text())
        package(options.run / "calibrated", options.target, log["model"])
        (options.target / "training_log.json").write_text(json.dumps(log, indent=1) + "\n")
    (options.target / "README.md").write_text(card(log, results_of(RESULTS), results_of(WIDER)))
    size = sum(entry.stat().st_size for entry in options.target.iterdir()) / 1e6
    print(f"{options.target}: {size:.1f} MB")


def results_of(path: Path) -> dict[str, Any] | None:
    """What `benchmarks/shipped_user.py` wrote; None if it has not run."""
    return json.loads(path.read_text()) if path.is_file() else None


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


def card(log: dict[str, Any], results: dict[str, Any] | None, wider: dict[str, Any] | None) -> str:
    """The model card."""
    settings, data, leaving = log["settings"], log["data"]["train"], log["leaving"]
    evaluations = [(entry["step"], entry["eval_loss"]) for entry in log["history"] if "eval_loss" in entry]
    seconds = _training_seconds(log["history"])
    return CARD.read_text().format(
        end=END_OF_CONVERSATION,
        kept=data["kept"],
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
        leaving=(
            f"a logit of {leaving['shift']:+.2f} on `{END_OF_CONVERSATION}`, chosen on {leaving['moments']} moments of "
            f"{leaving['conversations']} train-side conversations that were held out: people left at "
            f"{leaving['people_leave']:.3f} of them, the simulator at {leaving['leaves_before']:.3f} before and "
            f"{leaving['leaves_after']:.3f} after (temperature {leaving['temperature']:g}, top-p {leaving['top_p']:g})"
        ),
        calibration=leaving["conversations"],
        results=_results(results) + _wider(wider),
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


def _results(results: dict[str, Any] | None) -> str:
    if results is None:
        return "\n"
    source, later = results["reference"], results["bits_per_byte"]["later"]
    columns = ["shipped", "before", "role-play"]
    cards = {card["simulator"]: card for card in results["scorecards"]}
    bits = [_format_estimate(later["bits"][name]) for name in columns]
    talk = [_format_estimate(results["small_talk"].get(name)) for name in (*columns, "people")]
    rows = [f"| bits per byte of people's later turns ({later['turns']}) | {' | '.join(bits)} | – |"]
    rows += [f"| small talk, share of later turns | {' | '.join(talk)} |"]
    for number, metric in enumerate(cards["shipped"]["metrics"]):
        if metric["name"] in ("bits_per_byte", "perplexity"):  # openings and later turns together
            continue
        own = [cards[name]["metrics"][number]["simulated"] if name in cards else None for name in columns]
        rows.append(f"| {metric['title']} | {' | '.join(map(_format_estimate, (*own, metric['human'])))} |")
    before, played = (_percent(later["fewer_percent_than"][name]) for name in ("before", "role-play"))
    return f"""
## Beside people, the adapter shipped before, and the same base model told to play the user

People who talk with assistants and of whom nothing was trained on (`python benchmarks/shipped_user.py`;
{source["conversations"]} conversations, {source["moments"]} moments; 95 % intervals over people). For people's later
turns it needs {before} fewer bits per byte than the adapter before it and {played} fewer than role-play.

| | this adapter | before | role-play | people |
|---|---|---|---|---|
{chr(10).join(rows)}

"""


def _wider(results: dict[str, Any] | None) -> str:
    """The main figures on more conversations, without those of simulators that did not speak there."""
    if results is None:
        return ""
    source, later = results["reference"], results["bits_per_byte"]["later"]
    metrics = {metric["name"]: metric for metric in results["scorecards"][0]["metrics"]}
    fewer = {name: _percent(value) for name, value in later["fewer_percent_than"].items()}
    compared = f"{fewer['before']} fewer bits per byte than the adapter before it"
    if "role-play" in fewer:
        compared += f" and {fewer['role-play']} fewer than role-play"
    auc, words, leaving, leaves = (
        metrics[name] for name in ("classifier_auc", "words_per_turn", "termination_f1", "leaves")
    )
    shown = {
        f"{name} {side}": _format_estimate(metric[key])
        for name, metric in (("auc", auc), ("words", words), ("leaves", leaves), ("f1", leaving))
        for side, key in (("own", "simulated"), ("people", "human"))
    }
    return f"""With `--conversations {source["conversations"]} --speak shipped`, {source["moments"]} moments: for
{later["turns"]} later turns it needs {compared}.
AUC {shown["auc own"]} (people against people {shown["auc people"]}); words per turn
{shown["words own"]} (people {shown["words people"]}); leaves at {shown["leaves own"]} of
later moments (people at {shown["leaves people"]}), F1 {shown["f1 own"]}.

"""


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
