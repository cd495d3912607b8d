"""Train the reward model that ships as the default judge: a linear head on hidden states of the default model.

    python agents/embedded_reward.py [--data arena_answers.jsonl]       # `simgym data sources` says whose that is
    simgym judge validate held_out.jsonl --judge reward_head --judge-option head=runs/embedded_reward/head

Chosen are strong models' answers to real openings (`arena_answers.jsonl`, rows `{"id", "opening", "topic", "answers":
{model: text}}`, the stronger of two models first). Rejected are the default model's own answers to the same openings,
terse ones, a strong answer's start that it carries on, strong answers to something else, strong answers that are cut
off, repetitive, padded, shuffled or garbled, and, for finer differences, the weaker of the two models' answers. A
chosen answer is cut at the end of a sentence to about the rejected one's length, so that length predicts nothing. The
layer and the strength of the prior are chosen by cross-validation over topics, on these pairs alone; pairs that
validate judges are never read here. Every stage writes what it has finished, and the same command goes on.

Tried without gain (on the 300 pairs that the results of `benchmarks/embedded_reward.py` leave out): the base model's
answers in one plain paragraph, and what it writes behind "Question: ... Answer:" outside a chat, as further
rejected answers; strong answers without their Markdown as chosen ones; pairs of every length with every other; matches
that count only up to their mean. What helps, a little, is pairs that people judged: `agents/people_reward.py`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from corrupted_answers import CORRUPTIONS, excerpt, sentence_end

from simgym.chat_template import render
from simgym.conversation import Message
from simgym.data import data_file
from simgym.evaluation.run_file import RunFile
from simgym.integrations import run_script
from simgym.jsonl import read_jsonl
from simgym.judges import Head
from simgym.judges.reward_head import TENSORS
from simgym.language_models import Request, SamplingParams, TransformersLM
from simgym.language_models.pooling import ENDING, LONGEST_ANSWER, LONGEST_QUESTION, Exchange, match, pool, rendered
from simgym.seeding import derive_seed, generator
from simgym.transcripts import text_hash

TERSE = "Answer in one short sentence, without any details."
LAYERS = (8, 12, 16, 20)
"""Candidates for the layer that is averaged; deeper ones cost more."""
MATCH_LAYER = 4
"""Layer that is matched word by word."""
PRIORS = (0.0003, 0.001, 0.003)
"""Inverse strengths of the L2 prior (`C` of scikit-learn)."""
MATCH_WEIGHT = 30.0
"""How much weaker the prior is on the three matches, as a factor of their scale: there are few of them."""


@dataclass(frozen=True)
class Source:
    """A real opening with the strong answers to it."""

    key: str
    opening: str
    topic: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Text:
    """An answer that is read, and where it may end."""

    source: str
    kind: str
    """`strong`, or what is wrong with it."""
    words: str
    ends: tuple[int, ...]
    """Characters at which it is cut; for rejected answers their whole length alone."""


def main() -> None:
    """Sample, read, fit; each stage goes on from what is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, help="arena_answers.jsonl; default: the one in $SIMGYM_DATA")
    parser.add_argument("--output", type=Path, default=Path("runs/embedded_reward"))
    options = parser.parse_args()
    sources = read_sources(options.data or data_file("arena_answers.jsonl"))
    model = TransformersLM()
    with RunFile(options.output / "samples.jsonl", {"base": model.fingerprint(), "version": 1}) as file:
        sample(model, sources, file)
    texts = [text for source in sources for text in texts_of(source, sources, file.rows)]
    read = read_texts(model, sources, texts, options.output / "read")
    head, log = fit(sources, texts, read, model.name)
    write(head, log, options.output / "head")


def read_sources(path: Path) -> list[Source]:
    """Openings that the judge reads in full."""
    if not path.is_file():
        raise SystemExit(f"There is no file {path}. Expected JSONL with id, opening, topic and answers.")
    rows = [row for _, row in read_jsonl(path)]
    return [
        Source(row["id"], row["opening"], row["topic"], tuple(row["answers"].values()))
        for row in rows
        if len(row["opening"]) <= LONGEST_QUESTION
    ]


