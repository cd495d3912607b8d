"""Checkpoints as others publish them, saved by a tiny model in the same format: full weights, flipped template."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from simgym.conversation import END_OF_CONVERSATION, INTENT_PREFIX, Conversation, Scenario
from simgym.language_models import TransformersLM
from simgym.simulators import FineTuned

SCENARIO = Scenario("s", f"{INTENT_PREFIX}buy eggs", opening="hi")
TALK = Conversation().add("user", "hi").add("assistant", "How many?")

# The forms that the two families of checkpoints write, in our own words: Qwen's chat markup for the one, Llama 3's
# headers for the other.
FORMS = {
    "qwen": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        ["<|im_start|>", "<|im_end|>"],
        "<|im_end|>",
        "<|im_start|>user\n",
    ),
    "llama3": (
        "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content "
        "+ '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\n",
    ),
    "mistral": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content + '</s>' }}{% else %}"
        "{{ '[INST] ' + m.content + ' [/INST]' }}{% endif %}{% endfor %}",
        ["</s>", "[INST]", "[/INST]"],
        "[/INST]",
        "[INST] ",
    ),
}


def save(folder, tiny_model, form, *, end_token=END_OF_CONVERSATION):
    template, tokens, end, _ = FORMS[form]
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"additional_special_tokens": [*tokens, end_token]})
    tokenizer.eos_token = end
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():  # the checkpoint's own, learned rows
        rows = model.get_input_embeddings().weight
        generator = torch.Generator().manual_seed(0)
        rows[-len(tokens) - 1 :] = 0.3 * torch.randn(rows[-len(tokens) - 1 :].shape, generator=generator)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("form", FORMS)
def test_the_template_the_end_of_a_turn_and_the_end_token_are_detected(tmp_path, tiny_model, form):
    model = TransformersLM(save(tmp_path / form, tiny_model, form))
    simulator = FineTuned(model, temperature=3.0, max_new_tokens=40, max_attempts=1)
    turn = simulator.reply([SCENARIO], [TALK], seeds=[1])[0]
    prompt = turn.calls[0].prompt
    assert prompt.endswith(FORMS[form][3])
    assert SCENARIO.intent in prompt
    ids = model.tokenizer.convert_tokens_to_ids
    stops = model._ready().chat.stop_token_ids("user")
    assert {ids(END_OF_CONVERSATION), ids(FORMS[form][2])} <= stops
    turns = simulator.reply([SCENARIO] * 40, [TALK] * 40, seeds=range(40))
    assert any(user_turn.ended for user_turn in turns)
    for user_turn in turns:
        assert not any(token in user_turn.text for token in (*FORMS[form][1], END_OF_CONVERSATION))


def test_another_end_token_and_a_missing_template_can_be_given(tmp_path, tiny_model):
    folder = save(tmp_path / "other", tiny_model, "qwen", end_token="<|bye|>")
    (tmp_path / "other" / "chat_template.jinja").unlink()
    model = TransformersLM(folder, chat_template=FORMS["qwen"][0])
    simulator = FineTuned(model, end_token="<|bye|>", temperature=3.0, max_new_tokens=60, max_attempts=1)
    turns = simulator.reply([SCENARIO] * 60, [TALK] * 60, seeds=range(60))
    ended = [turn for turn in turns if turn.ended]
    assert ended
    assert all("<|bye|>" not in turn.text for turn in turns)
    spoken = [call.output for turn in ended for call in turn.calls]
    assert all("<|bye|>" in output for output in spoken)
    assert simulator.fingerprint()["end_token"] == "<|bye|>"
