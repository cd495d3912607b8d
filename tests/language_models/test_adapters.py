from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from simgym.chat_template import add_end_token, render
from simgym.conversation import END_OF_CONVERSATION, Message
from simgym.engine.lora_bank import own_logits
from simgym.errors import WeightsError
from simgym.language_models import Request, SamplingParams, TransformersLM, adapter_fingerprint
from simgym.simulators.fine_tuned import SHIPPED_ADAPTER as SHIPPED
from simgym.testing import save_tiny_adapter
from simgym.transcripts import text_hash

TALK = (Message("system", "ask about eggs"), Message("user", "hi"), Message("assistant", "hello"))


@pytest.fixture(scope="module")
def ending(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("v1.0 adapters")
    return [str(save_tiny_adapter(folder / f"a{seed}", tiny_model, seed=seed, end_token=True)) for seed in (1, 2)]


def ask(adapter, seed=0, role="user", text="hi"):
    sampling = SamplingParams(temperature=3.0, max_new_tokens=12)
    return Request((TALK[0], Message("user", text)), sampling, seed, role, adapter, kept_tokens=(END_OF_CONVERSATION,))


def test_an_adapter_with_a_token_of_its_own_predicts_what_peft_predicts(tiny_model, ending):
    ours = TransformersLM(tiny_model, adapters={"a": ending[0], "b": ending[1]})
    for name, folder in zip("ab", ending, strict=True):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        base = AutoModelForCausalLM.from_pretrained(tiny_model)
        token = add_end_token(tokenizer, base)
        theirs = PeftModel.from_pretrained(base, folder).eval()
        prompt = render(tokenizer, TALK, "user")
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            expected = float(theirs(ids).logits[0, -1].log_softmax(-1)[token])
        (likelihood,) = ours.loglikelihood([prompt], [END_OF_CONVERSATION], adapter=name)
        assert likelihood.token_count == 1
        assert likelihood.logprob == pytest.approx(expected, abs=1e-4)


def test_loading_an_adapter_changes_nothing_for_the_base_model_and_other_adapters(tiny_model, tiny_adapter, ending):
    plain = TransformersLM(tiny_model, adapters={"other": tiny_adapter})
    requests = [ask(None, 1, "assistant", END_OF_CONVERSATION), ask("other", 2), ask(None, 3)]
    before, fingerprint = plain.generate(requests), plain.fingerprint()
    plain.load_adapter("a", ending[0])
    after = plain.generate([*requests, *(ask("a", seed) for seed in range(40))])
    assert [(g.prompt, g.token_ids) for g in after[:3]] == [(g.prompt, g.token_ids) for g in before]
    assert plain.fingerprint() == fingerprint
    ended = [g for g in after[3:] if g.text.endswith(END_OF_CONVERSATION)]
    assert ended, "the adapter never ends the conversation"
    assert all(g.finish_reason == "stop" for g in ended)


def test_a_sequence_sees_the_rows_of_its_own_adapter_only():
    logits = torch.arange(2 * 1 * 6, dtype=torch.float).reshape(2, 1, 6)
    own = own_logits(logits, 4, [{}, {4: 5}])
    assert own.shape == (2, 1, 5)
    assert own[0, 0].tolist() == [0, 1, 2, 3, float("-inf")]
    assert own[1, 0].tolist() == [6, 7, 8, 9, 11]
    assert own_logits(logits, 4, [{}, {}]).tolist() == logits[..., :4].tolist()


def test_an_adapter_that_cannot_be_used_is_refused_with_the_reason(tiny_model, ending, tmp_path):
    def refused(folder, pattern):
        with pytest.raises(WeightsError, match=pattern):
            TransformersLM(tiny_model, adapters={"a": str(folder)}).generate([ask("a")])

    broken = save_tiny_adapter(tmp_path / "nameless", tiny_model, end_token=True)
    (broken / "tokenizer.json").unlink()
    refused(broken, "does not say which token")
    (broken / "added_tokens.json").write_text(json.dumps({"<|other|>": 1, END_OF_CONVERSATION: 2}))
    refused(broken, "does not say which token")
    (broken / "adapter_model.safetensors").rename(broken / "adapter_model.bin")
    refused(broken, "safetensors")
    config = json.loads((broken / "adapter_config.json").read_text())
    whole = save_tiny_adapter(tmp_path / "whole", tiny_model)
    (whole / "adapter_config.json").write_text(json.dumps({**config, "modules_to_save": ["lm_head"]}))
    refused(whole, "replaces whole modules")


def test_an_adapter_is_identified_by_its_content(ending, tmp_path):
    first, other = (adapter_fingerprint(folder) for folder in ending)
    assert first != other
    assert str(tmp_path) not in first
    assert adapter_fingerprint("somebody/adapter") == "somebody/adapter"


@pytest.mark.parametrize(
    "change",
    [{"lora_alpha": 64}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 2}}, {"trainable_token_indices": [3]}],
)
def test_settings_that_decide_what_the_weights_do_identify_an_adapter_too(tiny_model, tmp_path, change):
    folder = save_tiny_adapter(tmp_path / "adapter", tiny_model)
    before = adapter_fingerprint(str(folder))
    file = Path(folder) / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "peft_version": "0.0.1", "inference_mode": False, "revision": "x"}))
    assert adapter_fingerprint(str(folder)) == before
    file.write_text(json.dumps({**config, **change}))
    assert adapter_fingerprint(str(folder)) != before