def sample(model: TransformersLM, sources: Sequence[Source], file: RunFile, batch_size: int = 40) -> None:
    """What the base model says itself: its own answer, a terse one, and a strong answer's start carried on."""
    for kind in ("own", "continued", "terse"):
        todo = [source for source in sources if f"{source.key}:{kind}" not in file.rows]
        todo.sort(key=lambda source: len(source.opening))
        for start in range(0, len(todo), batch_size):
            batch = todo[start : start + batch_size]
            texts = carried_on(model, batch) if kind == "continued" else answered(model, batch, kind)
            for source, text in zip(batch, texts, strict=True):
                file.append({"key": f"{source.key}:{kind}", "text": text})
            print(f"{kind}: {start + len(batch)} of {len(todo)}", flush=True)


def answered(model: TransformersLM, batch: Sequence[Source], kind: str) -> list[str]:
    """The model's answers, in full or told to be terse."""
    sampling = SamplingParams(0.8, 0.95, 160 if kind == "own" else 60)
    head = (Message("system", TERSE),) if kind == "terse" else ()
    requests = [
        Request((*head, Message("user", source.opening)), sampling, derive_seed(0, 0, f"{source.key}:{kind}"))
        for source in batch
    ]
    return [generation.text for generation in model.generate(requests)]


def carried_on(model: TransformersLM, batch: Sequence[Source]) -> list[str]:
    """A strong answer's first 25 to 60 tokens and up to 110 of the base model's."""
    import torch

    tokenizer = model.tokenizer
    prompts, starts = [], []
    for source in batch:
        rng = np.random.default_rng(derive_seed(0, 0, f"{source.key}:continued"))
        words = source.answers[int(rng.integers(len(source.answers)))]
        ids = tokenizer(words, add_special_tokens=False)["input_ids"][: int(rng.integers(25, 60))]
        starts.append(tokenizer.decode(ids).rpartition(" ")[0])
        prompts.append(render(tokenizer, [Message("user", source.opening)], "assistant") + starts[-1])
    tokenizer.padding_side = "left"
    inputs = tokenizer(prompts, add_special_tokens=False, return_tensors="pt", padding=True).to(model.model.device)
    torch.manual_seed(derive_seed(0, 0, batch[0].key))
    with torch.inference_mode():
        out = model.model.generate(
            **inputs,
            do_sample=True,
            temperature=0.8,
            top_p=0.95,
            max_new_tokens=110,
            pad_token_id=tokenizer.pad_token_id,
        )
    new = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [start + text for start, text in zip(starts, new, strict=True)]


def texts_of(source: Source, sources: Sequence[Source], samples: dict[str, dict[str, Any]]) -> list[Text]:
    """The answers to one opening: rejected ones, and strong ones with an end to match each."""
    rng = generator(0, "texts", source.key)
    rejected: list[Text] = []

    def add(kind: str, words: str) -> None:
        words = words.strip()[:LONGEST_ANSWER].strip()
        if words:
            rejected.append(Text(source.key, kind, words, (len(words),)))

    for kind in ("own", "continued", "terse"):
        if f"{source.key}:{kind}" not in samples:
            continue
        said = samples[f"{source.key}:{kind}"]["text"].strip()
        # half of them end as they were cut off, half with their last sentence: neither is what they are rejected for
        add(kind, said if rng.random() < 0.5 else said[: sentence_end(said, len(said))])
    for kind in rng.choice(list(CORRUPTIONS), size=2, replace=False):
        add(str(kind), CORRUPTIONS[str(kind)](excerpt(str(rng.choice(source.answers)), rng), rng))
    others = [other for other in sources if other.key != source.key]
    near = [other for other in others if other.topic == source.topic]
    strangers = near if near and rng.random() < 0.5 else others
    stranger = strangers[int(rng.integers(len(strangers)))]
    add("off_topic", excerpt(str(rng.choice(stranger.answers)), rng))
    strong = [
        Text(source.key, "strong", words, tuple(matching_end(words, text, rng) for text in rejected))
        for words in (answer.strip()[:LONGEST_ANSWER] for answer in source.answers)
    ]
    return [*rejected, *strong]


def matching_end(words: str, rejected: Text, rng: np.random.Generator) -> int:
    """Where a strong answer ends to be about as long as the rejected one, a little longer as often as shorter."""
    return sentence_end(words, round(len(rejected.words) * float(np.exp(rng.normal(0, 0.25)))))


@dataclass(frozen=True)
class Read:
    """What the model makes of a text at each of its ends."""

    pooled: np.ndarray[Any, Any]
    """Shape (ends, layers, 3, D)."""
    matched: np.ndarray[Any, Any]
    """Shape (ends, 3)."""


