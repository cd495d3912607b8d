"""What GRPO changed: held-out conversations before and after, and whether it is a trick.

The user is the base model completing user turns, in training and here (see `agents/configs/grpo_laptop.yaml`).

    python agents/grpo.py --config agents/configs/grpo_laptop.yaml
    python benchmarks/grpo_training.py runs/grpo_laptop [--seeds 3]

The initial model and the adapter of the last step (nothing was selected) hold the same conversations (scenario and
seed) on the 37 held-out scenarios of the set. Differences are paired and their intervals resample scenarios. Four
looks for tricks: pairs of about the same length, and the win rate at equal length; the relevance judge, which
training did not see; repeated trigrams; and the initial model at temperature 0.7, for a policy may gain by nothing
but writing what it finds likely. Five random conversations before and after go to `conversations.md`, the training's
log and curves beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from simgym.jsonl import read_jsonl
from simgym.transcripts import write_json

RESULTS = Path(__file__).with_name("results") / "training" / "grpo"
BASE = "smollm2-135m-instruct"
SHOWN = 5
ABOUT = 0.1
"""Lengths that differ by less than this share are about the same."""


def main() -> None:
    """Play, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of agents/grpo.py")
    parser.add_argument("--seeds", type=int, default=3, help="conversations on each scenario")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    played = play(arguments.run, arguments.seeds)
    result = {
        "conversations": {name: described(transcripts) for name, transcripts in played.items()},
        "trained_minus_initial": compared(played["trained"], played["initial"]),
        "trained_minus_initial_at_0.7": compared(played["trained"], played["initial at 0.7"]),
        "training": json.loads((arguments.run / "checkpoint.json").read_text(encoding="utf-8"))["validation_reward"],
    }
    write_json(arguments.results / "result.json", result)
    (arguments.results / "conversations.md").write_text(side_by_side(played), encoding="utf-8")
    rows = [row for _, row in read_jsonl(arguments.run / "log.jsonl", allow_nan=True)]
    shutil.copyfile(arguments.run / "log.jsonl", arguments.results / "log.jsonl")
    draw(rows, arguments.results / "curves.png")
    print(json.dumps(result, indent=1))


def play(run: Path, seeds: int) -> dict[str, list[Any]]:
    """Transcripts of each assistant on the held-out scenarios; what was played already is read again."""
    import gymnasium

    import simgym  # noqa: F401  # registers the environments
    from simgym.assistants import LanguageModelAssistant
    from simgym.data import hold_out, load_scenarios
    from simgym.language_models import SamplingParams, load_language_model
    from simgym.rollout import collect

    model = {"kind": "transformers", "model": BASE, "dtype": "bfloat16-mixed"}
    load_language_model(model).load_adapter("trained", str(run / "final"))  # type: ignore[attr-defined]
    _, held_out = hold_out(load_scenarios("everyday"))
    env = gymnasium.make(
        "UserSim-FineTuned-v0",
        scenarios=held_out,
        max_turns=2,
        model=model,
        judge="reward_head",
        judge_model=model,
        simulator_options={"max_new_tokens": 48, "adapter": None},  # as in agents/configs/grpo_laptop.yaml
    )
    as_trained, cooler = SamplingParams(1.0, max_new_tokens=64), SamplingParams(0.7, max_new_tokens=64)
    assistants = {
        "initial": LanguageModelAssistant(model, sampling=as_trained),
        "trained": LanguageModelAssistant(model, sampling=as_trained, adapter="trained"),
        "initial at 0.7": LanguageModelAssistant(model, sampling=cooler),
    }
    # another training in the same folder is another assistant
    weights = hashlib.sha256((run / "final" / "adapter_model.safetensors").read_bytes()).hexdigest()[:12]
    folder = run / "comparison" / weights
    folder.mkdir(parents=True, exist_ok=True)
    n = seeds * len(held_out)
    return {
        name: collect(assistant, env, n=n, seed=1, path=folder / f"{name.replace(' ', '_')}.jsonl", batch_size=64)
        for name, assistant in assistants.items()
    }


def described(transcripts: list[Any]) -> dict[str, Any]:
    """Means of one assistant's conversations."""
    from simgym.rollout import count_exclusions
    from simgym.statistics import clustered_bootstrap_mean

    counted = [transcript for transcript in transcripts if transcript.counts]
    clusters = [transcript.scenario.id for transcript in counted]
    return {
        "reward": asdict(clustered_bootstrap_mean([transcript.reward for transcript in counted], clusters, seed=0)),
        "assistant_characters": float(np.mean([characters(transcript) for transcript in counted])),
        "repeated_trigrams": float(np.mean([repeated(transcript) for transcript in counted])),
        "excluded": count_exclusions(transcripts),
    }


