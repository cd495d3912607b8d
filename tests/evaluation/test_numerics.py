from __future__ import annotations

import pytest

from simgym.conversation import Message
from simgym.engine.numerics import MIXED
from simgym.errors import ConfigurationError
from simgym.evaluation.numerics import compare_numerics
from simgym.language_models import Request, SamplingParams, TransformersLM


def ask(text, seed=0, adapter=None):
    return Request((Message("user", text),), SamplingParams(max_new_tokens=12), seed=seed, adapter=adapter)


def test_every_kind_is_measured_against_float32(tiny_model):
    measured = {kind.dtype: kind for kind in compare_numerics(tiny_model, repeats=1)}
    assert list(measured) == ["float32", "bfloat16", *MIXED]
    assert measured["float32"].speed == 1
    assert measured["float32"].kl == pytest.approx(0, abs=1e-6)
    assert 0 < measured["bfloat16-mixed"].kl < 1e-3
    assert 0 < measured["int8"].kl < 1e-2
    with pytest.raises(ConfigurationError, match="in process alone"):
        compare_numerics({"kind": "openai", "model": "x"})


@pytest.mark.parametrize("dtype", MIXED)
def test_a_reply_does_not_depend_on_the_batch_and_adapters_still_work(dtype, tiny_model, tiny_adapter):
    lm = TransformersLM(tiny_model, adapters={"other": tiny_adapter}, dtype=dtype)
    batch = [ask(f"hello {number}", number, [None, "other"][number % 2]) for number in range(6)]
    together, alone = lm.generate(batch), [lm.generate([item])[0] for item in batch]
    assert [item.token_ids for item in together] == [item.token_ids for item in alone]
    plain = TransformersLM(tiny_model, dtype=dtype).generate([ask("hello 1", 1)])[0]
    assert plain.token_ids != together[1].token_ids
    assert lm.fingerprint()["dtype"] == dtype


def test_adapters_can_be_trained_on_rounded_layers(tiny_model):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from simgym.engine.numerics import convert

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32")
    convert(model, "bfloat16-mixed")
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    ids = torch.arange(1, 40)[None]
    optimizer = torch.optim.Adam((parameter for parameter in model.parameters() if parameter.requires_grad), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("dtype", MIXED)
def test_an_adapter_with_a_token_of_its_own_changes_nothing_for_the_others(dtype, tiny_model, tiny_adapter, tmp_path):
    from simgym.testing import save_tiny_adapter

    with_token = str(save_tiny_adapter(tmp_path / "adapter", tiny_model, end_token=True))
    lm = TransformersLM(tiny_model, adapters={"other": tiny_adapter}, dtype=dtype)
    requests = [ask("hello", 1), ask("hello", 1, "other")]
    before = lm.generate(requests)
    lm.load_adapter("ending", with_token)
    lm.clear_cache()
    assert [generation.token_ids for generation in lm.generate(requests)] == [
        generation.token_ids for generation in before
    ]
    assert lm.generate([ask("hello", 1, "ending")])[0].fault is None
    adapters = [
        module for name, module in lm.model.named_modules() if name.endswith(("lora_A.adapter0", "lora_B.adapter0"))
    ]
    assert {type(adapter).__name__ for adapter in adapters} == {"Linear"}  # not rounded, so they can be trained on


def test_a_model_without_linear_layers_to_round_is_refused(tmp_path):
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from simgym.testing import save_tiny_model

    folder = save_tiny_model(tmp_path / "model")
    size = len(AutoTokenizer.from_pretrained(folder))
    GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2)).save_pretrained(folder)
    with pytest.raises(ConfigurationError, match="too few linear layers for dtype int8"):
        TransformersLM(str(folder), dtype="int8").generate([ask("x")])
