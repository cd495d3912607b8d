from __future__ import annotations

import json
import math
import pickle
import shutil
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simgym.conversation import Message
from simgym.errors import ConfigurationError, MissingDependency, WeightsError
from simgym.language_models import Request, SamplingParams, TransformersLM


@pytest.fixture(scope="module")
def lm(tiny_model, tiny_adapter):
    return TransformersLM(tiny_model, adapters={"other": tiny_adapter})


def ask(text, seed=0, adapter=None, next_role="assistant", **sampling):
    return Request(
        (Message("user", text),),
        SamplingParams(**{"max_new_tokens": 16, **sampling}),
        seed=seed,
        adapter=adapter,
        next_role=next_role,
    )


def test_it_agrees_with_transformers_own_greedy_decoding(lm, tiny_model):
    from transformers import AutoModelForCausalLM

    prompt = "Hello, who is there?"
    ours = lm.generate([ask(prompt, temperature=0.0, max_new_tokens=12), ask("x", temperature=0.0)])[0]
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    ids = lm.tokenizer(ours.prompt, add_special_tokens=False, return_tensors="pt")
    theirs = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert list(ours.token_ids) == theirs.tolist()


def test_a_sampled_distribution_matches_the_model(lm):
    """Chi-square of 2,000 first tokens, temperature 1, against the exact probabilities."""
    import numpy as np
    from scipy.stats import chisquare

    drawn = [g.token_ids[0] for g in lm.generate([ask("Hi", seed, max_new_tokens=1) for seed in range(2000)])]
    logprobs = {
        g.token_ids[0]: g.logprobs[0] for g in lm.generate([ask("Hi", s, max_new_tokens=1) for s in range(2000)])
    }
    common = [token for token, logprob in logprobs.items() if math.exp(logprob) * 2000 >= 5]
    observed = np.array([drawn.count(token) for token in common] + [0.0])
    expected = np.array([math.exp(logprobs[token]) * 2000 for token in common] + [0.0])
    observed[-1], expected[-1] = 2000 - observed.sum(), 2000 - expected.sum()
    assert chisquare(observed, expected).pvalue > 1e-4


def test_a_prompt_that_does_not_fit_is_a_fault_of_its_request_alone(tiny_model):
    small = TransformersLM(tiny_model, context_length=60)
    fits, overflows = small.generate([ask("ok"), ask("x" * 200)])
    assert fits.fault is None
    assert overflows.fault.startswith("context_overflow: ")
    assert overflows.text == ""


def test_options_of_from_pretrained_reach_the_model(lm, tiny_model):
    options = {"attn_implementation": "eager", "device_map": {"": "cpu"}}
    other = TransformersLM(tiny_model, model_options=options)
    assert other.model.config._attn_implementation == "eager"
    assert other.generate([ask("Hi", 4)])[0].token_ids == lm.generate([ask("Hi", 4)])[0].token_ids
    assert other.fingerprint()["model_options"] == options
    assert "model_options" not in lm.fingerprint()
    with pytest.raises(ConfigurationError, match="'dtype', which is an argument of its own"):
        TransformersLM(tiny_model, model_options={"dtype": "float16"})


def test_the_laptops_numbers_run_on_other_devices_too(tiny_model):
    assert TransformersLM(tiny_model, device="meta", dtype="bfloat16-mixed").model.device.type == "meta"
    with pytest.raises(ConfigurationError, match="int8 is for CPUs"):
        TransformersLM(tiny_model, device="meta", dtype="int8").check()


def test_it_can_be_pickled_before_and_after_loading(lm):
    again = pickle.loads(pickle.dumps(lm))
    assert again.generate([ask("Hello", 2)])[0].token_ids == lm.generate([ask("Hello", 2)])[0].token_ids


def test_wrong_settings_are_refused_in_a_sentence(tiny_model, tmp_path):
    with pytest.raises(ConfigurationError, match="temperature is -1"):
        SamplingParams(temperature=-1)
    with pytest.raises(ConfigurationError, match="top_p is 0"):
        SamplingParams(top_p=0)
    with pytest.raises(ConfigurationError, match="dtype is 'float8'"):
        TransformersLM(tiny_model, dtype="float8").generate([ask("x")])
    with pytest.raises(ConfigurationError, match=r"holds no config\.json"):
        TransformersLM(str(tmp_path)).generate([ask("x")])
    with pytest.raises(WeightsError, match="adapter"):
        TransformersLM(tiny_model, adapters={"a": str(tmp_path)}).generate([ask("x")])


