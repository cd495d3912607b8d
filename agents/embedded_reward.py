"""Train the reward model that ships as the default judge: a linear head on hidden states of the embedded model.

    python agents/embedded_reward.py --data arena_answers.jsonl
    simgym judge validate held_out.jsonl --judge reward_head --judge-option head=runs/embedded_reward/head

Better are strong models' answers to real openings (`arena_answers.jsonl`, rows `{"id", "opening", "topic", "answers":
{model: text}}`). Worse are the embedded model's own answers to the same openings, terse ones, a strong answer's start
that it carries on, strong answers to something else, and strong answers that are cut off, repetitive, padded, shuffled
or garbled. A better answer is cut at the end of a sentence to about the worse one's length, so that length predicts
nothing. The layer and the strength of the prior are chosen by cross-validation over topics, on these pairs alone; pairs
that validate judges are never read here. Every stage writes what it has finished, and the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simgym.conversation import Message
from simgym.evaluation.run_file import RunFile
from simgym.flip import render
from simgym.judges.reward_head import Head
from simgym.language_models.base import Request, Sampling
from simgym.language_models.pooling import ENDING, LONGEST_ANSWER, LONGEST_QUESTION, Exchange, pool, rendered
from simgym.language_models.transformers_lm import TransformersLM
from simgym.seeding import derive_seed, generator

TERSE = "Answer in one short sentence, without any details."
LAYERS = (8, 12, 16, 20)
"""Candidates; the judge reads one of them, and deeper ones cost more."""
PRIORS = (0.001, 0.01, 0.1, 1.0)
"""Inverse strengths of the L2 prior (`C` of scikit-learn)."""
FILLER = (
    "That is a great question, and there is a lot to say about it.",
    "There are many things to consider here, and every situation is different.",
    "It is important to keep in mind that this topic is very important.",
    "As with most things in life, it really depends on a number of factors.",
    "Many people have asked about this before, and many more will ask about it again.",
    "In general, it is always a good idea to think carefully before making a decision.",
    "At the end of the day, what matters most is what matters to you.",
    "This can be helpful in many ways, for many people, and in many cases.",
    "With that being said, it should be noted that there is more than one side to it.",
    "I hope this helps, and please let me know if there is anything else you need.",
)


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
    """`strong`, or what makes it worse."""
    words: str
    ends: tuple[int, ...]
    """Characters at which it is cut; for worse answers their whole length alone."""


def main() -> None:
    """Sample, read, fit; each stage goes on from what is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="arena_answers.jsonl")
    parser.add_argument("--output", type=Path, default=Path("runs/embedded_reward"))
    options = parser.parse_args()
    sources = read_sources(options.data)
    model = TransformersLM()
    with RunFile(options.output / "samples.jsonl", {"base": model.fingerprint(), "version": 1}) as file:
        sample(model, sources, file)
    texts = [text for source in sources for text in texts_of(source, sources, file.rows)]
    pooled = read_texts(model, sources, texts, options.output / "states")
    head, log = fit(sources, texts, pooled, model.name)
    write(head, log, options.output / "head")


def read_sources(path: Path) -> list[Source]:
    """Openings that the judge reads in full."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        Source(row["id"], row["opening"], row["topic"], tuple(row["answers"].values()))
        for row in rows
        if len(row["opening"]) <= LONGEST_QUESTION
    ]


def sample(model: TransformersLM, sources: Sequence[Source], file: RunFile, batch_size: int = 40) -> None:
    """What the base model says itself: its own answer, a terse one, and a strong answer's start carried on."""
    for kind in ("own", "continued", "terse"):
        todo = [one for one in sources if f"{one.key}:{kind}" not in file.rows]
        todo.sort(key=lambda one: len(one.opening))
        for start in range(0, len(todo), batch_size):
            batch = todo[start : start + batch_size]
            texts = carried_on(model, batch) if kind == "continued" else answered(model, batch, kind)
            for one, text in zip(batch, texts, strict=True):
                file.append({"key": f"{one.key}:{kind}", "text": text})
            print(f"{kind}: {start + len(batch)} of {len(todo)}", flush=True)


