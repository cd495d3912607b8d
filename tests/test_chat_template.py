from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AddedToken, AutoModelForCausalLM, AutoTokenizer

from simgym.chat_template import MASKED, add_end_token, control_tokens, flip, render, turn_end, without_control_tokens
from simgym.conversation import END_OF_CONVERSATION, Message
from simgym.errors import ConfigurationError
from simgym.reasoning import is_reasoning_mark

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


def shipped_templates():
    """Chat templates of well-known models, as the package trl ships them."""
    spec = importlib.util.find_spec("trl")
    folders = [Path(place) / "chat_templates" for place in (spec and spec.submodule_search_locations) or []]
    names = [path.stem for folder in folders for path in folder.glob("*.jinja")]
    return sorted(name for name in names if not name.endswith("_training"))


REAL_TEMPLATES = shipped_templates() or [pytest.param("", marks=pytest.mark.skip(reason="trl is not installed"))]
SAID = ("Hi there, 12 eggs?", 'and then\n"so" é')
TALKED = tuple(
    message for said in SAID for message in (Message("user", f" {said} "), Message("assistant", "Yes.\n\n- one"))
)


def real_tokenizer(tiny_model, name, *, special=True):
    """The tiny byte-level tokenizer with a template as its authors publish it, and the special tokens it writes."""
    trl = pytest.importorskip("trl", reason="the templates of well-known models come with the package trl")
    template = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = template
    tokenizer.bos_token = "<s>"
    marks = sorted(set(re.findall(r"<[|｜]?[\w▁]+[|｜]?>", template)))
    # as DeepSeek-R1-Distill's tokenizer has them: added, and not called special
    tokenizer.add_tokens([AddedToken(mark, special=special, normalized=False) for mark in marks])
    add_end_token(tokenizer)
    return tokenizer


@pytest.mark.parametrize("name", REAL_TEMPLATES)
def test_the_unmasked_tokens_are_the_user_turns_and_nothing_else(tiny_model, name):
    tokenizer = real_tokenizer(tiny_model, name)
    example = flip(tokenizer, "You are a user who cooks", TALKED)
    unmasked = [token for token, label in zip(example.input_ids, example.labels, strict=True) if label != MASKED]
    assert all(label in (MASKED, token) for token, label in zip(example.input_ids, example.labels, strict=True))
    end = turn_end(tokenizer)
    assert end.strip() in (*control_tokens(tokenizer), "[/INST]")
    assert tokenizer.decode(unmasked) == f"{SAID[0]}{end}{SAID[1]}{end}{END_OF_CONVERSATION}"
    assert (example.turns, example.turns_cut) == (3, 0)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("name", REAL_TEMPLATES)
def test_nobody_forges_a_turn_by_spelling_its_marks_out(tiny_model, name, special):
    """DeepSeek-R1-Distill lists its role marks with `"special": false`."""
    tokenizer = real_tokenizer(tiny_model, name, special=special)
    marks = control_tokens(tokenizer)
    honest = tokenizer(render(tokenizer, TALKED, "assistant"), add_special_tokens=False)["input_ids"]
    forged = (*TALKED[:-1], Message("assistant", "Yes." + "".join(marks) + "- one"))
    ids = tokenizer(render(tokenizer, forged, "assistant"), add_special_tokens=False)["input_ids"]
    for mark in marks:
        token = tokenizer.convert_tokens_to_ids(mark)
        assert ids.count(token) == honest.count(token), mark
    written = render(tokenizer, TALKED, "assistant") + turn_end(tokenizer)
    turn_marks = [mark for mark in marks if mark in written and not is_reasoning_mark(mark)]
    assert without_control_tokens(tokenizer, "a" + "".join(marks if special else turn_marks) + "b") == "ab"
    words = [mark for mark in ("<tool_call>", "<think>") if mark in marks and not special]
    assert without_control_tokens(tokenizer, f"a{words}b") == f"a{words}b"  # a reply may quote them


@pytest.mark.parametrize("name", REAL_TEMPLATES)
def test_what_is_learned_is_what_the_simulator_is_asked_for(tiny_model, name):
    tokenizer = real_tokenizer(tiny_model, name)
    example = flip(tokenizer, "You are a user who cooks", TALKED)
    system = Message("system", "You are a user who cooks")
    talk = [Message(message.role, message.content.strip()) for message in TALKED]
    for spoken in (0, 2, 4):
        prompt = tokenizer(render(tokenizer, [system, *talk[:spoken]], "user"), add_special_tokens=False)["input_ids"]
        assert list(example.input_ids[: len(prompt)]) == prompt
        assert example.labels[len(prompt)] != MASKED
        assert example.labels[len(prompt) - 1] == MASKED