@pytest.mark.slow
def test_the_real_model_answers_and_a_batch_changes_nothing(smollm):
    lm = TransformersLM(smollm)
    batch = [
        ask(text, seed, max_new_tokens=24, temperature=0.7)
        for seed, text in enumerate(["What is a cat?", "Hi", "Why?"])
    ]
    together, alone = lm.generate(batch), [lm.generate([request])[0] for request in batch]
    assert [g.text for g in together] == [g.text for g in alone]
    assert "cat" in together[0].text.lower()
    assert lm.fingerprint()["model"] == smollm


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(codec="ascii"), min_size=1, max_size=40), min_size=1, max_size=5))
def test_hidden_states_are_those_of_transformers_whatever_else_is_in_the_batch(lm, texts):
    import torch

    states_N = lm.hidden_states(texts, layers=[1, 2])
    for text, read in zip(texts, states_N, strict=True):
        ids = lm.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            # the last of `hidden_states` is normalized by transformers, so only the first layer is compared
            expected = lm.model(ids, output_hidden_states=True, adapter_names=["__base__"]).hidden_states[1][0]
        assert read.states.shape == (2, ids.shape[1], 32)
        assert read.states[0] == pytest.approx(expected.numpy(), abs=1e-4)
        assert [text[begin:end] for begin, end in read.offsets] == list(text)  # a byte-level tokenizer


def test_texts_of_different_length_are_not_read_as_padding(tiny_model, monkeypatch):
    lm = TransformersLM(tiny_model)
    runner, shapes = lm._ready().engine.runner, []
    padded = type(runner)._padded_behind

    def spy(self, sequences):
        shapes.append((len(sequences), [len(ids) for ids in sequences]))
        return padded(self, sequences)

    monkeypatch.setattr(type(runner), "_padded_behind", spy)
    lm.hidden_states(["x" * length for length in (400, 8, 9, 300, 10, 150, 410)], layers=[1])
    assert sum(count * max(lengths) for count, lengths in shapes) <= 1.25 * sum(sum(lengths) for _, lengths in shapes)
    assert len(shapes) < 6


def test_reading_a_middle_layer_leaves_the_model_as_it_was(lm):
    before = lm.generate([ask("hello", temperature=0)])
    assert lm.hidden_states(["hello"], layers=[1])[0].states.shape == (1, 5, 32)
    hooks = sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in lm.model.modules())
    lm.hidden_states(["hello", "you"], layers=[1])
    assert lm.generate([ask("hello", temperature=0)])[0].token_ids == before[0].token_ids
    after = sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in lm.model.modules())
    assert after == hooks  # PEFT's would stay behind a pass that is broken off
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())
    other = ask("hello", adapter="other", temperature=0)
    fresh = TransformersLM(lm.name, adapters=lm.adapters).generate([other])[0]
    assert lm.generate([other])[0].token_ids == fresh.token_ids


def test_hidden_states_of_nothing_or_of_no_layer_are_refused(lm):
    assert lm.hidden_states([], layers=[1]) == []
    with pytest.raises(ConfigurationError, match="Text 1 is empty"):
        lm.hidden_states(["a", ""], layers=[1])
    for layers in ([], [0], [3]):
        with pytest.raises(ConfigurationError, match="from 1 to 2"):
            lm.hidden_states(["a"], layers=layers)