def answered(model: TransformersLM, batch: Sequence[Source], kind: str) -> list[str]:
    """The model's answers, in full or told to be terse."""
    sampling = Sampling(0.8, 0.95, 160 if kind == "own" else 60)
    head = (Message("system", TERSE),) if kind == "terse" else ()
    requests = [
        Request((*head, Message("user", one.opening)), sampling, derive_seed(0, 0, f"{one.key}:{kind}"))
        for one in batch
    ]
    return [one.text for one in model.generate(requests)]


def carried_on(model: TransformersLM, batch: Sequence[Source]) -> list[str]:
    """A strong answer's first 25 to 60 tokens and up to 110 of the base model's."""
    import torch

    tokenizer = model.tokenizer
    prompts, starts = [], []
    for number, one in enumerate(batch):
        rng = np.random.default_rng(derive_seed(0, 0, f"{one.key}:continued"))
        words = one.answers[int(rng.integers(len(one.answers)))]
        ids = tokenizer(words, add_special_tokens=False)["input_ids"][: int(rng.integers(25, 60))]
        starts.append(tokenizer.decode(ids).rpartition(" ")[0])
        prompts.append(render(tokenizer, [Message("user", one.opening)], "assistant") + starts[number])
    tokenizer.padding_side = "left"
    inputs = tokenizer(prompts, add_special_tokens=False, return_tensors="pt", padding=True)
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
    """The answers to one opening: worse ones, and strong ones with an end to match each."""
    rng = generator(0, "texts", source.key)
    worse: list[Text] = []

    def add(kind: str, words: str) -> None:
        words = words.strip()[:LONGEST_ANSWER].strip()
        if words:
            worse.append(Text(source.key, kind, words, (len(words),)))

    for kind in ("own", "continued", "terse"):
        said = samples[f"{source.key}:{kind}"]["text"].strip()
        # half of them end as they were cut off, half with their last sentence: neither is what makes them worse
        add(kind, said if rng.random() < 0.5 else said[: sentence_end(said, len(said))])
    for kind in rng.choice(list(SPOILT), size=2, replace=False):
        add(str(kind), SPOILT[str(kind)](excerpt(str(rng.choice(source.answers)), rng), source, rng))
    others = [one for one in sources if one.key != source.key]
    near = [one for one in others if one.topic == source.topic]
    strangers = near if near and rng.random() < 0.5 else others
    stranger = strangers[int(rng.integers(len(strangers)))]
    add("off_topic", excerpt(str(rng.choice(stranger.answers)), rng))
    strong = [
        Text(source.key, "strong", words, tuple(matching_end(words, text, rng) for text in worse))
        for words in (answer.strip()[:LONGEST_ANSWER] for answer in source.answers)
    ]
    return [*worse, *strong]


def sentence_end(words: str, target: int) -> int:
    """The end of a sentence or line that is nearest to `target` characters; the whole text has one, too."""
    ends = [match.start() for match in re.finditer(r"(?<=[.!?:;])\s|\n|$", words) if match.start() > 15]
    return min(ends, key=lambda end: abs(end - target), default=len(words))


def matching_end(words: str, worse: Text, rng: np.random.Generator) -> int:
    """Where a strong answer ends to be about as long as the worse one, a little longer as often as shorter."""
    return sentence_end(words, round(len(worse.words) * float(np.exp(rng.normal(0, 0.25)))))


def excerpt(words: str, rng: np.random.Generator) -> str:
    """A strong answer's beginning, 100 to 800 characters, up to the end of a sentence."""
    return words[: sentence_end(words, round(float(np.exp(rng.uniform(np.log(100), np.log(800))))))]


def cut_off(words: str, source: Source, rng: np.random.Generator) -> str:
    return words[: max(20, round(len(words) * float(rng.uniform(0.3, 0.9))))].rpartition(" ")[0]


