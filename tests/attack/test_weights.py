"""Weights, adapters and chat templates of somebody who means harm, or of a disk that has lost some of them."""

import json
import random
import re
import shutil
import time

import pytest
from safetensors.numpy import load_file, save_file

from simgym.conversation import Message
from simgym.errors import ConfigurationError, SimgymError, WeightsError
from simgym.language_models import TransformersLM
from simgym.language_models.adapters import read_adapter
from simgym.testing.tiny_models import save_tiny_adapter

pytestmark = [pytest.mark.slow, pytest.mark.daily]
WEIGHTS = "model.safetensors"


@pytest.fixture
def copied(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.mark.parametrize(
    ("missing", "surplus", "sentence"),
    [
        ("model.layers.0.self_attn.q_proj.weight", None, "lacks 1 of its weights .*q_proj"),
        (None, "model.layers.9.mlp.weight", "hold model.layers.9.mlp.weight, a layer"),
    ],
)
def test_weights_that_lack_a_layer_or_hold_another_are_refused(copied, missing, surplus, sentence):
    TransformersLM(str(copied)).model  # noqa: B018
    tensors = load_file(copied / WEIGHTS)
    if missing is not None:
        del tensors[missing]
    if surplus is not None:
        tensors[surplus] = next(iter(tensors.values()))
    save_file(tensors, copied / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=sentence):
        TransformersLM(str(copied)).model  # noqa: B018


def test_damaged_folders_of_a_model_are_refused_in_a_sentence(copied, tried):
    rng, whole, outcomes = random.Random(3), {}, []
    for name in (WEIGHTS, "config.json", "tokenizer.json"):
        whole[name] = (copied / name).read_bytes()
    for number in range(45):
        name = [*whole][number % 3]
        content = bytearray(whole[name])
        head = min(len(content), 2000)
        for _ in range(3):
            content[rng.randrange(head)] = rng.randrange(256)
        (copied / name).write_bytes(content[: rng.randint(0, len(content))] if number % 2 else content)
        try:
            TransformersLM(str(copied)).model  # noqa: B018
            outcomes.append("loaded")
        except SimgymError:
            outcomes.append("refused")
        (copied / name).write_bytes(whole[name])
    assert outcomes.count("refused") > 20
    tried("damaged folders of a model", len(outcomes), f"{outcomes.count('refused')} refused, the others loaded")


TEMPLATES = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{{ messages }}{% endfor %}{% endfor %}",
    "{{ 'x' * 50000000 }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ ''.__class__.__mro__ }}",
    "{% include '/etc/passwd' %}",
    "{{ messages[7].content }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_hostile_chat_template_ends_in_a_sentence(tiny_model, template, monkeypatch, tried):
    monkeypatch.setattr("simgym.chat_template.LONGEST_RENDERING", 0.5)
    from transformers import AutoTokenizer

    from simgym.chat_template import render

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = template
    started = time.monotonic()
    with pytest.raises(ConfigurationError, match="chat template"):
        render(tokenizer, [Message("user", "hi")], "user")
    assert time.monotonic() - started < 20
    tried(f"chat template {template[:40]}", 1, "refused in a sentence")


PATTERNS = ["(.*)*x", "(a|a)*b", "(\\w+\\s?)*:", "((model.)+.)+y"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_hostile_pattern_of_an_adapter_takes_no_time(tiny_model, tmp_path, pattern, tried):
    folder = save_tiny_adapter(tmp_path / "adapter", tiny_model)
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    whole = read_adapter(str(folder))
    started = time.monotonic()
    layers = {"layers_pattern": [pattern], "layers_to_transform": [0, 1]}
    for changes in ({"target_modules": pattern}, {"exclude_modules": pattern}, layers):
        path.write_text(json.dumps(settings | changes))
        model = TransformersLM(str(tiny_model), adapters={"a": str(folder)})
        model.model  # noqa: B018
        adapter = read_adapter(str(folder))
        assert len(adapter.lora.config.target_modules) == len(adapter.lora.weights) // 2
        assert adapter.lora.weights.keys() == whole.lora.weights.keys()
    for setting in ("rank_pattern", "alpha_pattern"):
        path.write_text(json.dumps(settings | {setting: {pattern: 2}}))
        with pytest.raises(WeightsError, match=re.escape(setting)):
            read_adapter(str(folder))
    assert time.monotonic() - started < 60
    tried(f"adapter's pattern {pattern}", 5, "matched by the weights' names, or refused")