def test_what_ends_a_users_turn_does_not_end_an_assistants(tmp_path, tiny_model):
    """As in gpt-oss: its template ends turns with a token that only separates parts of an assistant's message."""
    import shutil

    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "separator"
    shutil.copytree(tiny_model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "<|system|>"
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    lm = TransformersLM(str(folder))
    separator = lm.tokenizer.convert_tokens_to_ids("<|end|>")
    asked = [ask("Hi", seed, temperature=3.0, max_new_tokens=60) for seed in range(30)]
    generations = lm.generate(asked)
    assert any(separator in generation.token_ids[:-1] for generation in generations)
    for generation in lm.generate([replace(request, next_role="user") for request in asked]):
        assert separator not in generation.token_ids[:-1]


def test_a_model_that_cannot_run_here_is_refused_before_its_weights_are_read(tmp_path):
    import transformers

    refused = {
        "bloom": (transformers.BloomConfig(), "does not take position_ids"),
        "hybrid": (transformers.Qwen3NextConfig(), "linear_attention"),
        "vision": (transformers.Qwen2_5_VLConfig(), "does not load as a causal language model"),
    }
    for name, (config, reason) in refused.items():
        config.save_pretrained(tmp_path / name)  # no weights and no tokenizer beside it
        with pytest.raises(ConfigurationError, match=f"{reason}.*openai:NAME"):
            TransformersLM(str(tmp_path / name)).generate([ask("x")])


def test_a_model_that_sees_has_the_layers_of_its_language_not_of_its_eyes(tiny_model, tmp_path):
    """Gemma 3, whose vision tower has more layers than its decoder."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    config = transformers.Gemma3Config(
        text_config={
            **small, "vocab_size": len(tokenizer), "num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 8,
            "max_position_embeddings": 256, "eos_token_id": tokenizer.eos_token_id, "sliding_window": 16,
        },
        vision_config={**small, "num_hidden_layers": 5, "image_size": 28, "patch_size": 14},
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "seeing")
    tokenizer.save_pretrained(tmp_path / "seeing")
    lm = TransformersLM(str(tmp_path / "seeing"))
    long, short = lm.generate([ask("a text beyond the window", temperature=0, max_new_tokens=8), ask("hi")])
    assert short.fault is None
    ids = torch.tensor([long.prompt_token_ids])
    expected = lm.model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :].tolist()
    assert list(long.token_ids) == expected
    assert lm.hidden_states(["hello"], layers=[1, 2])[0].states.shape == (2, 5, 32)
    with pytest.raises(ConfigurationError, match="layer"):
        lm.hidden_states(["hello"], layers=[3])


def test_a_request_that_no_memory_holds_is_a_fault_of_its_own(tiny_model):
    lm = TransformersLM(tiny_model, max_kv_gib=2e-4)
    fits, large = lm.generate([ask("ok"), ask("x" * 1200)])
    assert fits.fault is None
    assert large.fault.startswith("context_overflow: ")
    assert "GiB of keys and values" in large.fault
    with pytest.raises(ConfigurationError, match="max_kv_gib is 0"):
        TransformersLM(tiny_model, max_kv_gib=0)


def spoil(folder, name):
    """Damage a model's folder in a way that is met in the field."""
    config = json.loads((folder / "config.json").read_text())
    if name == "weights missing":
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        del tensors["model.norm.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    elif name == "download broken off":
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    elif name == "other sizes":
        (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    elif name == "quantised":
        quantisation = {"quant_method": "bitsandbytes", "load_in_4bit": True}
        (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantisation}))
    elif name == "unknown architecture":
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "from_the_future"}))
    elif name == "no tokenizer":
        for file in folder.glob("tokenizer*"):
            file.unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("weights missing", r"lacks 1 of its weights \(model\.norm\.weight\), which would be random"),
        ("download broken off", r"Cannot load the model .* Expected a folder that save_pretrained wrote"),
        ("other sizes", r"Cannot load the model .* Expected a folder that save_pretrained wrote"),
        ("quantised", "needs a package that is missing: .*bitsandbytes"),
        ("unknown architecture", "from_the_future"),
        ("no tokenizer", "Cannot load the model .*tokenizer"),
    ],
)
def test_a_damaged_model_is_refused_in_a_sentence_and_never_partly_random(tiny_model, tmp_path, damage, reason):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    spoil(folder, damage)
    with pytest.raises((WeightsError, MissingDependency), match=reason) as refusal:
        TransformersLM(str(folder)).generate([ask("x")])
    assert "network" not in str(refusal.value)  # it is on this disk


def test_an_option_that_a_model_does_not_take_is_refused_in_a_sentence(tiny_model):
    with pytest.raises(WeightsError, match=r"'nonsense'.*Check model_options"):
        TransformersLM(tiny_model, model_options={"nonsense": 1}).generate([ask("x")])


def test_the_layers_of_a_model_that_sees_images_are_those_of_its_decoder(tiny_model, tmp_path):
    """A vision tower may have more layers than the decoder beside it (Gemma 3)."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config={
            **sizes, "vocab_size": len(tokenizer), "num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 16,
            "max_position_embeddings": 256,
        },
        vision_config={**sizes, "num_hidden_layers": 5, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )  # fmt: skip
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    lm = TransformersLM(str(tmp_path))
    assert lm.generate([ask("x", max_new_tokens=2)])[0].completion_tokens == 2
    assert lm.hidden_states(["hello"], layers=[1, 2])[0].states.shape == (2, 5, 32)
    with pytest.raises(ConfigurationError, match="from 1 to 2"):
        lm.hidden_states(["hello"], layers=[5])
