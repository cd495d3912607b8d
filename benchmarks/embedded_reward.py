"""Does the embedded reward model know the better of two answers, and an answer from one to another question?

    python benchmarks/embedded_reward.py --pairs judge_pairs.jsonl [--head runs/embedded_reward/head] [--relevance 120]

Pairs are `{"instruction", "better", "worse", "worse_model"}` that the judge was never trained on, without those whose
instructions were looked at while its features were chosen. Off-topic pairs are
made of them: an instruction's better answer against the better answer to another instruction, the nearest in length of
ten. Beside the judge: length alone, and the relevance judge on `--relevance` of the pairs of either kind (it needs ten
times as long). The rank correlation with length says whether the judge has learned to like length.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from simgym.evaluation.judge_validation import Pair, Verdict, judge_pairs, read_pairs, validate
from simgym.judges.loading import load_judge
from simgym.seeding import generator
from simgym.statistics.agreement import spearman
from simgym.transcripts import write_json

LOOKED_AT = 300
"""Pairs (drawn with seed 0) that were looked at while the features of the head were chosen; not used here."""
RESULTS = Path(__file__).with_name("results") / "embedded_reward.json"


def main() -> None:
    """Judge, summarise, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--head", help="folder of another head than the shipped one")
    parser.add_argument("--relevance", type=int, default=0, help="pairs for the relevance judge")
    parser.add_argument("--limit", type=int, help="use so many pairs")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    pairs, strangers = fresh(options.pairs)
    pairs, strangers = pairs[: options.limit], strangers[: options.limit]
    head = {"head": options.head} if options.head else {}
    results = {"reward_head": judged(load_judge("reward_head", None, head), "reward_head", pairs, strangers)}
    write_json(options.output, results)
    if options.relevance:
        some = pairs[:: max(1, len(pairs) // options.relevance)]
        results["relevance"] = judged(load_judge("relevance"), "relevance", some, strangers[: options.relevance])
        write_json(options.output, results)


def fresh(path: Path) -> tuple[list[Pair], list[Pair]]:
    """Pairs and off-topic pairs of instructions that nobody looked at while the features were chosen."""
    seen = {one.instruction for one in read_pairs(path, limit=LOOKED_AT)}
    pairs = [one for one in read_pairs(path) if one.instruction not in seen]
    return pairs, off_topic(pairs)


def off_topic(pairs: list[Pair]) -> list[Pair]:
    """One pair an instruction: its better answer, and another's of about the same length."""
    unique = list({one.instruction: one for one in pairs}.values())
    made = []
    for one in unique:
        drawn = generator(0, "off topic", one.id).permutation(len(unique))[:11]
        others = [unique[row] for row in drawn if unique[row].instruction != one.instruction]
        nearest = min(others, key=lambda other: abs(len(other.better) - len(one.better)))
        made.append(Pair(one.id, one.instruction, one.better, nearest.better, "off_topic"))
    return made


def judged(judge: Any, name: str, pairs: list[Pair], strangers: list[Pair]) -> dict[str, Any]:
    """Both kinds of pairs; the accuracy over all does not mix them."""
    verdicts = judge_pairs(judge, pairs, batch_size=16)
    strange = judge_pairs(judge, strangers, batch_size=16)
    on_pairs = validate(name, judge.fingerprint(), verdicts)
    on_strangers = validate(name, judge.fingerprint(), strange)
    lengths = [(one.pair.better, one.values[0]) for one in verdicts if one.values]
    found = {
        "pairs": on_pairs.to_json(),
        "off_topic": on_strangers.to_json(),
        "value_and_length": asdict(
            spearman([len(text) for text, _ in lengths], [value for _, value in lengths], seed=0)
        ),
        "mean_value": {"better": mean(verdicts, 0), "worse": mean(verdicts, 1), "off_topic": mean(strange, 1)},
    }
    shares = {subset: estimate.value for subset, estimate in on_pairs.by_subset.items()}
    print(name, on_pairs.accuracy, shares, "off topic", on_strangers.accuracy, flush=True)
    print(found["value_and_length"], found["mean_value"], on_pairs.length_alone, flush=True)
    return found


def mean(verdicts: list[Verdict], side: int) -> float:
    """Mean value of the better (0) or worse (1) answers."""
    values = [one.values[side] for one in verdicts if one.values]
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
