"""Passes by OpenVINO: the tokens are those of transformers' layers, and it steps aside where it cannot do them.

Run where OpenVINO is installed; `make openvino` makes an environment with it.
"""

from __future__ import annotations

import copy
import os
import tomllib
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from small_engines import ARCHITECTURES, plain, random_model, sequences, tokens

from simgym.engine import Engine, EngineConfig, Sequence, openvino_decoder
from simgym.engine.cpu_decoder import CpuDecoder, difference
from simgym.engine.numerics import convert
from simgym.engine.openvino_decoder import OpenvinoDecoder
from simgym.engine.paged_kv_cache import PagedKVCache
from simgym.language_models.adapters import read_adapter

pytestmark = pytest.mark.filterwarnings("error::UserWarning")
needs_openvino = pytest.mark.skipif(
    not openvino_decoder.is_installed(), reason="OpenVINO is not installed: pip install 'simgym[openvino]'"
)


@needs_openvino
@pytest.mark.parametrize(("name", "options"), ARCHITECTURES)
def test_tokens_are_those_of_transformers_layers_alone_and_in_a_batch(name, options):
    model = random_model(name, **options)
    engine, expected = Engine(model, None), tokens(plain(model), sequences())
    assert tokens(engine, sequences()) == expected
    assert tokens(engine, sequences()) == expected  # with what the prefix cache knows
    assert [tokens(engine, [sequence])[0] for sequence in sequences()] == expected
    assert engine.runner.openvino is not None
    assert isinstance(engine.kv_cache, PagedKVCache)


@needs_openvino
@pytest.mark.parametrize("width", [64, 96, 40])  # 40 has no group that OpenVINO rounds by
def test_weights_in_8_bits_say_what_torch_says_up_to_rounding(width):
    exact = random_model(hidden_size=width, intermediate_size=2 * width)
    model = copy.deepcopy(exact)
    convert(model, "int8")
    decoder = OpenvinoDecoder(model, CpuDecoder(model))
    assert OpenvinoDecoder.supports(model)
    assert difference(model, decoder) < 0.1
    assert difference(exact, decoder) <= 1.5 * difference(exact, CpuDecoder(model))
    engine = Engine(model, None)
    assert [len(said) for said in tokens(engine, sequences())] == [
        len(said) for said in tokens(plain(exact), sequences())
    ]
    assert engine.runner.openvino is not None


@needs_openvino
def test_sequences_longer_than_a_block_go_on_where_the_prefix_cache_ends():
    model = random_model()
    engine = Engine(model, None, EngineConfig(max_sequences=3))
    asked = [
        Sequence(prompt=[(7 * number + place) % 250 + 1 for place in range(length)], temperature=0.0, max_new_tokens=40)
        for number, length in enumerate((1, 31, 32, 33, 64, 100))
    ]
    first = tokens(engine, asked)
    assert first == tokens(plain(model), [again(sequence) for sequence in asked])
    longer = [again(sequence, [*sequence.prompt, *said, 9, 8]) for sequence, said in zip(asked, first, strict=True)]
    assert tokens(engine, longer) == tokens(plain(model), [again(sequence) for sequence in longer])


def test_the_extra_brings_the_versions_that_are_used():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = map(Requirement, project["optional-dependencies"]["openvino"])
    assert [line.specifier for line in required if line.name == "openvino"] == [openvino_decoder.VERSIONS]


@needs_openvino
def test_weights_that_change_are_not_openvinos_any_more():
    model = random_model()
    engine = Engine(model, None, EngineConfig(max_prefix_bytes=0))
    before = tokens(engine, sequences())
    model.model.layers[0].mlp.up_proj.weight.mul_(-2)
    assert tokens(engine, sequences()) == tokens(plain(model), sequences()) != before
    assert engine.runner.openvino is None


@needs_openvino
def test_what_was_said_of_weights_is_heard():
    model = random_model()
    engine = Engine(model, None)
    before = tokens(engine, sequences())
    model.lm_head.weight.data.mul_(-1)  # leaves no trace, hence whoever does that says so
    engine.clear()
    assert tokens(engine, sequences()) == tokens(plain(model), sequences()) != before


@needs_openvino
def test_adapters_and_no_adapters_in_turn(tiny_model, tiny_adapter):
    engines = []
    for options in ({}, {"max_packed_bytes": 0}):
        model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model).eval()
        engines.append(Engine(model, None, EngineConfig(max_sequences=4, **options)))
        tokens(engines[-1], sequences(1))
        engines[-1].runner.lora_bank.add("other", read_adapter(tiny_adapter).lora)
    for _ in range(2):
        asked = [[*sequences(5), *sequences(5, adapter="other")] for _ in engines]
        mixed = [tokens(engine, each) for engine, each in zip(engines, asked, strict=True)]
        assert mixed[0] == mixed[1]
    assert engines[0].runner.openvino is not None


@needs_openvino
@pytest.mark.filterwarnings("default::UserWarning")
def test_another_openvino_than_this_was_made_for_is_left_alone(monkeypatch):
    monkeypatch.setattr(openvino_decoder, "_nothing_more", list)
    model = random_model()
    engine = Engine(model, None)
    with pytest.warns(UserWarning, match="OpenvinoDecoder is not used"):
        assert tokens(engine, sequences()) == tokens(plain(model), sequences())
    assert engine.runner.openvino is None


@needs_openvino
def test_a_fork_does_not_wait_for_threads_that_it_does_not_have(monkeypatch):
    model = random_model()
    engine = Engine(model, None)
    expected = tokens(engine, sequences())
    own = os.getpid()
    monkeypatch.setattr(openvino_decoder.os, "getpid", lambda: own + 1)
    assert tokens(engine, sequences()) == expected
    assert engine.runner.openvino is None


def again(sequence, prompt=None):
    """The same request anew."""
    return Sequence(
        prompt=prompt or sequence.prompt, temperature=sequence.temperature, max_new_tokens=sequence.max_new_tokens
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=4), st.data())
def test_blocks_give_back_what_was_written(lengths, data):
    paged = PagedKVCache(torch.device("cpu"), max_bytes=2**30, layers=2, heads=3, size=4)
    kept = []
    for slot, length in enumerate(lengths):
        paged.reserve(slot + 1, max(lengths[: slot + 1]))
        known = torch.rand(2, 2, 3, length, 4)
        middle = data.draw(st.integers(0, length))
        paged.write(slot, 0, [known[..., :middle, :]])
        paged.write(slot, middle, [known[..., middle:, :]])
        paged.lengths.append(length)
        kept.append(known)
    gone = data.draw(st.integers(0, len(lengths) - 1))
    paged.remove(gone)
    kept[gone] = kept[-1]
    for slot, length in enumerate(paged.lengths):
        start = data.draw(st.integers(0, length - 1))
        assert torch.equal(paged.read(slot, start, length)[0], kept[slot][..., start:, :])
