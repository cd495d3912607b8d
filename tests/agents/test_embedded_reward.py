from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from simgym.judges import SHIPPED_HEAD, RewardHeadJudge
from simgym.judges.reward_head import HEADS
from simgym.seeding import generator

ROOT = Path(__file__).resolve().parents[2]


def load(name):
    specification = importlib.util.spec_from_file_location(f"{name}_recipe", ROOT / "agents" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recipe():
    return load("embedded_reward")


WORDS = "First of all, this is a sentence. It is followed by one more; and by others! Is that enough? Perhaps it is."


@pytest.mark.parametrize("kind", ["cut_off", "repeated", "padded", "shuffled", "garbled"])
def test_corrupted_answers_differ_from_what_they_were_made_of_and_are_about_as_long(recipe, kind):
    for seed in range(20):
        words = " ".join(f"Part {number}. {WORDS}" for number in range(2 + seed % 3))
        corrupted = recipe.CORRUPTIONS[kind](words, generator(seed, kind))
        assert corrupted != words
        assert 0.2 * len(words) < len(corrupted) < 1.6 * len(words) + 90


def test_sentences_end_where_they_end(recipe):
    assert WORDS[: recipe.sentence_end(WORDS, 30)] == "First of all, this is a sentence."
    assert recipe.sentence_end(WORDS, 10_000) == len(WORDS)
    assert recipe.sentence_end("no end at all", 5) == len("no end at all")


def test_the_recipe_makes_a_judge(recipe, tiny_model, tmp_path, monkeypatch):
    rows = [
        {"id": f"{number}", "opening": f"question {number}?", "topic": f"t{number % 8}",
         "answers": {"strong": f"{number} is an answer. " * 9, "less": f"an answer is {number}. " * 9}}
        for number in range(16)
    ]  # fmt: skip
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(recipe, "LAYERS", (1, 2))
    monkeypatch.setattr(recipe, "MATCH_LAYER", 1)
    monkeypatch.setattr(recipe, "PRIORS", (0.01,))
    monkeypatch.setattr(recipe, "TransformersLM", lambda model=tiny_model: TransformersLM(model))
    from simgym.language_models import TransformersLM

    command = ["embedded_reward.py", "--data", str(path), "--output", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", command)
    recipe.main()
    head = tmp_path / "run" / "head"
    log = json.loads((head / "training_log.json").read_text())
    assert log["pairs"] == 16 * (2 * 6 + 3)
    assert log["cross_validated_accuracy"]["terse"] > 0.9  # noise by a random model against sentences
    before = (head / "head.safetensors").read_bytes()
    recipe.main()  # nothing is sampled or read again
    assert (head / "head.safetensors").read_bytes() == before
    assert RewardHeadJudge(head=str(head)).fingerprint()["model"]["model"] == tiny_model


def test_lengths_are_balanced_and_validation_is_not_trained_on(recipe, data_of_others):
    sources = recipe.read_sources(data_of_others("arena_answers.jsonl"))
    log = json.loads((HEADS / "smollm2-135m-helpfulness" / "training_log.json").read_text())
    assert log["openings"] == len(sources)
    assert 0.45 < log["better_is_longer"] < 0.55
    rows = [json.loads(line) for line in data_of_others("judge_pairs.jsonl").read_text().splitlines()]
    assert {row["instruction"] for row in rows}.isdisjoint(source.opening for source in sources)


def test_the_card_says_what_the_results_say():
    package = load("package_reward_head")
    results = json.loads(package.VALIDATION.read_text())
    size = (SHIPPED_HEAD / "head.safetensors").stat().st_size
    card = (SHIPPED_HEAD / "README.md").read_text()
    assert card == package.card(results, size)
    assert size < 100_000
    for source, estimate in results["people"]["balanced_by_source"].items():
        assert f"| {source} | {results['training']['pairs_of_people'][source]} | {estimate['value']:.2f} [" in card
    assert json.loads((SHIPPED_HEAD / "training_log.json").read_text()) == results["training"]


@pytest.fixture(scope="module")
def people_recipe():
    sys.path.insert(0, str(ROOT / "agents"))
    yield load("people_reward")
    sys.path.remove(str(ROOT / "agents"))


def test_weights_take_away_what_length_says(people_recipe):
    rng = np.random.default_rng(0)
    ratio = np.where(rng.random(500) < 0.8, 1, -1) * rng.exponential(0.5, 500)
    weights = people_recipe.balancing_weights(ratio)
    assert weights.mean() == pytest.approx(1)
    assert weights[ratio > 0].sum() == pytest.approx(weights[ratio < 0].sum(), rel=1e-6)


def test_a_head_for_people_is_fitted_on_what_they_prefer_and_not_on_length(people_recipe):
    rng = np.random.default_rng(0)

    def side(count, good):
        pooled = rng.normal(size=(count, 3, 8)).astype(np.float32)
        pooled[:, 1, 0] += good
        return pooled, np.zeros((count, 3), dtype=np.float32)

    people = people_recipe.Sides(side(400, 2.0), side(400, 0.0), rng.normal(1.0, 1.0, 400))
    corrupted = people_recipe.Sides(side(60, 2.0), side(60, 0.0), np.zeros(60))
    head = people_recipe.fitted(people, corrupted)
    unseen = people_recipe.Sides(side(400, 2.0), side(400, 0.0), np.zeros(400))
    assert (people_recipe.margins_of(head, unseen) > 0).mean() > 0.8