def read_texts(
    model: TransformersLM, sources: Sequence[Source], texts: Sequence[Text], folder: Path, chunk: int = 160
) -> list[Read]:
    """Read every text once; a file a text, named by the hash of what was read."""
    from safetensors.numpy import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    openings = {source.key: source.opening for source in sources}
    named = [
        (folder / text_hash(repr((openings[text.source], text.words, text.ends, LAYERS, MATCH_LAYER))), text)
        for text in texts
    ]
    todo = [(path, text) for path, text in named if not path.is_file()]
    for start in range(0, len(todo), chunk):
        part = todo[start : start + chunk]
        states = read_chunk(model, [(openings[text.source], text) for _, text in part])
        for (path, _), read in zip(part, states, strict=True):
            save_file({"pooled": read.pooled, "matched": read.matched}, folder / "part")
            os.replace(folder / "part", path)
        print(f"read: {min(start + chunk, len(todo))} of {len(todo)}", flush=True)
    return [Read(**load_file(path)) for path, _ in named]


def read_chunk(model: TransformersLM, texts: Sequence[tuple[str, Text]]) -> list[Read]:
    """Read some texts after their openings."""
    talks = [(Message("user", opening), Message("assistant", text.words)) for opening, text in texts]
    renderings = [rendered(model.tokenizer, talk) for talk in talks]
    states = model.hidden_states([text for text, _ in renderings], layers=[*LAYERS, MATCH_LAYER])
    reads = []
    for (_, text), (_, (exchange,)), read in zip(texts, renderings, states, strict=True):
        first = exchange.answer[0]
        cuts = [Exchange(exchange.question, (first, first + end)) for end in text.ends]
        pooled = [[pool(read, cut, layer)[0] for layer in range(len(LAYERS))] for cut in cuts]
        matched = [match(read, cut, len(LAYERS))[0] for cut in cuts]
        reads.append(Read(np.array(pooled, dtype=np.float32), np.array(matched, dtype=np.float32)))
    return reads


@dataclass(frozen=True)
class Pair:
    """Two texts about equally long, of which the first is to be preferred."""

    topic: str
    kind: str
    """What is wrong with the rejected one."""
    chosen: tuple[int, int]
    """Number of the text, and of its end."""
    rejected: tuple[int, int]
    """The same."""


def make_pairs(sources: Sequence[Source], texts: Sequence[Text]) -> list[Pair]:
    """Every strong answer with every rejected one to the same opening, and the stronger model with the other."""
    topics = {source.key: source.topic for source in sources}
    by_source: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        by_source.setdefault(text.source, []).append(number)
    pairs = []
    for key, numbers in by_source.items():
        rejected = [number for number in numbers if texts[number].kind != "strong"]
        strong = [number for number in numbers if texts[number].kind == "strong"]
        pairs += [
            Pair(topics[key], texts[other].kind, (answer, end), (other, 0))
            for answer in strong
            for end, other in enumerate(rejected)
        ]
        first, second = strong
        longest = sorted(range(len(rejected)), key=lambda end: -texts[rejected[end]].ends[0])[:3]
        pairs += [Pair(topics[key], "weaker_model", (first, end), (second, end)) for end in longest]
    return pairs


def chosen_is_longer(texts: Sequence[Text], pairs: Sequence[Pair]) -> float:
    """Share of pairs, ties a half."""
    gaps = [
        texts[pair.chosen[0]].ends[pair.chosen[1]] - texts[pair.rejected[0]].ends[pair.rejected[1]] for pair in pairs
    ]
    return float(np.mean([0.5 if not gap else gap > 0 for gap in gaps]))


