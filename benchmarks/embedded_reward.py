"""Does the embedded reward model know the better of two answers, and an answer from one to another question?

    python benchmarks/embedded_reward.py [--pairs judge_pairs.jsonl] [--head smollm2-135m-helpfulness]

Pairs are `{"instruction", "chosen", "rejected", "rejected_model"}` that the judge was never trained on, without those
whose instructions were looked at while its features were chosen. Off-topic pairs are made of them: an instruction's
chosen answer against the chosen answer to another instruction, the nearest in length of ten. Beside the judge: length
alone, and the relevance judge on 80 pairs of either kind (it is slow). The rank correlation with length says whether
the judge has learned to like length. All better answers of these pairs are GPT-4's: a head fitted on such pairs decides
0.83 of them and learns the style of one model; on pairs that people judged it is no better than others
(`agents/people_reward.py` has those). The results that are kept are of the judge of earlier versions. Parts are in one
file; those not asked for stay.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from simgym.data import data_file
from simgym.evaluation import judge_pairs, read_pairs, validate
from simgym.evaluation.judge_validation import Pair, Verdict
from simgym.judges import load_judge
from simgym.seeding import generator
from simgym.statistics import spearman
from simgym.transcripts import write_json

LOOKED_AT = 300
"""Pairs (drawn with seed 0) that were looked at while the features of the head were chosen; not used here."""
PARTS = ("reward_head", "relevance")
RELEVANCE_PAIRS = 80
RESULTS = Path(__file__).with_name("results") / "embedded_reward.json"


def main() -> None:
    """Judge, summarise, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--pairs", type=Path, help="judge_pairs.jsonl; default: the one in $SIMGYM_DATA")
    parser.add_argument("--head", help="name or folder of another head than the default judge's")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--limit", type=int, help="use so many pairs of every kind")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    pairs, strangers = (group[: options.limit] for group in read(options.pairs or data_file("judge_pairs.jsonl")))
    results = json.loads(options.output.read_text()) if options.output.is_file() else {}
    for part in options.parts:
        if part == "reward_head":
            judge = load_judge("reward_head", None, {"head": options.head} if options.head else {})
            results[part] = judged(judge, part, pairs, strangers)
        else:
            sample = pairs[:: max(1, len(pairs) // RELEVANCE_PAIRS)][:RELEVANCE_PAIRS]
            results[part] = judged(load_judge("relevance"), part, sample, strangers[:RELEVANCE_PAIRS])
        write_json(options.output, results)


def read(path: Path) -> tuple[list[Pair], list[Pair]]:
    """Pairs and off-topic pairs of instructions that nobody looked at while the features were chosen."""
    instructions = {pair.instruction for pair in read_pairs(path, limit=LOOKED_AT)}
    pairs = [pair for pair in read_pairs(path) if pair.instruction not in instructions]
    return pairs, off_topic(pairs)


def off_topic(pairs: list[Pair]) -> list[Pair]:
    """One pair an instruction: its chosen answer, and another's of about the same length."""
    unique = list({pair.instruction: pair for pair in pairs}.values())
    off_topic_pairs = []
    for pair in unique:
        drawn = generator(0, "off topic", pair.id).permutation(len(unique))[:11]
        others = [unique[row] for row in drawn if unique[row].instruction != pair.instruction]
        nearest = min(others, key=lambda other: abs(len(other.chosen) - len(pair.chosen)))
        off_topic_pairs.append(Pair(pair.id, pair.instruction, pair.chosen, nearest.chosen, "off_topic"))
    return off_topic_pairs


def judged(judge: Any, name: str, pairs: list[Pair], strangers: list[Pair]) -> dict[str, Any]:
    """Both kinds of pairs; the accuracy over all does not mix them."""
    verdicts = judge_pairs(judge, pairs, batch_size=16)
    strange = judge_pairs(judge, strangers, batch_size=16)
    on_pairs = validate(name, judge.fingerprint(), verdicts)
    on_strangers = validate(name, judge.fingerprint(), strange)
    lengths = [(verdict.pair.chosen, verdict.values[0]) for verdict in verdicts if verdict.values]
    result = {
        "pairs": on_pairs.to_json(),
        "off_topic": on_strangers.to_json(),
        "value_and_length": asdict(
            spearman([len(text) for text, _ in lengths], [value for _, value in lengths], seed=0)
        ),
        "mean_score": {"chosen": mean(verdicts, 0), "rejected": mean(verdicts, 1), "off_topic": mean(strange, 1)},
    }
    shares = {subset: estimate.value for subset, estimate in on_pairs.by_subset.items()}
    print(name, on_pairs.accuracy, shares, "off topic", on_strangers.accuracy, flush=True)
    print(result["value_and_length"], result["mean_score"], on_pairs.length_alone, flush=True)
    return result


def mean(verdicts: list[Verdict], side: int) -> float:
    """Mean score of the chosen (0) or rejected (1) answers."""
    values = [verdict.values[side] for verdict in verdicts if verdict.values]
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
