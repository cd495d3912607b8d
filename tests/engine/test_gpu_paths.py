"""What is made for GPUs gives the same tokens: drawing all at once, recorded passes, heads that share keys."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer

from simgym.engine import Engine, EngineConfig, KVCache, Sequence
from simgym.engine.fused_decoding import FusedDecoding, _here
from simgym.engine.kv_cache import rounded_up
from simgym.engine.recorded_decoding import RecordedDecoding, Size
from simgym.language_models.adapters import read_adapter


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def make_engine(folder, tokenizer, adapter=None, **settings):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    engine = Engine(model, tokenizer, EngineConfig(**settings))
    if adapter is not None:
        engine.runner.lora_bank.add("other", read_adapter(adapter).lora)
    return engine


def sequences(count, **settings):
    return [
        Sequence(
            prompt=[(7 * number + position) % 250 + 1 for position in range(5 + 9 * number)],
            seed=number,
            temperature=[0.0, 1.0][number % 2],
            top_p=[1.0, 0.8, 0.3][number % 3],
            **{"max_new_tokens": 20 + 7 * (number % 4), **settings},
        )
        for number in range(count)
    ]


def tokens(engine, asked):
    completions = engine.generate(asked)
    assert not any(completion.error for completion in completions)
    return [completion.token_ids for completion in completions]


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_tokens_are_the_same_with_and_without(tiny_model, tiny_adapter, tokenizer, cuda_graphs):
    plain = make_engine(tiny_model, tokenizer, tiny_adapter)
    gpu = make_engine(tiny_model, tokenizer, tiny_adapter, gpu_paths=True, cuda_graphs=cuda_graphs)
    for asked in ({}, {"adapter": "other"}, {"choices": (3, 4)}):
        assert tokens(gpu, sequences(9, **asked)) == tokens(plain, sequences(9, **asked))
    if cuda_graphs:
        sizes = list(gpu.runner.recorded.recordings)
        assert {size.adapter for size in sizes} == {None, "other"}
        assert any(size.slots >= 8 for size in sizes)
    else:
        assert gpu.runner.recorded is None
    mixed = [[*sequences(3), *sequences(4, adapter="other")] for _ in range(2)]
    assert tokens(gpu, mixed[0]) == tokens(plain, mixed[1])


def test_recordings_do_not_survive_what_they_were_made_for(tiny_model, tiny_adapter, tokenizer):
    engine = make_engine(tiny_model, tokenizer, gpu_paths=True)
    recorded = engine.runner.recorded
    before = tokens(engine, sequences(2))
    assert recorded.recordings
    first = dict(recorded.recordings)
    engine.runner.lora_bank.add("other", read_adapter(tiny_adapter).lora)
    assert tokens(engine, sequences(2)) == before
    assert not set(map(id, first.values())) & set(map(id, recorded.recordings.values()))
    engine.clear()
    assert not recorded.recordings
    tokens(engine, sequences(2))
    allocation = engine.kv_cache.allocation
    assert tokens(engine, sequences(12)) == tokens(make_engine(tiny_model, tokenizer), sequences(12))
    assert engine.kv_cache.allocation > allocation


def test_a_model_that_cannot_be_recorded_decodes_without(tiny_model, tokenizer, monkeypatch):
    engine = make_engine(tiny_model, tokenizer, gpu_paths=True)

    class Refused:
        def __init__(self, *arguments):
            raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr("simgym.engine.recorded_decoding.RepeatedPass", Refused)
    with pytest.warns(UserWarning, match="not recorded: operation not permitted"):
        actual = tokens(engine, sequences(3))
    assert actual == tokens(make_engine(tiny_model, tokenizer), sequences(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens(engine, sequences(3))  # it is said once


def test_a_small_batch_uses_a_larger_recording_until_its_own_is_worth_it():
    class Model:
        device = torch.device("cpu")

        def decode_pass(self, inputs, kv_cache, size):
            return torch.zeros(size.slots, 5)

    cache = KVCache(torch.device("cpu"), max_bytes=10**9, token_bytes=8)
    cache.reserve(16, 400)
    recorded = RecordedDecoding(Model())

    def decode(count):
        cache.lengths = [100] * count
        logits = recorded.decode([1] * count, cache, None, 0)
        assert cache.lengths == ([100] if logits is None else [101]) * count
        return logits

    assert [decode(11) is None for _ in range(5)] == [True, True, True, False, False]
    assert list(recorded.recordings) == [Size(12, 128, None)]
    assert decode(5).shape == (5, 5)
    assert len(recorded.recordings) == 1
    assert decode(1).shape == (1, 5)
    for _ in range(30):
        decode(1)
    assert list(recorded.recordings) == [Size(12, 128, None), Size(1, 128, None)]


def test_sizes_grow_by_a_half_or_a_third():
    sizes = sorted({rounded_up(number, 1) for number in range(1, 200)})
    assert sizes == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    assert all(rounded_up(number, 128) >= number for number in range(1, 5000, 7))


def test_heads_that_share_keys_see_what_they_see_when_keys_are_repeated(tiny_model):
    from simgym.engine.grouped_attention import grouped_attention

    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    assert model.config.num_attention_heads > model.config.num_key_value_heads
    inputs = {"input_ids": torch.tensor([[5], [9]]), "position_ids": torch.tensor([[3], [3]])}
    mask = torch.tensor([[True], [True]])[:, None, None]
    with torch.inference_mode():
        expected = model(**inputs, attention_mask=mask, use_cache=False).logits
        with grouped_attention(model.config):
            assert model.config._attn_implementation != "sdpa"
            actual = model(**inputs, attention_mask=mask, use_cache=False).logits
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


class FlashAttention:
    """What torch's operator of this name does on a GPU; a CPU has none."""

    def __init__(self):
        self.calls = 0

    def __call__(self, query, key, value, first_queries, first_keys, most_queries, most_keys, *flags, scale, seqused_k):
        self.calls += 1
        assert most_queries == 1
        assert flags == (0.0, False, False)  # no dropout, no causal mask, no debugging
        assert first_queries.tolist() == list(range(len(query) + 1))
        rows = []
        for number, (first, length) in enumerate(zip(first_keys.tolist(), seqused_k.tolist(), strict=False)):
            assert length <= most_keys
            seen = [memory[first : first + length].transpose(0, 1)[None] for memory in (key, value)]
            new = query[number][None, :, None]
            attended = torch.nn.functional.scaled_dot_product_attention(new, *seen, scale=scale, enable_gqa=True)
            rows.append(attended[0, :, 0])
        return torch.stack(rows), None, None, None, None


