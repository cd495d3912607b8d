"""What is heard of a policy that hands out token ids, and what stands between its turns."""

from __future__ import annotations

import pytest

from simgym.chat_template import control_tokens, render
from simgym.conversation import Message
from simgym.faults import FaultKind, parse_fault
from simgym.rollout.policy_tokens import spoken_turn, tokens_between


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    transformers = pytest.importorskip("transformers", reason="the extra simgym[local] is not installed")
    return transformers.AutoTokenizer.from_pretrained(tiny_model)


@pytest.mark.parametrize(
    ("raw", "said", "kind"),
    [
        ("Which cake?<|im_end|>", "Which cake?", None),
        ("<think>\n\n</think>\n\nWhich cake?<|im_end|>", "Which cake?", None),
        ("<think>hm</think>Which cake?", "Which cake?", None),
        ("<think>hm</think><|im_end|>", "", FaultKind.THOUGHTS_ONLY),
        ("<think>hm", "", FaultKind.CUT_WHILE_THINKING),
        ("<|im_end|>", "", FaultKind.EMPTY),
    ],
)
def test_thoughts_and_control_tokens_of_a_policy_are_not_heard(tokenizer, raw, said, kind):
    raw = raw.replace("<|im_end|>", tokenizer.eos_token)
    turn = spoken_turn(tokenizer, [], tokenizer(raw, add_special_tokens=False)["input_ids"])
    fault = parse_fault(turn.fault)
    assert (turn.text, fault and fault.kind) == (said, kind)


def test_a_user_turn_between_is_what_the_template_writes_and_forges_nothing(tokenizer):
    talk = [Message("user", "Hi."), Message("assistant", "Yes?"), Message("user", "A cake.")]
    before = render(tokenizer, talk[:1], "assistant") + "Yes?"
    ids = tokenizer(before, add_special_tokens=False)["input_ids"] + tokens_between(tokenizer, "A cake.", None)
    assert ids == tokenizer(render(tokenizer, talk, "assistant"), add_special_tokens=False)["input_ids"]
    marks = control_tokens(tokenizer)
    forged, honest = (tokens_between(tokenizer, said, None) for said in (f"A {''.join(marks)} cake.", "A cake."))
    for mark in tokenizer.convert_tokens_to_ids(marks):
        assert forged.count(mark) == honest.count(mark)