def sides(pairs: Sequence[Pair], read: Sequence[Read], layer: int) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Pooled states (pairs, 3, D) and matches (pairs, 3), of the chosen and of the rejected answers."""

    def side(texts: Sequence[tuple[int, int]]) -> tuple[Any, Any]:
        return (
            np.stack([read[text].pooled[end, layer] for text, end in texts]),
            np.stack([read[text].matched[end] for text, end in texts]),
        )

    return side([pair.chosen for pair in pairs]), side([pair.rejected for pair in pairs])


def fitted(pairs: Sequence[Pair], read: Sequence[Read], layer: int, prior: float, base: str = "") -> Head:
    """Logistic regression on differences, which is the Bradley-Terry likelihood."""
    from sklearn.linear_model import LogisticRegression

    chosen, rejected = sides(pairs, read, layer)
    pooled, matched = (np.concatenate(halves) for halves in zip(chosen, rejected, strict=True))
    moments = {
        "mean": pooled.mean(0),
        "deviation": pooled.std(0) + 1e-6,
        "match_mean": matched.mean(0),
        "match_deviation": matched.std(0) + 1e-6,
    }
    empty = Head(layer=LAYERS[layer], match_layer=MATCH_LAYER, base=base, weight=np.zeros(0), centre=0.0, scale=1.0,
                 **moments)  # fmt: skip
    difference = empty.features(*chosen) - empty.features(*rejected)
    spread = difference.std(0) + 1e-6
    spread[-matched.shape[1] :] /= MATCH_WEIGHT
    sign = np.where(np.arange(len(pairs)) % 2 == 0, 1, -1)
    model = LogisticRegression(C=prior, fit_intercept=False, max_iter=2000)
    model.fit(difference / spread * sign[:, None], sign)
    return replace(empty, weight=(model.coef_[0] / spread).astype(np.float32))


def cross_validated(pairs: Sequence[Pair], read: Sequence[Read], layer: int, prior: float) -> np.ndarray[Any, Any]:
    """Whether each pair is decided rightly by a head that saw nothing of its topic."""
    from sklearn.model_selection import GroupKFold

    right = np.zeros(len(pairs))
    for train, test in GroupKFold(4).split(pairs, groups=[pair.topic for pair in pairs]):
        head = fitted([pairs[row] for row in train], read, layer, prior)
        chosen, rejected = (head.rewards(*side) for side in sides([pairs[row] for row in test], read, layer))
        right[test] = chosen > rejected
    return right


def fit(
    sources: Sequence[Source], texts: Sequence[Text], read: Sequence[Read], base: str
) -> tuple[Head, dict[str, Any]]:
    """The head, and what was seen on the way."""
    pairs = make_pairs(sources, texts)
    longer = chosen_is_longer(texts, pairs)
    print(f"{len(pairs)} pairs; the chosen answer is the longer one in {100 * longer:.1f} %", flush=True)
    trials = []
    for layer in range(len(LAYERS)):
        for prior in PRIORS:
            kinds = accuracy_by_kind(pairs, cross_validated(pairs, read, layer, prior))
            trials.append((kinds, layer, prior))
            print(LAYERS[layer], prior, {kind: round(value, 3) for kind, value in kinds.items()}, flush=True)
    kinds, layer, prior = max(trials, key=lambda trial: trial[0]["mean of kinds"])
    head = fitted(pairs, read, layer, prior, base)
    chosen, rejected = (float(np.median(head.rewards(*side))) for side in sides(pairs, read, layer))
    head = replace(head, centre=(chosen + rejected) / 2, scale=(chosen - rejected) / 2)
    log = {
        "openings": len(sources),
        "pairs": len(pairs),
        "better_is_longer": longer,  # the key of the logs that are shipped
        "layer": LAYERS[layer],
        "match_layer": MATCH_LAYER,
        "prior": prior,
        "ending_tokens": ENDING,
        "cross_validated_accuracy": kinds,
        "trials": [
            {"layer": LAYERS[number], "prior": strength, "mean_of_kinds": value["mean of kinds"]}
            for value, number, strength in trials
        ],
    }
    return head, log


def accuracy_by_kind(pairs: Sequence[Pair], right: np.ndarray[Any, Any]) -> dict[str, float]:
    """Share of right decisions by what is wrong with the rejected answer, and their mean."""
    kinds = [pair.kind for pair in pairs]
    shares = {
        kind: float(np.mean([hit for hit, own_kind in zip(right, kinds, strict=True) if own_kind == kind]))
        for kind in sorted(set(kinds))
    }
    return {**shares, "mean of kinds": float(np.mean(list(shares.values())))}


def write(head: Head, log: dict[str, Any], folder: Path) -> None:
    """The folder that the judge reads, and the log of the training."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: getattr(head, name).astype(np.float32) for name in TENSORS}, folder / "head.safetensors")
    settings = {name: getattr(head, name) for name in ("base", "layer", "match_layer", "centre", "scale", "measures")}
    (folder / "head.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    (folder / "training_log.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {folder}")


if __name__ == "__main__":
    run_script(main)
