"""Judges that read a model's numbers instead of its words: expected_score and reward_model."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from simgym.conversation import INTENT_PREFIX, Conversation, Message, Scenario
from simgym.errors import ConfigurationError, WeightsError
from simgym.judges import ExpectedScoreJudge, RewardModelJudge, load_judge
from simgym.judges.expected_score import DIGITS
from simgym.language_models import Request, ScriptedLM, TransformersLM

SCENARIO = Scenario("x", f"{INTENT_PREFIX}rest", opening="hi")
TALKS = [
    Conversation().add("user", "hi").add("assistant", text)
    for text in ("hello", "good morning to you", "a <|end|> b " * 9)
]


def classifier(tiny_model, folder, *, num_labels):
    """A random model with a head of so many outputs; its folder."""
    config = AutoConfig.from_pretrained(tiny_model)
    config.num_labels, config.initializer_range = num_labels, 0.5
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def reward_model(tiny_model, tmp_path_factory):
    return classifier(tiny_model, tmp_path_factory.mktemp("reward"), num_labels=1)


def judged(judge, talks=TALKS):
    return judge.judge([SCENARIO] * len(talks), talks, seeds=range(len(talks)))


def test_the_expected_score_is_the_mean_of_the_digits_by_their_probability(tiny_model, monkeypatch):
    model = TransformersLM(tiny_model)
    monkeypatch.setattr("simgym.judges.expected_score.LEAST_MASS", 0.0)
    judge = ExpectedScoreJudge(model)
    (judgement,) = judged(judge, TALKS[:1])
    prompt = model.prompt_text(judge._request(SCENARIO, TALKS[0]))
    chances = [math.exp(item.logprob) for item in model.loglikelihood([prompt] * 10, DIGITS)]
    expected = sum(digit * chance for digit, chance in enumerate(chances)) / sum(chances) / 9
    assert judgement.score == pytest.approx(expected, abs=1e-4)
    assert [item.score for item in judged(judge)] == pytest.approx(
        [judged(judge, [talk])[0].score for talk in TALKS], abs=1e-4
    )


def test_a_model_that_was_not_about_to_grade_is_a_fault(tiny_model, monkeypatch):
    monkeypatch.setattr("simgym.judges.expected_score.LEAST_MASS", 0.999)
    (judgement,) = judged(ExpectedScoreJudge(TransformersLM(tiny_model)), TALKS[:1])
    assert judgement.score is None
    assert judgement.fault.startswith("unparsable: the digits have")
    long = Conversation().add("user", "x" * 5000).add("assistant", "y")
    assert judged(ExpectedScoreJudge(TransformersLM(tiny_model)), [long])[0].fault.startswith("context_overflow")
    with pytest.raises(ConfigurationError, match="needs a model in this process"):
        judged(ExpectedScoreJudge(ScriptedLM("5")))


def test_choices_are_single_tokens(tiny_model):
    model = TransformersLM(tiny_model)
    asked = [Request((Message("user", "How good, 0 to 9?"),))]
    with pytest.raises(ConfigurationError, match="'10' is not one token"):
        model.choose(asked, ["10"])
    assert len(model.choose(asked, ["1", "2"])[0]) == 2


def test_a_reward_becomes_a_value_the_same_alone_and_in_a_batch(reward_model):
    judge = RewardModelJudge(reward_model, max_batch_size=2)
    together = judged(judge)
    alone = [judged(judge, [talk])[0] for talk in TALKS]
    assert [judgement.score for judgement in together] == pytest.approx(
        [judgement.score for judgement in alone], abs=1e-5
    )
    assert len({round(judgement.score, 4) for judgement in together}) == 3
    model = AutoModelForSequenceClassification.from_pretrained(reward_model)
    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    text = tokenizer.apply_chat_template(TALKS[0].to_json(), tokenize=False)
    with torch.inference_mode():
        reward = float(model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits[0, 0])
    assert together[0].score == pytest.approx(1 / (1 + math.exp(-reward)), abs=1e-5)
    shifted = RewardModelJudge(reward_model, centre=reward, scale=2.0)
    assert judged(shifted)[0].score == pytest.approx(0.5, abs=1e-5)
    assert "<|assistant|>hello<|end|>" in together[0].calls[0].prompt
    assert together[2].calls[0].prompt.count("<|end|>") == 2  # what somebody spells out ends no turn
    assert judged(pickle.loads(pickle.dumps(judge)))[0].score == pytest.approx(together[0].score)


def test_a_reward_model_computes_in_the_number_format_that_was_asked_for(reward_model):
    exact, rounded = judged(RewardModelJudge(reward_model)), judged(RewardModelJudge(reward_model, dtype="bfloat16"))
    assert [each.score for each in rounded] == pytest.approx([each.score for each in exact], abs=0.05)
    assert [each.score for each in rounded] != [each.score for each in exact]


def test_what_is_no_reward_model_is_refused(tiny_model, reward_model, tmp_path):
    with pytest.raises(WeightsError, match=r"lacks 1 of its weights \(score\.weight\), which would be random"):
        judged(RewardModelJudge(tiny_model))
    with pytest.raises(ConfigurationError, match="has 2 outputs, expected one"):
        judged(RewardModelJudge(classifier(tiny_model, tmp_path / "classes", num_labels=2)))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="Cannot load the model"):
        judged(RewardModelJudge(str(tmp_path)))
    with pytest.raises(ConfigurationError, match="scale"):
        RewardModelJudge(reward_model, scale=0)
    with pytest.raises(ConfigurationError, match="dtype is 'int8', expected auto, float32"):
        RewardModelJudge(reward_model, dtype="int8")
    long = Conversation().add("user", "x" * 5000).add("assistant", "y")
    judgements = judged(RewardModelJudge(reward_model), [TALKS[0], long])
    assert judgements[0].score is not None
    assert judgements[1].fault.startswith("context_overflow")


@pytest.mark.parametrize(
    "name", ["relevance", "rubric", "checklist", "pairwise", "ensemble", "per_turn", "expected_score"]
)
def test_every_judge_is_found_by_name(name):
    options = {"ensemble": {"judges": ["rubric"]}}.get(name, {})
    assert load_judge(name, None, options).fingerprint()["judge"] == name