def compared(first: list[Any], second: list[Any]) -> dict[str, Any]:
    """Paired differences of conversations that count in both."""
    from simgym.judges import load_judge
    from simgym.statistics import bootstrap_statistic, clustered_bootstrap_mean, length_controlled_win_rate

    pairs = [(before, after) for before, after in zip(first, second, strict=True) if before.counts and after.counts]

    def mean(values: list[float], of: list[tuple[Any, Any]]) -> dict[str, Any]:
        return asdict(clustered_bootstrap_mean(values, [before.scenario.id for before, _ in of], seed=0))

    alike = [
        (before, after)
        for before, after in pairs
        if abs(characters(before) - characters(after)) <= ABOUT * max(characters(before), characters(after))
    ]
    gains = [before.reward - after.reward for before, after in pairs]
    wins = [(np.sign(gain) + 1) / 2 for gain in gains]
    lengths = np.array([[characters(before), characters(after)] for before, after in pairs])

    def at_equal_length(rows: Any) -> float:
        rate = length_controlled_win_rate(np.array(wins)[rows].tolist(), *lengths[rows].T.tolist()).value
        return math.nan if rate is None else rate

    judge = load_judge("relevance", model=BASE)
    judged = [
        judge.judge(
            [transcript.scenario for transcript in side],
            [transcript.conversation for transcript in side],
            seeds=[0] * len(side),
        )
        for side in zip(*pairs, strict=True)
    ]
    relevance = [
        (pair, before.score - after.score)
        for pair, before, after in zip(pairs, *judged, strict=True)
        if before.score is not None and after.score is not None
    ]
    return {
        "reward": mean(gains, pairs),
        "reward_about_same_length": mean([before.reward - after.reward for before, after in alike], alike),
        "pairs_about_same_length": len(alike),
        "win_rate": mean(wins, pairs),
        "win_rate_at_equal_length": asdict(
            bootstrap_statistic(at_equal_length, [before.scenario.id for before, _ in pairs], seed=0, bounds=(0.0, 1.0))
        ),
        "relevance": mean([gain for _, gain in relevance], [pair for pair, _ in relevance]),
    }


def characters(transcript: Any) -> int:
    """Written by the assistant."""
    return sum(map(len, transcript.conversation.said_by("assistant")))


def repeated(transcript: Any) -> float:
    """Share of the assistant's trigrams that it has written before in the conversation."""
    words = " ".join(transcript.conversation.said_by("assistant")).lower().split()
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0


def side_by_side(played: dict[str, list[Any]]) -> str:
    """Five random conversations before and after, as Markdown."""
    drawn = np.random.default_rng(0).choice(len(played["initial"]), SHOWN, replace=False)
    head = played["initial"][0].fingerprints["judge"]["head"]
    parts = [f"# Five random conversations, before and after\n\nThe judge is `reward_head` with the head `{head}`.\n"]
    for number in sorted(drawn):
        parts.append(f"\n## {played['initial'][number].scenario.id}\n")
        for name in ("initial", "trained"):
            transcript = played[name][number]
            reward = None if transcript.reward is None else round(transcript.reward, 2)
            parts.append(f"\n**{name}**, reward {reward}\n")
            said = [
                f"{message.role}: " + " ".join(message.content.split()) for message in transcript.conversation.messages
            ]
            parts.append("\n```text\n" + "\n".join(line.replace("```", "'''") for line in said) + "\n```\n")
    return "".join(parts)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Reward, length and KL by step."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    panels = [
        ("reward", "mean reward"),
        ("completions/mean_length", "mean completion, tokens"),
        ("kl", "KL to the initial model"),
    ]
    for axis, (key, label) in zip(axes, panels, strict=True):
        training = [(row["step"], float(row[key])) for row in rows if key in row]
        axis.plot(*zip(*training, strict=True), color="tab:blue", alpha=0.6, label="training batch")
        checked = [(row["step"], float(row[f"eval_{key}"])) for row in rows if f"eval_{key}" in row]
        axis.plot(*zip(*checked, strict=True), color="tab:orange", marker="o", label="validation")
        axis.set(xlabel="step", ylabel=label)
    axes[0].legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
