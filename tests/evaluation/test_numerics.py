from __future__ import annotations

import pytest

from simgym.conversation import Message
from simgym.errors import ConfigurationError
from simgym.evaluation.numerics import compare_numerics
from simgym.language_models.base import Request, Sampling
from simgym.language_models.numerics import MIXED
from simgym.language_models.transformers_lm import TransformersLM


def ask(text, seed=0, adapter=None):
    return Request((Message("user", text),), Sampling(max_new_tokens=12), seed=seed, adapter=adapter)


def test_every_kind_is_measured_against_float32(tiny_model):
    found = {one.dtype: one for one in compare_numerics(tiny_model, repeats=1)}
    assert list(found) == ["float32", "bfloat16", *MIXED]
    assert found["float32"].speed == 1
    assert found["float32"].kl == pytest.approx(0, abs=1e-6)
    assert 0 < found["bfloat16-mixed"].kl < 1e-3
    assert 0 < found["int8"].kl < 1e-2
    with pytest.raises(ConfigurationError, match="in process alone"):
        compare_numerics({"kind": "openai", "model": "x"})


@pytest.mark.parametrize("dtype", MIXED)
def test_a_reply_does_not_depend_on_the_batch_and_adapters_still_work(dtype, tiny_model, tiny_adapter):
    lm = TransformersLM(tiny_model, adapters={"other": tiny_adapter}, dtype=dtype)
    batch = [ask(f"hello {number}", number, [None, "other"][number % 2]) for number in range(6)]
    together, alone = lm.generate(batch), [lm.generate([one])[0] for one in batch]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    plain = TransformersLM(tiny_model, dtype=dtype).generate([ask("hello 1", 1)])[0]
    assert plain.token_ids != together[1].token_ids
    assert lm.fingerprint()["dtype"] == dtype


def test_adapters_can_be_trained_on_rounded_layers(tiny_model):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from simgym.language_models.numerics import convert

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32")
    convert(model, "bfloat16-mixed")
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    ids = torch.arange(1, 40)[None]
    optimizer = torch.optim.Adam((one for one in model.parameters() if one.requires_grad), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert {one.dtype for one in model.parameters() if one.requires_grad} == {torch.float32}
    assert losses[-1] < losses[0] - 0.5
