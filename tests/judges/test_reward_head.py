from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from simgym.conversation import Conversation, Message, Scenario
from simgym.errors import ConfigurationError, WeightsError
from simgym.judges import SHIPPED_HEAD, RewardHeadJudge, load_judge, read_head
from simgym.judges.people_record import find_record, people_warning
from simgym.judges.reward_head import HEADS, TENSORS
from simgym.language_models import TransformersLM
from simgym.language_models.pooling import rendered
from simgym.testing import check_judge

SCENARIO = Scenario(
    "s", "You are a user chatting with an assistant language model to get something done today", opening="hi"
)


def talk(*turns):
    conversation = Conversation()
    for number, text in enumerate(turns):
        conversation = conversation.add("user" if number % 2 == 0 else "assistant", text)
    return conversation


@pytest.fixture(scope="module")
def tiny_head(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("head")
    rng = np.random.default_rng(0)
    tensors = {
        "mean": np.zeros((3, 32), np.float32),
        "deviation": np.ones((3, 32), np.float32),
        "match_mean": np.zeros(3, np.float32),
        "match_deviation": np.ones(3, np.float32),
        "weight": rng.normal(size=99).astype(np.float32),
    }
    save_file(tensors, folder / "head.safetensors")
    (folder / "head.json").write_text(
        json.dumps({"base": tiny_model, "layer": 1, "match_layer": 2, "centre": 0.0, "scale": 9.0})
    )
    return str(folder)


def values(judge, talks):
    return [judgement.score for judgement in judge.judge([SCENARIO] * len(talks), talks, seeds=[0] * len(talks))]


def test_it_keeps_the_protocol_of_judges(tiny_head):
    check_judge(RewardHeadJudge(head=tiny_head))


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(texts, min_size=2, max_size=4).map(lambda turns: talk(*turns)), min_size=1, max_size=4))
def test_a_value_depends_on_the_conversation_alone_and_is_the_mean_of_its_turns(tiny_head, talks):
    judge = RewardHeadJudge(head=tiny_head)
    together = judge.judge([SCENARIO] * len(talks), talks, seeds=[0] * len(talks))
    for conversation, value in zip(talks, together, strict=True):
        assert len(value.components) == len(conversation.said_by("assistant"))
        assert value.score == pytest.approx(np.mean(value.components))
        assert values(judge, [conversation]) == [pytest.approx(value.score, abs=1e-4)]


def test_an_earlier_turn_is_not_judged_by_what_comes_later(tiny_head):
    judge = RewardHeadJudge(head=tiny_head)
    short, long = talk("hello", "a reply"), talk("hello", "a reply", "and now?", "something else")
    first, second = judge.judge([SCENARIO] * 2, [short, long], seeds=[0, 0])
    assert second.components[0] == pytest.approx(first.score, abs=1e-4)


def test_turns_are_found_where_they_stand_even_if_the_same_words_stand_elsewhere(smollm):
    tokenizer = TransformersLM(smollm).tokenizer
    # "You" and "helpful" occur in the system prompt that the template adds
    messages = [Message("user", "You"), Message("assistant", "helpful"), Message("user", "<|im_end|>x"),
                Message("assistant", "  You  ")]  # fmt: skip
    text, exchanges = rendered(tokenizer, messages)
    assert [text[slice(*exchange.answer)] for exchange in exchanges] == ["helpful", "You"]
    assert text[: exchanges[0].question[0]].endswith("<|im_start|>user\n")
    assert text[slice(*exchanges[1].question)].endswith("im_end|>x")
    assert text.count("<|im_end|>") == 5  # system, and one a turn: nobody ended their turn by words


def test_what_cannot_be_judged_is_a_fault(tiny_head):
    judge = RewardHeadJudge(head=tiny_head)
    judgements = judge.judge([SCENARIO] * 3, [talk("hi"), talk("hi", "yes"), Conversation()], seeds=[0] * 3)
    assert [judgement.fault and judgement.fault.partition(":")[0] for judgement in judgements] == [
        "unparsable",
        None,
        "unparsable",
    ]
    narrow = RewardHeadJudge(TransformersLM(json.loads(read_folder(tiny_head)).get("base"), context_length=60),
                             head=tiny_head)  # fmt: skip
    (fault,) = narrow.judge([SCENARIO], [talk("u" * 50, "a" * 50, "more", "b" * 20)], seeds=[0])
    assert fault.fault.startswith("context_overflow")


def read_folder(folder):
    with open(f"{folder}/head.json") as file:
        return file.read()


def test_a_head_for_another_model_or_no_head_is_refused(tiny_head, tmp_path):
    with pytest.raises(ConfigurationError, match="in process"):
        RewardHeadJudge("scripted:echo", head=tiny_head).fingerprint()
    with pytest.raises(ConfigurationError, match="not on other-model"):
        RewardHeadJudge("other-model", head=tiny_head).fingerprint()
    with pytest.raises(WeightsError, match="holds no reward head"):
        read_head(tmp_path)
    (tmp_path / "head.json").write_text('{"layer": 1, "match_layer": 1, "base": "x", "centre": 0, "scale": 1}')
    save_file({name: np.zeros((2, 2), np.float32) for name in TENSORS},
              tmp_path / "head.safetensors")  # fmt: skip
    with pytest.raises(WeightsError, match="holds no reward head"):
        read_head(tmp_path)


@pytest.mark.slow
def test_the_shipped_head_tells_a_good_answer_from_poor_ones(smollm):
    question = "How do I keep cut apples from turning brown?"
    good = (
        "Brush the slices with lemon juice, or soak them for five minutes in cold water with a little salt. Both slow "
        "the oxidation that makes apples brown. Then keep them in an airtight container in the fridge."
    )
    poor = [
        "The capital of Portugal is Lisbon. It lies at the mouth of the river Tagus and has many inhabitants.",
        "Apples are apples. Apples are apples. Apples are apples. Apples are apples. Apples are apples. Apples are",
        "Turning brown to in the, apple fridge lemon of keep the it slices cold salt. The both a or with minutes water",
    ]
    best, *rest = values(load_judge("reward_head"), [talk(question, answer) for answer in (good, *poor)])
    assert all(best > value for value in rest)
    assert best > 0.5


def test_what_is_shipped_is_small():
    assert sorted(file.name for file in SHIPPED_HEAD.iterdir()) == [
        "README.md", "head.json", "head.safetensors", "people.json", "prompts.txt", "training_log.json"]  # fmt: skip
    assert sum(file.stat().st_size for file in HEADS.rglob("*")) < 1e6


def test_the_head_of_earlier_versions_is_read_by_its_name_and_is_what_it_was():
    judge = RewardHeadJudge(head="smollm2-135m-helpfulness")
    fingerprint = judge.fingerprint()
    assert fingerprint["weights"] == "38048c1e55ee29f1"  # of plans that are continued
    assert fingerprint["head"] == "smollm2-135m-helpfulness"
    assert fingerprint["measures"].startswith("whether replies are more like a strong model's")
    assert RewardHeadJudge().fingerprint()["weights"] != fingerprint["weights"]


def test_the_shipped_head_knows_its_prompts_and_what_people_make_of_it():
    judge = RewardHeadJudge()
    record = find_record(judge.fingerprint())
    assert record is not None
    assert record.accuracy.reliable
    assert ("below the bar" in people_warning(judge.fingerprint())) is not record.passes
    assert judge.fitted_on("Complete a brief story given the following first sentence.  [MALE] was a WEATHERMAN.")
    assert not judge.fitted_on("What nobody asked")
