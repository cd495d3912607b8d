from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from simgym.conversation import Message
from simgym.errors import ConfigurationError
from simgym.flip import render

TALK = (Message("system", "be brief"), Message("user", "hi"), Message("assistant", "hello"))

TEMPLATES = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "llama": "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "instruct": "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_the_open_user_turn_is_a_prefix_of_the_finished_one_in_any_template(tiny_model, template):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = template
    prompt = render(tokenizer, TALK, "user")
    finished = tokenizer.apply_chat_template(
        [*(m.to_json() for m in TALK), {"role": "user", "content": "and more"}], tokenize=False
    )
    assert finished.startswith(f"{prompt}and more")
    assert len(prompt) > len(render(tokenizer, TALK[:2], "assistant")) - len("assistant")


def test_a_template_that_is_missing_or_refuses_is_a_sentence(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(ConfigurationError, match="System role not supported"):
        render(tokenizer, TALK)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    with pytest.raises(ConfigurationError, match="alters user messages"):
        render(tokenizer, TALK, "user")
    tokenizer.chat_template = None
    with pytest.raises(ConfigurationError, match="no chat template"):
        render(tokenizer, TALK)
