"""What PPO's policy is worth: the same held-out conversations run by it and by everything simpler, compared in pairs.

`ppo.py` calls `compare` when its updates are done. The folder gets every conversation, `result.json` and `curves.png`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from simgym.assistants import ActionSet, Candidates, Strategies
from simgym.integrations import as_model
from simgym.jsonl import read_jsonl
from simgym.language_models import SamplingParams


def compare(run: Any, env: Any, *, n: int) -> None:
    """The trained policy beside the one it began as (close to a uniform choice) and everything that is fixed.

    Args:
        run: The `Run` of `ppo.py`, finished.
        env: Of held-out scenarios.
        n: Conversations of each assistant.
    """
    from simgym.rollout import collect

    settings = run.settings
    assistants: dict[str, Any] = {"trained": run.assistant(), "initial": run.assistant(initial=True)}
    assistants |= rivals(run)
    transcripts = {}
    for name, assistant in assistants.items():
        # what is fixed does not depend on the run's seed, so runs one after the other share it
        base = run.folder if name in ("trained", "initial") else run.folder.parent / f"{settings.env_id}-fixed"
        base.mkdir(exist_ok=True)
        updates = f"_{settings.updates}" if name == "trained" else ""
        path = base / f"{name.replace(' ', '_')}{updates}.jsonl"
        transcripts[name] = collect(assistant, env, n=n, seed=1, path=path, batch_size=64)
        print(name, summary(transcripts[name]), flush=True)
    result = {
        "settings": asdict(settings),
        "assistants": {name: summary(conversations) for name, conversations in transcripts.items()},
    }
    result["trained_minus"] = {
        name: difference(transcripts["trained"], transcripts[name]) for name in transcripts if name != "trained"
    }
    if not run.action_set.num_candidates:
        result["chosen_by_trained"] = chosen_by_turn(run, transcripts["trained"])
    (run.folder / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plot(run.folder, result)


def rivals(run: Any) -> dict[str, Any]:
    """Every fixed strategy, and where there are candidates also the longest and the shortest of them."""
    settings = run.settings
    names = settings.strategies
    sampling = SamplingParams(temperature=settings.temperature, max_new_tokens=settings.max_new_tokens)
    strategies = Strategies(as_model(settings.model), names=names, sampling=sampling)
    rules: dict[str, tuple[ActionSet, Callable[[Candidates], int]]] = {
        f"always {name}": (strategies, lambda candidates, number=number: number) for number, name in enumerate(names)
    }
    if run.action_set.num_candidates:
        rules["the longest"] = (run.action_set, lambda candidates: int(np.argmax(lengths(candidates))))
        rules["the shortest"] = (run.action_set, lambda candidates: int(np.argmin(lengths(candidates))))
    return {name: Rule(action_set, name, pick) for name, (action_set, pick) in rules.items()}


def lengths(candidates: Candidates) -> list[int]:
    """Characters of each reply."""
    return [len(turn.text) for turn in candidates]


class Rule:
    """Chooses by a rule instead of a policy; implements `Assistant`."""

    def __init__(self, action_set: ActionSet, name: str, pick: Callable[[Candidates], int]) -> None:
        self.action_set, self.name, self.pick = action_set, name, pick

    def respond(self, conversations: Any, *, seeds: Any) -> Any:
        candidates_N = self.action_set.propose(conversations, seeds=seeds)
        actions = [self.pick(candidates) for candidates in candidates_N]
        return self.action_set.apply(conversations, candidates_N, actions, seeds=seeds)

    def fingerprint(self) -> dict[str, Any]:
        return {"assistant": "rule", "rule": self.name, "choices": self.action_set.to_json()}


def summary(transcripts: list[Any]) -> dict[str, Any]:
    """Mean reward with an interval over scenarios, length, and what does not count."""
    from simgym.rollout import count_exclusions
    from simgym.statistics import clustered_bootstrap_mean

    counted = [transcript for transcript in transcripts if transcript.counts]
    lengths = [sum(map(len, transcript.conversation.said_by("assistant"))) for transcript in counted]
    rewards, clusters = (
        [transcript.reward for transcript in counted],
        [transcript.scenario.id for transcript in counted],
    )
    return {
        "reward": asdict(clustered_bootstrap_mean(rewards, clusters, seed=0)),
        "conversations": len(counted),
        "assistant_characters": float(np.mean(lengths)) if lengths else None,
        "excluded": count_exclusions(transcripts),
    }


def difference(first: list[Any], second: list[Any]) -> dict[str, Any]:
    """Mean of first - second over the conversations (scenario and seed) that count in both."""
    from simgym.statistics import clustered_bootstrap_mean

    pairs = [(mine, theirs) for mine, theirs in zip(first, second, strict=True) if mine.counts and theirs.counts]
    gains, clusters = [mine.reward - theirs.reward for mine, theirs in pairs], [mine.scenario.id for mine, _ in pairs]
    return asdict(clustered_bootstrap_mean(gains, clusters, seed=0))


def chosen_by_turn(run: Any, transcripts: list[Any]) -> list[list[int]]:
    """How often the trained policy chose what in each turn, shape (turns, choices)."""
    counts = np.zeros((run.settings.max_turns, run.action_set.num_actions), dtype=int)
    assistant = run.assistant()
    for turn in range(run.settings.max_turns):
        talks = []
        for transcript in transcripts:
            messages = transcript.conversation.messages
            at = [number for number, message in enumerate(messages) if message.role == "assistant"]
            if len(at) > turn:
                talks.append(type(transcript.conversation)(messages[: at[turn]]))
        if talks:
            seen = assistant.features(talks, [()] * len(talks))
            counts[turn] += np.bincount(assistant.probabilities(seen).argmax(1), minlength=run.action_set.num_actions)
    return counts.tolist()


def plot(folder: Path, result: dict[str, Any]) -> None:
    """Learning curve, and held-out rewards with their intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    log = folder / "log.jsonl"
    rows = [row for _, row in read_jsonl(log, allow_nan=True)] if log.is_file() else []
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    left.plot([row["update"] for row in rows], [row["reward"] for row in rows], marker=".")
    left.set(xlabel="update", ylabel="mean reward of finished conversations", title=folder.name)
    names = list(result["assistants"])
    values = [result["assistants"][name]["reward"] for name in names]
    middle = np.array([value["value"] for value in values])
    # where an interval cannot be told there is only the point
    ends = np.array(
        [[value[end] if value[end] is not None else value["value"] for end in ("low", "high")] for value in values]
    )
    ends = np.abs(ends.T - middle)
    right.errorbar(middle, range(len(names)), xerr=ends, fmt="o", capsize=3)
    right.set(yticks=range(len(names)), yticklabels=names, xlabel="held-out reward, 95 % interval")
    right.invert_yaxis()
    figure.savefig(folder / "curves.png", dpi=120)
