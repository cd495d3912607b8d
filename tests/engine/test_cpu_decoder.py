"""Passes from packed weights: the tokens are those of transformers' layers, and what they cannot do goes by those."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers
from peft import LoraConfig, inject_adapter_in_model
from small_engines import ARCHITECTURES, plain, random_model, sequences, tokens

from simgym.engine import Engine, EngineConfig, cpu_decoder, openvino_decoder
from simgym.engine.numerics import convert
from simgym.language_models.adapters import read_adapter


@pytest.fixture(autouse=True)
def without_openvino(monkeypatch):
    monkeypatch.setattr(openvino_decoder, "is_installed", lambda: False)


@pytest.mark.parametrize(("name", "settings"), ARCHITECTURES)
def test_tokens_are_those_of_transformers_layers_alone_and_in_a_batch(name, settings):
    model = random_model(name, **settings)
    engine, expected = Engine(model, None), tokens(plain(model), sequences())
    assert tokens(engine, sequences()) == expected
    assert [tokens(engine, [sequence])[0] for sequence in sequences()] == expected
    assert engine.runner.cpu_decoder is not None
    assert plain(model).runner.cpu_decoder is None


@pytest.mark.parametrize("kind", ["int8", "bfloat16-mixed"])
def test_rounded_numbers_stay_what_they_are(kind):
    model = random_model()
    convert(model, kind)
    decoder = Engine(model, None).runner.cpu_decoder
    with torch.inference_mode():
        assert cpu_decoder.difference(model, decoder) < 0.02


def test_weights_that_change_are_packed_again():
    model = random_model()
    engine = Engine(model, None, EngineConfig(max_prefix_bytes=0))
    before = tokens(engine, sequences())
    model.model.layers[0].mlp.up_proj.weight.mul_(-2)
    expected = tokens(plain(model), sequences())
    assert tokens(engine, sequences()) == expected != before
    model.lm_head.weight.data.mul_(-1)  # leaves no trace, hence whoever does that says so
    engine.forget()
    assert tokens(engine, sequences()) == tokens(plain(model), sequences()) != expected


def test_adapters_stand_beside_sequences_without(tiny_model, tiny_adapter):
    engines = []
    for settings in ({}, {"max_packed_bytes": 0}):
        model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model).eval()
        engines.append(Engine(model, None, EngineConfig(max_sequences=4, **settings)))
        tokens(engines[-1], sequences(1))
        engines[-1].runner.lora_bank.add("other", read_adapter(tiny_adapter).lora)
    passes, forward = [], engines[0].runner.forward

    def note(inputs, kv_cache, first, new_N, adapters):
        passes.append({adapter is None for adapter in adapters})
        return forward(inputs, kv_cache, first, new_N, adapters)

    engines[0].runner.forward = note
    asked = [[*sequences(5), *sequences(5, adapter="other")] for _ in engines]
    mixed = [tokens(engine, each) for engine, each in zip(engines, asked, strict=True)]
    assert {frozenset(kinds) for kinds in passes} == {frozenset({True}), frozenset({False})}  # company changes nothing
    assert mixed[0] == mixed[1]
    assert mixed[0][:5] != mixed[0][5:]
    assert engines[0].runner.cpu_decoder is not None


def test_adapters_that_somebody_else_puts_on_the_layers_are_not_passed_over():
    model = random_model()
    engine = Engine(model, None, EngineConfig(max_prefix_bytes=0))
    before = tokens(engine, sequences())
    inject_adapter_in_model(LoraConfig(target_modules=["q_proj"], init_lora_weights=False), model)
    assert tokens(engine, sequences()) == tokens(plain(model), sequences()) != before


def test_a_model_that_computes_something_else_goes_by_its_own_layers(monkeypatch):
    model = random_model()
    monkeypatch.setattr(cpu_decoder, "_normed", lambda norm, states: 2 * norm(states))
    engine = Engine(model, None)
    with pytest.warns(UserWarning, match="logits differ by"):
        assert tokens(engine, sequences()) == tokens(plain(model), sequences())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        tokens(engine, sequences())


def test_other_models_and_too_large_ones_are_left_alone():
    assert Engine(random_model("Gemma", head_dim=16), None).runner.cpu_decoder is None
    assert Engine(random_model("Llama", hidden_act="gelu"), None).runner.cpu_decoder is None
    windowed = random_model("Qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=0)
    assert Engine(windowed, None).runner.cpu_decoder is None
    small = EngineConfig(max_packed_bytes=1000)
    assert Engine(random_model(), None, small).runner.cpu_decoder is None
