"""Fit the default judge's head on what people prefer, without what they prefer for its length.

    python agents/people_reward.py [--data FOLDER] [--output runs/people_reward]
    python agents/package_reward_head.py runs/people_reward/head

Pairs are those of `judge_dev.jsonl` that people judged and whose licence allows training (`TRAINED_ON`), beside strong
answers against corrupted ones made of `arena_answers.jsonl` by `agents/embedded_reward.py`. The head is a Bradley-Terry
model on the same features as before. Length is kept out in two ways: in every bin of the ratio of lengths, pairs whose
longer answer was preferred weigh as much as the others, and the log ratio is a covariate that the shipped head lacks.
What is reported is cross-validated over prompts. Further pairs that people judged (`VALIDATED_ON`; not all of them are
licensed) are only decided, by this head and the earlier one. Each answer is read once, in float32, into a file; the
same command goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from embedded_reward import (
    LAYERS,
    MATCH_LAYER,
    MATCH_WEIGHT,
    Read,
    Source,
    Text,
    read_sources,
    read_texts,
    texts_of,
    write,
)

from simgym.data import data_file
from simgym.evaluation.calibration import calibrate
from simgym.evaluation.judge_validation import Pair, Verdict, validate
from simgym.integrations import run_script
from simgym.jsonl import read_jsonl
from simgym.judges.people_record import RECORD_NAME, PeopleRecord, judge_identity, keep_record
from simgym.judges.reward_head import PROMPTS_NAME, Head, prompt_key, read_head
from simgym.language_models import TransformersLM
from simgym.language_models.pooling import ENDING
from simgym.statistics import Estimate
from simgym.transcripts import text_hash, write_json

LAYER = 20
PRIOR = 0.0003
"""Inverse strength of the L2 prior (`C` of scikit-learn)."""
CORRUPTED_WEIGHT = 0.4
"""Weight of all corrupted answers together, in that of all pairs by people."""
LENGTH_BINS = 4
LONGEST = 100_000
"""Characters: more than any pair has."""
FOLDS = 6
MEASURES = "whether replies are more like those that people prefer, and not corrupted ones"
EARLIER_HEAD = "smollm2-135m-helpfulness"
TRAINED_ON = {
    "open-instruct human_eval (Tulu 1)": "Tulu",
    "PandaLM testset-v1": "PandaLM",
    "LLMBar natural": "LLMBar natural",
    "MT-bench human (LLMBar copy)": "MT-bench",
    "HHH alignment": "HHH",
}
"""Sources of pairs, by the names used in results."""
VALIDATED_ON = {
    "Auto-J testdata_pairwise": "Auto-J",
    "LLMEval2 human (LLMBar copy)": "LLMEval2",
    "FairEval human (LLMBar copy)": "FairEval",
}
RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "people_reward.json"


@dataclass(frozen=True)
class Sides:
    """Features' ingredients of N pairs."""

    chosen: tuple[Any, Any]
    """Pooled states, shape (N, 3, D), and matches, shape (N, 3), of the preferred answers."""
    rejected: tuple[Any, Any]
    """The same of the others."""
    log_ratio: Any
    """Shape (N,), log of the lengths' ratio, preferred to other."""

    def rows(self, rows: Any) -> Sides:
        """Some of the pairs."""
        chosen, rejected = ((pooled[rows], matched[rows]) for pooled, matched in (self.chosen, self.rejected))
        return Sides(chosen, rejected, self.log_ratio[rows])


@dataclass(frozen=True)
class Corrupted:
    """Pairs of a strong answer and a corrupted one."""

    kinds: list[str]
    """What was done to the rejected answer."""
    topics: list[str]
    """Of the openings; folds do not divide them."""
    openings: int
    """How many they answer."""
    sides: Sides
    """The pairs."""


