"""Random models of a few thousand weights and what they are asked, for tests of decoders."""

from __future__ import annotations

import torch
import transformers

from simgym.engine import Engine, EngineConfig, Sequence

SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
}


def random_model(name="Llama", **settings):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **settings})
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval().requires_grad_(False)
    for path, parameter in model.named_parameters():
        if path.endswith("bias"):
            parameter.normal_()
        elif parameter.dim() > 1:
            parameter.mul_(6)  # so that what a token is depends on all tokens before it
    return model


def sequences(count=5, **settings):
    return [
        Sequence(
            prompt=[(7 * number + position) % 250 + 1 for position in range(5 + 9 * number)],
            seed=number,
            temperature=[0.0, 1.0][number % 2],
            max_new_tokens=8,
            **settings,
        )
        for number in range(count)
    ]


def tokens(engine, asked):
    return [completion.token_ids for completion in engine.generate(asked)]


def plain(model):
    return Engine(model, None, EngineConfig(max_packed_bytes=0))


ARCHITECTURES = [
    ("Llama", {}),
    ("Llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    ("Qwen2", {}),
    ("Qwen3", {"head_dim": 32}),
]
"""Kinds of models that the decoders know, with what sets them apart."""
