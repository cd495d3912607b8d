"""Models whose state cannot be kept are refused by their configuration, with the reason.

Public sources: vllm#4298 (LongRoPE: a short prompt beside a long one gets the long one's positions), llama.cpp#24875
(kept keys are of no use once the switch is crossed).
"""

from __future__ import annotations

import pytest
import transformers

from simgym.engine import UnsupportedModel, check_supported

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
}


def phi3(**settings):
    return transformers.Phi3Config(
        **SMALL,
        num_key_value_heads=4,
        pad_token_id=0,
        max_position_embeddings=512,
        original_max_position_embeddings=128,
        rope_parameters=LONG_ROPE,
        **settings,
    )


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("BloomForCausalLM", "does not take position_ids"),
        ("MptForCausalLM", "does not take position_ids"),
        ("MambaForCausalLM", "layers of linear_attention"),
        ("RwkvForCausalLM", "recurrent layers"),
        ("Qwen3NextForCausalLM", "layers of linear_attention"),
        ("Llama4ForCausalLM", "layers of chunked_attention"),
        ("JambaForCausalLM", "layers of linear_attention|recurrent layers"),
    ],
)
def test_layers_of_another_kind_are_refused(model_type, reason):
    model_class = getattr(transformers, model_type)
    with pytest.raises(UnsupportedModel, match=reason):
        check_supported(model_class.config_class(), model_class)


def test_alibi_that_a_setting_turns_on_is_refused():
    check_supported(transformers.FalconConfig(), transformers.FalconForCausalLM)
    with pytest.raises(UnsupportedModel, match="ALiBi"):
        check_supported(transformers.FalconConfig(alibi=True), transformers.FalconForCausalLM)


def test_positions_that_depend_on_the_batch_are_refused_beyond_where_they_change():
    with pytest.raises(UnsupportedModel, match=r"longrope.*longer than 128 tokens.*context_length=128"):
        check_supported(phi3(), transformers.Phi3ForCausalLM)
    check_supported(phi3(), transformers.Phi3ForCausalLM, max_length=128)
    dynamic = transformers.LlamaConfig(
        **SMALL, max_position_embeddings=64, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    )
    check_supported(dynamic, transformers.LlamaForCausalLM)
    with pytest.raises(UnsupportedModel, match="dynamic"):
        check_supported(dynamic, transformers.LlamaForCausalLM, max_length=128)


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Qwen3", "Mistral", "Gemma2", "Gemma3", "Phi", "GPT2", "GptOss"])
def test_full_and_sliding_attention_are_accepted(name):
    suffix = "LMHeadModel" if name == "GPT2" else "ForCausalLM"
    model_class = getattr(transformers, f"{name}{suffix}")
    check_supported(model_class.config_class(), model_class)