def main() -> None:
    """Read, fit, compare; each stage goes on from what is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--pairs", type=Path, help="judge_dev.jsonl; default: the one in $SIMGYM_DATA")
    parser.add_argument("--openings", type=Path, help="arena_answers.jsonl; default: the one in $SIMGYM_DATA")
    parser.add_argument("--every", type=int, default=6, help="take every Nth opening for corrupted answers")
    parser.add_argument("--limit", type=int, help="take the first N of these openings")
    parser.add_argument("--longest", type=int, default=LONGEST, help="leave out pairs with more characters")
    parser.add_argument("--validate_on", nargs="*", choices=VALIDATED_ON.values(), default=[*VALIDATED_ON.values()])
    parser.add_argument("--output", type=Path, default=Path("runs/people_reward"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    path = options.pairs or data_file("judge_dev.jsonl")
    validated_on = {source: name for source, name in VALIDATED_ON.items() if name in options.validate_on}
    pairs, others = (read_pairs(path, names, options.longest) for names in (TRAINED_ON, validated_on))
    sources = read_sources(options.openings or data_file("arena_answers.jsonl"))
    model = TransformersLM(dtype="float32")
    folder = options.output / "read"
    corrupted = read_corrupted(model, sources, sources[:: options.every][: options.limit], folder)
    people = read_people(model, pairs, folder)
    head, log, results = fit(pairs, people, corrupted, model.name)
    flags = [f"--longest {options.longest}"] if options.longest < LONGEST else []
    log["flags"] = " ".join([*flags, *([f"--limit {options.limit}"] if options.limit else [])])
    earlier = read_head(EARLIER_HEAD)
    if others:
        strangers = read_people(model, others, folder)
        results |= {"others": decided(head, others, strangers), "others_earlier": decided(earlier, others, strangers)}
    results |= {
        "people_earlier": decided(earlier, pairs, people),
        "corrupted_earlier": float(np.mean(margins_of(earlier, corrupted.sides) > 0)),
    }
    write(head, log, options.output / "head")
    keys = sorted({prompt_key(pair.instruction) for pair in pairs})
    (options.output / "head" / PROMPTS_NAME).write_text("".join(f"{key}\n" for key in keys), encoding="ascii")
    keep_record(record(head, results, pairs), options.output / "head" / RECORD_NAME)
    write_json(options.results, {"training": log, **results})


def read_pairs(path: Path, names: Mapping[str, str], longest: int = LONGEST) -> list[Pair]:
    """Pairs of first answers that people judged, of some sources; `longest` bounds question and longer answer."""
    pairs = []
    for _, row in read_jsonl(path):
        if row.get("label_by") != "people" or row.get("source") not in names:
            continue
        chosen, rejected = (row["answers"][row[side]].strip() for side in ("better", "worse"))
        fits = len(row["instruction"]) + max(len(chosen), len(rejected)) <= longest
        if chosen and rejected and chosen != rejected and fits:
            pairs.append(Pair(row["id"], row["instruction"], chosen, rejected, names[row["source"]]))
    return pairs


def read_people(model: TransformersLM, pairs: Sequence[Pair], folder: Path) -> Sides:
    """What the model makes of both answers of N pairs."""
    texts = [
        Text(pair.instruction, pair.subset, words, (len(words),))
        for pair in pairs
        for words in (pair.chosen, pair.rejected)
    ]
    unique = sorted(dict.fromkeys(texts), key=lambda text: len(text.words) + len(text.source))
    questions = [Source(pair.instruction, pair.instruction, "", ()) for pair in pairs]
    read = dict(zip(unique, read_texts(model, questions, unique, folder, chunk=32), strict=True))
    return sides([(read[text], 0) for text in texts[::2]], [(read[text], 0) for text in texts[1::2]],
                 [np.log(len(pair.chosen) / len(pair.rejected)) for pair in pairs])  # fmt: skip


def read_corrupted(model: TransformersLM, sources: Sequence[Source], used: Sequence[Source], folder: Path) -> Corrupted:
    """Strong answers, cut to the same length, against corrupted ones and another opening's."""
    texts = [text for source in used for text in texts_of(source, sources, {})]
    read = read_texts(model, sources, texts, folder, chunk=32)
    kinds, topics, chosen, rejected, ratios = [], [], [], [], []
    for source in used:
        own = [(text, states) for text, states in zip(texts, read, strict=True) if text.source == source.key]
        strong = [entry for entry in own if entry[0].kind == "strong"]
        for number, (text, states) in enumerate(entry for entry in own if entry[0].kind != "strong"):
            for answer, strong_states in strong:
                kinds.append(text.kind)
                topics.append(source.topic)
                chosen.append((strong_states, number))
                rejected.append((states, 0))
                ratios.append(float(np.log(max(1, answer.ends[number]) / len(text.words))))
    return Corrupted(kinds, topics, len(used), sides(chosen, rejected, ratios))


