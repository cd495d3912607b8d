"""A user trained on people who chat beside the role-playing one on the same base model, both beside held-out people.

    python benchmarks/simulator_realism.py

The trained user is the adapter that was shipped until 2026-11-27, `smollm2-135m-chitchat`; `shipped_user.py` is about
the one that is shipped now.
Both simulators run on the embedded 135M model with their default sampling and bounds that allow turns of the same
length; people are the test split of chitchat-dataset, whose turns the adapter was not trained to write; some of them
answer in train conversations, so the main figure is given for the others alone, too. Prints the scorecard of `simgym
realism` and the two comparisons it is made for: by how much fewer bits per byte the fine-tuned user needs for what
people said (paired by turn, interval over people), and whose turns a classifier tells from people's less easily. About
half an hour on two cores; an interrupted run goes on. Prediction before the first run: 18 % fewer bits, and an AUC
nearer to 0.5.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

from simgym import __version__
from simgym.data import chitchat_conversations, chitchat_strangers
from simgym.evaluation import load_reference, score_realism, simulate_turns
from simgym.report import realism_results, write_realism_report
from simgym.report.realism import format_estimate, scorecard_rows
from simgym.simulators import EARLIER_ADAPTER, FineTuned, RolePlay
from simgym.statistics import bootstrap_statistic
from simgym.statistics.resampling import Rows
from simgym.transcripts import write_json

RESULTS = Path(__file__).parent / "results" / "simulator_realism.json"
MAX_NEW_TOKENS = {"FineTuned": 80, "RolePlay": 192}
"""Either allows about 300 characters: the role-playing user's JSON frame and asides take up to 90 tokens."""


def main() -> None:
    """Simulate, score, compare, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--conversations", type=int, default=38, help="one a person of the test split")
    parser.add_argument("--later_turns", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/simulator_realism"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    people = load_reference(
        "chitchat", conversations=options.conversations, later_turns=options.later_turns, seed=options.seed
    )
    simulators = {
        "FineTuned": FineTuned(adapter=str(EARLIER_ADAPTER), max_new_tokens=MAX_NEW_TOKENS["FineTuned"]),
        "RolePlay": RolePlay(max_new_tokens=MAX_NEW_TOKENS["RolePlay"]),
    }
    turns, cards = {}, []
    for name, simulator in simulators.items():
        path = options.folder / f"{name}.jsonl"
        turns[name] = simulate_turns(
            simulator, people, seed=options.seed, path=path, batch_size=32, advance=_report(name)
        )
        cards.append(score_realism(name, simulator.fingerprint(), people, turns[name], seed=options.seed))
    results = realism_results(people, cards, seed=options.seed, version=__version__)
    write_realism_report(options.folder / "report.html", results, people, cards, turns)
    strangers = chitchat_strangers(chitchat_conversations())
    results["comparison"] = compared = {
        "fewer_bits_per_byte_percent": fewer_bits(people, turns["FineTuned"], turns["RolePlay"], options.seed),
        "strangers": fewer_bits(people, turns["FineTuned"], turns["RolePlay"], options.seed, strangers),
    }
    write_json(options.output, results)
    print("metric", *(card.simulator for card in cards), "people", sep="\t")
    for row in scorecard_rows(cards):
        estimates = [*(metric.simulated for metric in row.simulated), row.metric.human]
        print(row.metric.title, *(" ".join(format_estimate(estimate)) for estimate in estimates), sep="\t")
    bits = compared["fewer_bits_per_byte_percent"]
    interval = f"[{bits['low']:.1f}, {bits['high']:.1f}]"
    print(f"FineTuned needs {bits['value']:.1f} % {interval} fewer bits per byte than RolePlay")
    bits = compared["strangers"]
    interval = f"[{bits['low']:.1f}, {bits['high']:.1f}]"
    print(f"{bits['value']:.1f} % {interval} for the {bits['n']} people in neither seat of a train conversation")
    aucs = {card.simulator: card.metric("classifier_auc").simulated for card in cards}
    print("classifier AUC: " + ", ".join(f"{name} {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]"
                                         for name, auc in aucs.items() if auc and auc.value is not None))  # fmt: skip


def fewer_bits(people: Any, tuned: Any, played: Any, seed: int, whom: Any = None) -> dict[str, Any]:
    """By how many percent, of all people or those in `whom`; bytes are the same, so they cancel."""
    pairs = [
        (ours.logprob, theirs.logprob, moment.person)
        for moment, ours, theirs in zip(people.moments, tuned, played, strict=True)
        if ours.logprob is not None and (whom is None or moment.person in whom)
    ]
    ours, theirs = (np.array([pair[side] for pair in pairs]) for side in (0, 1))

    def fewer(rows: Rows) -> float:
        total = theirs[rows].sum()
        return float(100 * (1 - ours[rows].sum() / total)) if total else math.nan

    return bootstrap_statistic(fewer, [person for _, _, person in pairs], seed=seed, resamples=4999).to_json()


def _report(name: str) -> Any:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        print(f"{name}: {done} moments", flush=True)

    return advance


if __name__ == "__main__":
    main()
