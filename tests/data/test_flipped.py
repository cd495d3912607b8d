from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer

from simgym.chat_template import MASKED, add_end_token
from simgym.conversation import INTENT_PREFIX, Conversation
from simgym.data import LoggedConversation, StepOutput, flip_conversations, write_scenarios


def logged(name, talk, intent=f"{INTENT_PREFIX}bake bread"):
    return LoggedConversation(
        id=name, user_key=f"u{name}", country="", language="English", conversation=talk, intent=intent
    )


def talk(*texts):
    conversation = Conversation()
    for number, text in enumerate(texts):
        conversation = conversation.add("user" if number % 2 == 0 else "assistant", text)
    return conversation


def listed(path):
    lines = path.with_name(f"{path.stem}.skipped.jsonl").read_text().splitlines()
    return {entry["id"]: entry["reason"] for entry in map(json.loads, lines)}


@pytest.fixture
def tokenizer(tiny_model):
    loaded = AutoTokenizer.from_pretrained(tiny_model)
    add_end_token(loaded)
    return loaded


def test_examples_are_written_and_what_cannot_be_learned_from_is_listed(tmp_path, tokenizer):
    path = tmp_path / "flipped.jsonl"
    long = talk("hello", "x" * 50, "more please", "y" * 400, "thanks", "z")
    with StepOutput(path) as output:
        flip_conversations(
            [
                logged("a", talk("hello", "hi", "bye")),
                logged("cut", long),
                logged("nameless", talk("hello", "hi"), intent=""),
                logged("empty", talk("hello", " ")),
                logged("huge", talk("h" * 500, "hi")),
                logged("broken", talk("hello", "hi"), intent=f"{INTENT_PREFIX}\ud83d"),
            ],
            tokenizer,
            output,
            max_tokens=200,
        )
    rows = {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
    assert list(rows) == ["a", "cut"]
    assert listed(path) == {"nameless": "no intent", "empty": "empty turn", "huge": "cannot be rendered",
                            "broken": "lone surrogates"}  # fmt: skip
    learned = [token for token in rows["a"]["labels"] if token != MASKED]
    assert tokenizer.decode(learned) == "hello<|end|>bye<|end|>"
    assert len(rows["cut"]["input_ids"]) <= 200
    assert (output.details["conversations_cut"], output.details["turns_cut"]) == (1, 2)
    assert output.details["tokens"] == sum(len(row["input_ids"]) for row in rows.values())


def test_a_tokenizer_without_a_chat_template_is_a_sentence_a_conversation(tmp_path, tokenizer):
    tokenizer.chat_template = None
    path = tmp_path / "flipped.jsonl"
    with StepOutput(path) as output:
        flip_conversations([logged("a", talk("hello", "hi"))], tokenizer, output)
    assert "no chat template" in path.with_name("flipped.skipped.jsonl").read_text()


def test_scenarios_need_an_opening_of_five_words_and_an_intent(tmp_path):
    path = tmp_path / "scenarios.jsonl"
    with StepOutput(path) as output:
        write_scenarios(
            [
                logged("short", talk("Hi", "hello")),
                logged("good", talk("so how do you bake", "hello")),
                logged("nameless", talk("so how do you bake", "hello"), intent=""),
                logged("odd", talk("so how do you bake", "hello"), intent="to bake"),
                logged("empty", Conversation()),
            ],
            output,
            source="a test",
        )
    assert [row["id"] for row in map(json.loads, path.read_text().splitlines())] == ["good"]
    assert listed(path) == {"short": "opening of fewer than 5 words", "nameless": "no intent",
                            "odd": "intent without the fixed phrase", "empty": "no turns"}  # fmt: skip