def repeated(words: str, source: Source, rng: np.random.Generator) -> str:
    parts = re.split(r"(?<=[.!?])\s+|\n+", words)
    kept = parts[: max(1, int(rng.integers(1, len(parts) + 1)) // 2)]
    return " ".join((kept * (1 + len(words) // max(1, len(" ".join(kept)))))[:40])[: max(60, len(words))]


def padded(words: str, source: Source, rng: np.random.Generator) -> str:
    """A sentence or two of the answer among filler."""
    parts = [one for one in re.split(r"(?<=[.!?])\s+|\n+", words) if one]
    filler = [FILLER[int(one)] for one in rng.permutation(len(FILLER))]
    target, kept = len(words), [parts[0]] if rng.random() < 0.5 else []
    while sum(map(len, kept)) < target and filler:
        kept.insert(int(rng.integers(len(kept) + 1)), filler.pop())
    return " ".join(kept)


def shuffled(words: str, source: Source, rng: np.random.Generator) -> str:
    parts = [one for one in re.split(r"(?<=[.!?])\s+|\n+", words) if one]
    if len(parts) < 3:
        return garbled(words, source, rng)
    return " ".join(parts[int(one)] for one in rng.permutation(len(parts)))


def garbled(words: str, source: Source, rng: np.random.Generator) -> str:
    """Neighbouring words swapped, and words dropped."""
    said = words.split(" ")
    rate = float(rng.uniform(0.1, 0.4))
    for place in range(len(said) - 1):
        if rng.random() < rate:
            said[place], said[place + 1] = said[place + 1], said[place]
    return " ".join(one for one in said if rng.random() > rate / 3)


SPOILT: dict[str, Callable[[str, Source, np.random.Generator], str]] = {
    "cut_off": cut_off,
    "repeated": repeated,
    "padded": padded,
    "shuffled": shuffled,
    "garbled": garbled,
}


def read_texts(
    model: TransformersLM, sources: Sequence[Source], texts: Sequence[Text], folder: Path, chunk: int = 160
) -> list[np.ndarray[Any, Any]]:
    """Pooled states of every end of every text, shape (ends, layers, 3, D) each; a chunk a file."""
    from safetensors.numpy import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    openings = {one.key: one.opening for one in sources}
    found: list[np.ndarray[Any, Any]] = []
    for start in range(0, len(texts), chunk):
        part, path = texts[start : start + chunk], folder / f"{start:05d}.safetensors"
        if not path.is_file():
            read = read_chunk(model, [(openings[one.source], one) for one in part])
            save_file({str(number): states for number, states in enumerate(read)}, path)
            print(f"read: {min(start + chunk, len(texts))} of {len(texts)}", flush=True)
        stored = load_file(path)
        found.extend(stored[str(number)] for number in range(len(part)))
    return found


def read_chunk(model: TransformersLM, texts: Sequence[tuple[str, Text]]) -> list[np.ndarray[Any, Any]]:
    """Pooled states of some texts."""
    made = [
        rendered(model.tokenizer, [Message("user", opening), Message("assistant", one.words)]) for opening, one in texts
    ]
    states = model.hidden_states([text for text, _ in made], layers=LAYERS)
    pooled = []
    for (_, one), (_, (exchange,)), read in zip(texts, made, states, strict=True):
        first = exchange.answer[0]
        rows = [
            [pool(read, Exchange(exchange.question, (first, first + end)), layer)[0] for layer in range(len(LAYERS))]
            for end in one.ends
        ]
        pooled.append(np.array(rows, dtype=np.float32))
    return pooled


def fit(
    sources: Sequence[Source], texts: Sequence[Text], pooled: Sequence[np.ndarray[Any, Any]], base: str
) -> tuple[Head, dict[str, Any]]:
    """The head, and what was seen on the way."""
    pairs = make_pairs(sources, texts)
    longer = [pairs_longer(texts, pair) for pair in pairs]
    print(f"{len(pairs)} pairs; the better answer is the longer one in {100 * np.mean(longer):.1f} %", flush=True)
    trials = [
        (accuracy_by_kind(texts, pairs, cross_validated(pairs, pooled, layer, prior)), layer, prior)
        for layer in range(len(LAYERS))
        for prior in PRIORS
    ]
    for kinds, layer, prior in trials:
        print(LAYERS[layer], prior, {kind: round(value, 3) for kind, value in kinds.items()}, flush=True)
    kinds, layer, prior = max(trials, key=lambda trial: trial[0]["mean of kinds"])
    mean, deviation, weight = fitted(pairs, pooled, layer, prior)
    head = Head(LAYERS[layer], base, mean, deviation, weight, 0.0, 1.0)
    better, worse = (head.rewards(rows) for rows in sides(pairs, pooled, layer))
    centre = float((np.median(better) + np.median(worse)) / 2)
    scale = float((np.median(better) - np.median(worse)) / 2)
    head = Head(LAYERS[layer], base, mean, deviation, weight, centre, scale)
    log = {
        "openings": len(sources),
        "pairs": len(pairs),
        "better_is_longer": float(np.mean(longer)),
        "layer": LAYERS[layer],
        "prior": prior,
        "ending_tokens": ENDING,
        "cross_validated_accuracy": kinds,
        "trials": [
            {"layer": LAYERS[number], "prior": strength, "mean_of_kinds": value["mean of kinds"]}
            for value, number, strength in trials
        ],
    }
    return head, log


@dataclass(frozen=True)
class Pair:
    """Two texts about equally long, the first better."""

    topic: str
    better: int
    worse: int
    end: int
    """Which end of the better text."""


def make_pairs(sources: Sequence[Source], texts: Sequence[Text]) -> list[Pair]:
    """Every strong answer with every worse one to the same opening."""
    topics = {one.key: one.topic for one in sources}
    by_source: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        by_source.setdefault(text.source, []).append(number)
    pairs = []
    for key, numbers in by_source.items():
        worse = [number for number in numbers if texts[number].kind != "strong"]
        strong = [number for number in numbers if texts[number].kind == "strong"]
        pairs += [Pair(topics[key], one, other, end) for one in strong for end, other in enumerate(worse)]
    return pairs


def pairs_longer(texts: Sequence[Text], pair: Pair) -> bool:
    return texts[pair.better].ends[pair.end] > texts[pair.worse].ends[0]


def sides(pairs: Sequence[Pair], pooled: Sequence[np.ndarray[Any, Any]], layer: int) -> tuple[Any, Any]:
    """States of the better and of the worse answers, shape (pairs, 3, D) each."""
    better = np.stack([pooled[pair.better][pair.end, layer] for pair in pairs])
    return better, np.stack([pooled[pair.worse][0, layer] for pair in pairs])


def fitted(
    pairs: Sequence[Pair], pooled: Sequence[np.ndarray[Any, Any]], layer: int, prior: float
) -> tuple[Any, Any, Any]:
    """Means, deviations and weights: logistic regression on differences, which is the Bradley-Terry likelihood."""
    from sklearn.linear_model import LogisticRegression

    better, worse = sides(pairs, pooled, layer)
    both = np.concatenate([better, worse])
    mean, deviation = both.mean(0), both.std(0) + 1e-6
    difference = Head.features(better, mean, deviation) - Head.features(worse, mean, deviation)
    spread = difference.std(0) + 1e-6
    sign = np.where(np.arange(len(pairs)) % 2 == 0, 1, -1)
    model = LogisticRegression(C=prior, fit_intercept=False, max_iter=2000)
    model.fit(difference / spread * sign[:, None], sign)
    return mean, deviation, (model.coef_[0] / spread).astype(np.float32)


def cross_validated(
    pairs: Sequence[Pair], pooled: Sequence[np.ndarray[Any, Any]], layer: int, prior: float
) -> np.ndarray[Any, Any]:
    """Whether each pair is decided rightly by a head that saw nothing of its topic."""
    from sklearn.model_selection import GroupKFold

    right = np.zeros(len(pairs))
    for train, test in GroupKFold(4).split(pairs, groups=[pair.topic for pair in pairs]):
        mean, deviation, weight = fitted([pairs[one] for one in train], pooled, layer, prior)
        head = Head(LAYERS[layer], "", mean, deviation, weight, 0.0, 1.0)
        better, worse = (head.rewards(rows) for rows in sides([pairs[one] for one in test], pooled, layer))
        right[test] = better > worse
    return right


def accuracy_by_kind(texts: Sequence[Text], pairs: Sequence[Pair], right: np.ndarray[Any, Any]) -> dict[str, float]:
    """Share of right decisions by what makes the worse answer worse, and their mean."""
    kinds = [texts[pair.worse].kind for pair in pairs]
    shares = {
        kind: float(np.mean([hit for hit, one in zip(right, kinds, strict=True) if one == kind]))
        for kind in sorted(set(kinds))
    }
    return {**shares, "mean of kinds": float(np.mean(list(shares.values())))}


def write(head: Head, log: dict[str, Any], folder: Path) -> None:
    """The folder that the judge reads, and the log of the training."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: getattr(head, name).astype(np.float32) for name in ("mean", "deviation", "weight")},
        folder / "head.safetensors",
    )
    settings = {name: getattr(head, name) for name in ("base", "layer", "centre", "scale")}
    (folder / "head.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    (folder / "training_log.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