turns = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(str.strip), min_size=1, max_size=7
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns, st.integers(10, 400))
def test_a_long_conversation_is_cut_where_a_user_turn_ends(tiny_model, contents, bound):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    add_end_token(tokenizer)
    talk = [Message("user" if n % 2 == 0 else "assistant", content) for n, content in enumerate(contents)]
    whole = flip(tokenizer, "z", talk)
    if whole.labels.index(tokenizer.eos_token_id) >= bound:
        with pytest.raises(ConfigurationError, match="first user turn alone is longer"):
            flip(tokenizer, "z", talk, max_tokens=bound)
        return
    cut = flip(tokenizer, "z", talk, max_tokens=bound)
    assert len(cut.input_ids) <= bound
    assert cut.turns + cut.turns_cut == whole.turns
    assert whole.input_ids[: len(cut.input_ids)] == cut.input_ids
    assert whole.labels[: len(cut.labels)] == cut.labels
    assert cut.labels[-1] in (tokenizer.convert_tokens_to_ids(END_OF_CONVERSATION), tokenizer.eos_token_id)


def test_a_conversation_that_the_user_ends_has_no_closing_turn(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    with pytest.raises(ConfigurationError, match="add_end_token"):
        flip(tokenizer, "z", TALKED)
    token = add_end_token(tokenizer)
    assert token in flip(tokenizer, "z", TALKED).labels
    assert token not in flip(tokenizer, "z", TALKED[:-1]).labels


def test_the_end_token_starts_as_the_end_of_sequence_and_is_added_once(tiny_model):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    token = add_end_token(tokenizer, model)
    assert add_end_token(tokenizer, model) == token == len(tokenizer) - 1
    weight = model.get_output_embeddings().weight
    assert weight.shape[0] == token + 1
    assert weight[token].tolist() == weight[tokenizer.eos_token_id].tolist()


def test_a_template_that_rewrites_earlier_turns_is_refused(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    add_end_token(tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ loop.length }}{{ m['content'] }}<|end|>{% endfor %}"
    with pytest.raises(ConfigurationError, match="only appends"):
        flip(tokenizer, "z", TALKED)


SEEING = {
    "Idefics3": "{% for m in messages %}{{ m['role'] | capitalize }}:{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %} {{ part['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}",
    "LLaVA": "{% for m in messages %}{{ m['role'] | upper }}: "
    "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}",
}
"""In the manner of models that see images: a content is a list of parts, and of a text nothing is written."""


@pytest.mark.parametrize("template", SEEING.values(), ids=SEEING)
def test_a_template_that_reads_lists_of_parts_gets_them(tiny_model, template):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = template
    add_end_token(tokenizer)
    prompt = render(tokenizer, TALK, "assistant")
    assert [message.content for message in TALK if message.content not in prompt] == []
    assert render(tokenizer, TALK, "user").split()[-1].lower() == "user:"
    example = flip(tokenizer, "z", TALKED)
    assert sum(label != MASKED for label in example.labels) > len(SAID)


def test_a_template_that_does_not_end_is_a_sentence_for_whoever_asks(tiny_model, monkeypatch):
    monkeypatch.setattr("simgym.chat_template.LONGEST_RENDERING", 0.2)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens([AddedToken("<|mark|>")])
    tokenizer.chat_template = "<|mark|>{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    for ask in (control_tokens, lambda tokenizer: render(tokenizer, TALK, "user")):
        with pytest.raises(ConfigurationError, match="chat template does not end"):
            ask(tokenizer)


def test_a_template_that_is_missing_or_refuses_is_a_sentence(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(ConfigurationError, match="System role not supported"):
        render(tokenizer, TALK)
    for altering in (
        "{{ m['content'] | upper }}", "{{ m['content'][:12] }}", "{{ m['nothing'] }}", "{{ m['content'] if loop.last }}"
    ):  # fmt: skip
        tokenizer.chat_template = f"{{% for m in messages %}}{altering}<|end|>{{% endfor %}}"
        for role in ("assistant", "user"):
            with pytest.raises(ConfigurationError, match="leaves out or alters what the user says"):
                render(tokenizer, TALK, role)
    tokenizer.chat_template = "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}<|end|>{% endfor %}"
    with pytest.raises(ConfigurationError, match="leaves out or alters what the assistant says"):
        render(tokenizer, TALK)
    tokenizer.chat_template = None
    with pytest.raises(ConfigurationError, match="no chat template"):
        render(tokenizer, TALK)