def test_the_shipped_adapter_has_the_fingerprint_that_it_had():
    weights = (SHIPPED / "adapter_model.safetensors").read_bytes()
    assert adapter_fingerprint(str(SHIPPED)) == f"sha256:{text_hash(weights.hex())}"


def test_an_adapter_that_does_not_fit_leaves_the_model_as_it_was(tiny_model, tiny_adapter, ending, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_tiny_adapter(tmp_path / "misfit", tiny_model, seed=9)
    weights = load_file(folder / "adapter_model.safetensors")
    last = sorted(weights)[-1]
    save_file({**weights, last: torch.zeros(3, 3)}, folder / "adapter_model.safetensors")
    requests = [ask(None, seed, "assistant") for seed in range(3)]
    model = TransformersLM(tiny_model)
    before = model.generate(requests)
    for wrong in (str(folder), str(tmp_path / "nowhere")):
        with pytest.raises(WeightsError):
            model.load_adapter("wrong", wrong)
        assert [generation.token_ids for generation in model.generate(requests)] == [
            generation.token_ids for generation in before
        ]
    model.load_adapter("good", tiny_adapter)
    tuned = model.generate([ask("good", 1, "assistant")])
    with pytest.raises(WeightsError, match="does not fit"):
        model.load_adapter("wrong", str(folder))
    assert model.generate([ask("good", 1, "assistant")])[0].token_ids == tuned[0].token_ids
    assert model.generate(requests) == before
    model.load_adapter("a", ending[0])
    assert model.generate(requests) == before


def test_an_adapter_with_whole_embeddings_is_refused(tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_tiny_adapter(tmp_path / "whole", tiny_model)
    weights = load_file(folder / "adapter_model.safetensors")
    weights["base_model.model.model.embed_tokens.weight"] = torch.zeros(2, 2)
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match="whole embeddings"):
        TransformersLM(tiny_model, adapters={"a": str(folder)}).generate([ask("a")])


SHARED = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "lora_bias": {"lora_bias": True},
    "gaussian start": {"init_lora_weights": "gaussian"},
}
LORA_VARIANTS = {
    "DoRA": {"use_dora": True},
    "activated LoRA": {"alora_invocation_tokens": [1, 2]},
    "starts from changed base weights": {"init_lora_weights": "pissa"},
    "replaces whole modules": {"modules_to_save": ["lm_head"]},
    "replicated layers": {"layer_replication": [[0, 2], [1, 2]]},
}
TARGETS = ["q_proj", "v_proj"]
OTHER_KINDS = {
    "ADALORA": ("AdaLoraConfig", {"target_modules": TARGETS, "total_step": 10}),
    "IA3": ("IA3Config", {"target_modules": TARGETS, "feedforward_modules": []}),
    "LOHA": ("LoHaConfig", {"target_modules": TARGETS}),
    "VERA": ("VeraConfig", {"target_modules": ["q_proj"]}),
    "OFT": ("OFTConfig", {"target_modules": TARGETS, "oft_block_size": 8, "r": 0}),
    "PREFIX_TUNING": ("PrefixTuningConfig", {"num_virtual_tokens": 2}),
    "PROMPT_TUNING": ("PromptTuningConfig", {"num_virtual_tokens": 2}),
}