def sides(chosen: Sequence[tuple[Read, int]], rejected: Sequence[tuple[Read, int]], ratios: Sequence[float]) -> Sides:
    """Reads, each with the number of its end, as arrays."""
    layer = LAYERS.index(LAYER) if len(LAYERS) > 1 else 0

    def stacked(reads: Sequence[tuple[Read, int]]) -> tuple[Any, Any]:
        return (
            np.stack([read.pooled[end, layer] for read, end in reads]),
            np.stack([read.matched[end] for read, end in reads]),
        )

    return Sides(stacked(chosen), stacked(rejected), np.array(ratios))


def balancing_weights(log_ratio: Any) -> Any:
    """Weights, shape (N,), mean 1: in each bin of the lengths' ratio the longer answer wins as much as it loses."""
    size = np.abs(log_ratio)
    edges = np.quantile(size, np.linspace(0, 1, LENGTH_BINS + 1)[1:-1])
    bins = np.searchsorted(edges, size)
    weights = np.ones(len(log_ratio))
    for number in range(LENGTH_BINS):
        longer, shorter = ((bins == number) & (np.sign(log_ratio) == side) for side in (1, -1))
        if longer.any() and shorter.any():
            half = (longer.sum() + shorter.sum()) / 2
            weights[longer], weights[shorter] = half / longer.sum(), half / shorter.sum()
    return weights / weights.mean()


def fitted(people: Sides, corrupted: Sides, base: str = "") -> Head:
    """Weighted logistic regression on differences, which is the Bradley-Terry likelihood."""
    from sklearn.linear_model import LogisticRegression

    pooled, matched = (np.concatenate(halves) for halves in zip(people.chosen, people.rejected, strict=True))
    empty = Head(
        layer=LAYER, match_layer=MATCH_LAYER, base=base, weight=np.zeros(0), centre=0.0, scale=1.0,
        mean=pooled.mean(0), deviation=pooled.std(0) + 1e-6,
        match_mean=matched.mean(0), match_deviation=matched.std(0) + 1e-6,
    )  # fmt: skip
    difference = np.concatenate(
        [empty.features(*group.chosen) - empty.features(*group.rejected) for group in (people, corrupted)]
    )
    spread = difference.std(0) + 1e-6
    spread[-matched.shape[1] :] /= MATCH_WEIGHT
    log_ratio = np.concatenate([people.log_ratio, corrupted.log_ratio])
    covariate = MATCH_WEIGHT * log_ratio / (log_ratio.std() + 1e-6)  # scaled so that the prior hardly binds it
    total = CORRUPTED_WEIGHT * len(people.log_ratio)
    weights = np.concatenate(
        [balancing_weights(people.log_ratio), np.full(len(corrupted.log_ratio), total / len(corrupted.log_ratio))]
    )
    sign = np.where(np.arange(len(difference)) % 2 == 0, 1, -1)
    model = LogisticRegression(C=PRIOR, fit_intercept=False, max_iter=2000)
    model.fit(np.column_stack([difference / spread, covariate]) * sign[:, None], sign, sample_weight=weights)
    return replace(empty, weight=(model.coef_[0][:-1] / spread).astype(np.float32))