@pytest.mark.parametrize("adapter", [None, "other"])
def test_fused_passes_give_the_same_tokens(tiny_model, tiny_adapter, tokenizer, adapter):
    engine = make_engine(tiny_model, tokenizer, tiny_adapter, gpu_paths=True)
    model = engine.runner.lora_bank.base
    fused = FusedDecoding(model, backend="eager")
    assert len(fused._norms) > model.config.num_hidden_layers
    assert fused._rotary
    fused._flash = attention = FlashAttention()
    engine.runner.fused = fused
    expected = tokens(make_engine(tiny_model, tokenizer, tiny_adapter), sequences(9, adapter=adapter))
    assert tokens(engine, sequences(9, adapter=adapter)) == expected
    assert attention.calls > 20
    assert not any("forward" in norm.__dict__ for norm in fused._norms)  # only recorded passes are changed


def test_models_that_decode_at_once_attend_by_their_own_lengths(tiny_model):
    """Functions of attention are registered for the whole process."""
    models = [AutoModelForCausalLM.from_pretrained(tiny_model).eval() for _ in range(2)]
    fused = [FusedDecoding(model, backend="eager") for model in models]
    for pieces in fused:
        pieces._flash = FlashAttention()
    with fused[0](torch.tensor([1])), fused[1](torch.tensor([1, 1])):
        functions = [AttentionInterface()[model.config._attn_implementation] for model in models]
    assert [len(function._lengths) for function in functions] == [1, 2]


def test_a_function_is_another_in_the_thread_that_records_alone():
    chosen = _here(lambda: "recorded", lambda: "plain")
    elsewhere = []
    thread = threading.Thread(target=lambda: elsewhere.append(chosen()))
    thread.start()
    thread.join()
    assert (chosen(), elsewhere) == ("recorded", ["plain"])


def test_without_a_compiler_decoding_goes_on_and_says_so_once(tiny_model, tokenizer):
    engine = make_engine(tiny_model, tokenizer, gpu_paths=True)

    def no_compiler(graph, inputs):
        raise RuntimeError("Failed to find a C compiler")

    engine.runner.fused = FusedDecoding(engine.runner.lora_bank.base, backend=no_compiler)
    with pytest.warns(UserWarning, match="without fused pieces: .*C compiler"):
        actual = tokens(engine, sequences(3))
    assert actual == tokens(make_engine(tiny_model, tokenizer), sequences(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens(engine, sequences(3))