def save_kind(folder, base, config):
    import peft

    torch.manual_seed(3)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def shared(tiny_model):
    """A base model, its greedy replies, and a check that they are still the same."""
    lm = TransformersLM(tiny_model)
    requests = [ask(None, seed, "assistant") for seed in range(2)]
    before = [generation.token_ids for generation in lm.generate(requests)]
    logits = lm.model(torch.tensor([[1, 2, 3]])).logits

    def unchanged():
        assert [generation.token_ids for generation in lm.generate(requests)] == before
        names = {"adapter_names": ["__base__"]} if hasattr(lm.model, "peft_config") else {}
        assert torch.allclose(lm.model(torch.tensor([[1, 2, 3]]), **names).logits, logits, atol=1e-5)
        assert not any(parameter.requires_grad for parameter in lm.model.parameters())

    return lm, unchanged


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_an_adapter_of_another_kind_is_refused_and_the_base_stays_as_it_was(kind, shared, tiny_model, tmp_path):
    import peft

    name, settings = OTHER_KINDS[kind]
    folder = save_kind(tmp_path / kind, tiny_model, getattr(peft, name)(task_type="CAUSAL_LM", **settings))
    lm, unchanged = shared
    with pytest.raises(WeightsError, match=f"is of kind {kind}; only plain LoRA .*merge_and_unload.*merged folder"):
        lm.load_adapter("wrong", folder)
    unchanged()


def test_every_other_kind_that_peft_has_and_settings_of_versions_to_come_are_refused(shared, tiny_model, tmp_path):
    import peft

    lm, unchanged = shared
    folder = save_tiny_adapter(tmp_path / "adapter", tiny_model)
    settings = json.loads((folder / "adapter_config.json").read_text())
    kinds = [*sorted({kind.value for kind in peft.PeftType} - {"LORA"}), "OF_NEXT_YEAR"]
    for change in [*({"peft_type": kind} for kind in kinds), {"use_new_lora": True}, {"new_config": {"rank": 2}}]:
        (folder / "adapter_config.json").write_text(json.dumps({**settings, **change}))
        with pytest.raises(WeightsError, match=r"only plain LoRA can share a base model.*merge_and_unload"):
            lm.load_adapter("wrong", str(folder))
    unchanged()
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "use_new_lora": False, "new_config": None}))
    lm.load_adapter("good", str(folder))


@pytest.mark.parametrize("reason", LORA_VARIANTS)
def test_a_variant_of_lora_is_refused_and_the_base_stays_as_it_was(reason, shared, tiny_model, tmp_path):
    from peft import LoraConfig

    config = LoraConfig(r=2, target_modules=TARGETS, task_type="CAUSAL_LM", **LORA_VARIANTS[reason])
    folder = save_kind(tmp_path / "variant", tiny_model, config)
    lm, unchanged = shared
    with pytest.raises(WeightsError, match=f"{reason}.*merge_and_unload"):
        lm.load_adapter("wrong", folder)
    unchanged()


@pytest.mark.parametrize("kind", SHARED)
def test_kinds_of_lora_that_share_a_base_leave_it_as_it_was(kind, shared, tiny_model, tmp_path):
    from peft import LoraConfig

    config = LoraConfig(r=2, target_modules=TARGETS, task_type="CAUSAL_LM", **SHARED[kind])
    lm, unchanged = shared
    lm.load_adapter("good", save_kind(tmp_path / "adapter", tiny_model, config))
    assert lm.generate([ask("good")])[0].fault is None
    unchanged()


def test_an_adapter_with_weights_of_the_base_is_refused(shared, tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_tiny_adapter(tmp_path / "biased", tiny_model)
    weights = load_file(folder / "adapter_model.safetensors")
    weights["base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias"] = torch.ones(32)
    save_file(weights, folder / "adapter_model.safetensors")
    lm, unchanged = shared
    with pytest.raises(WeightsError, match=r"holds weights of the base model .*q_proj.*bias.*merge_and_unload"):
        lm.load_adapter("wrong", str(folder))
    unchanged()


def test_an_adapter_that_fails_half_way_leaves_no_layer_behind(shared, tiny_model, tmp_path):
    folder = save_tiny_adapter(tmp_path / "halfway", tiny_model)
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["target_modules"] = ["q_proj", "input_layernorm"]  # LoRA is for the first, not for the second
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    lm, unchanged = shared
    with pytest.raises(WeightsError, match="does not fit"):
        lm.load_adapter("wrong", str(folder))
    assert not any("lora_" in name for name, _ in lm.model.named_modules())
    unchanged()


def test_an_adapter_has_the_dtype_of_its_base_on_a_device(tiny_model, tiny_adapter):
    for device, expected in (("meta", "torch.bfloat16"), ("cpu", "torch.float32")):
        lm = TransformersLM(tiny_model, adapters={"other": tiny_adapter}, device=device, dtype="bfloat16")
        dtypes = {str(weight.dtype) for name, weight in lm.model.named_parameters() if "lora_" in name}
        assert dtypes == {expected}