def fit(
    pairs: Sequence[Pair], people: Sides, corrupted: Corrupted, base: str
) -> tuple[Head, dict[str, Any], dict[str, Any]]:
    """The head, its log, and its decisions on prompts it was not fitted on."""
    from sklearn.model_selection import GroupKFold

    prompts = [prompt_key(pair.instruction) for pair in pairs]
    margins, right = np.zeros(len(pairs)), np.zeros(len(corrupted.kinds))
    people_folds = GroupKFold(FOLDS).split(prompts, groups=prompts)
    corrupted_folds = GroupKFold(FOLDS).split(corrupted.kinds, groups=corrupted.topics)
    for (train, test), (corrupted_train, corrupted_test) in zip(people_folds, corrupted_folds, strict=True):
        head = fitted(people.rows(train), corrupted.sides.rows(corrupted_train))
        margins[test] = margins_of(head, people.rows(test))
        right[corrupted_test] = margins_of(head, corrupted.sides.rows(corrupted_test)) > 0
    head = fitted(people, corrupted.sides, base)
    rewards = np.concatenate([head.rewards(*side) for side in (people.chosen, people.rejected)])
    head = replace(head, centre=float(np.median(rewards)), scale=float(rewards.std()), measures=MEASURES)
    by_kind = {
        kind: float(np.mean(right[[other == kind for other in corrupted.kinds]]))
        for kind in sorted(set(corrupted.kinds))
    }
    log = {
        "pairs_of_people": {name: sum(pair.subset == name for pair in pairs) for name in TRAINED_ON.values()},
        "prompts_of_people": len(set(prompts)),
        "preferred_is_longer": float(np.mean(people.log_ratio > 0)),
        "pairs_with_corrupted_answers": len(corrupted.kinds),
        "openings": corrupted.openings,
        "weight_of_corrupted_answers": CORRUPTED_WEIGHT,
        "layer": LAYER,
        "match_layer": MATCH_LAYER,
        "prior": PRIOR,
        "folds": FOLDS,
        "length_bins": LENGTH_BINS,
        "ending_tokens": ENDING,
        "dtype": "float32",
    }
    results = {
        "people": summary("cross-validated", pairs, margins),
        "corrupted": {"all": float(right.mean()), **by_kind},
        "calibration": calibrate(margins / head.scale, prompts).to_json(),
    }
    print("corrupted", results["corrupted"], flush=True)
    return head, log, results


def record(head: Head, results: Mapping[str, Any], pairs: Sequence[Pair]) -> PeopleRecord:
    """What is kept beside the head: cross-validated, since a head has seen its own pairs."""
    return PeopleRecord(
        judge="reward_head",
        identity=judge_identity({"judge": "reward_head", "weights": text_hash(head.weight.tobytes().hex())}),
        accuracy=Estimate.from_json(results["people"]["length_balanced"]),
        length_alone=results["people"]["length_alone"]["all"],
        slope=results["calibration"]["slope"],
        calibration_error=Estimate.from_json(results["calibration"]["error_mapped"]),
        pairs=len(pairs),
        sources=tuple(sorted({pair.subset for pair in pairs})),
    )


def margins_of(head: Head, pair_sides: Sides) -> Any:
    """Reward of the preferred answer less that of the other, shape (N,)."""
    return head.rewards(*pair_sides.chosen) - head.rewards(*pair_sides.rejected)


def decided(head: Head, pairs: Sequence[Pair], pair_sides: Sides) -> dict[str, Any]:
    """How a head decides pairs that it was not fitted on."""
    return summary("head", pairs, margins_of(head, pair_sides))


def summary(name: str, pairs: Sequence[Pair], margins: Any) -> dict[str, Any]:
    """The figures of `simgym judge validate` for decisions that are known, balanced for length by source as well."""
    verdicts = [
        Verdict(pair, 0.5 if not margin else float(margin > 0), None, None, None)
        for pair, margin in zip(pairs, margins.tolist(), strict=True)
    ]
    validation = validate(name, {}, verdicts)
    by_source = {
        subset: validate(name, {}, [verdict for verdict in verdicts if verdict.pair.subset == subset]).length_balanced
        for subset in validation.by_subset
    }
    print(name, validation.length_balanced, {key: value.value for key, value in by_source.items()}, flush=True)
    return {**validation.to_json(), "balanced_by_source": {key: value.to_json() for key, value in by_source.items()}}


if __name__ == "__main__":
    run_script(main)
