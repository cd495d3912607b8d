"""Attention of one new token a sequence, without repeating keys and values for the heads that share them.

With grouped queries, several heads look through the same keys. transformers (before 5.2x) repeats keys and values in
memory as soon as there is a mask, seven times for Qwen2.5-7B. For one new token, the heads of a group can stand where a
longer query's tokens would: they see the same columns, and nothing is copied. Longer queries, and models with attention
of another kind, go the way that they always go.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PretrainedConfig

_NAME = "simgym_grouped"


@contextlib.contextmanager
def attention_function(config: PretrainedConfig, name: str, function: Callable[..., object]) -> Iterator[None]:
    """Within it, a model of this configuration that would use torch's attention uses another function.

    Args:
        config: The model's; whoever runs a pass of the model holds its lock.
        name: Of the function, in the registry that all models of the process share: one for each function.
        function: What transformers calls an attention function.
    """
    before = getattr(config, "_attn_implementation", None)
    if before not in ("sdpa", _NAME):
        yield
        return
    from transformers import AttentionInterface

    AttentionInterface.register(name, function)
    config._attn_implementation = name
    try:
        with _kernels():
            yield
    finally:
        config._attn_implementation = before


def grouped_attention(config: PretrainedConfig) -> contextlib.AbstractContextManager[None]:
    """Within it, a model of this configuration that would use torch's attention uses that of this module."""
    return attention_function(config, _NAME, attend_grouped)


def _kernels() -> contextlib.AbstractContextManager[None]:
    """Those of torch that need no preparation: cuDNN plans for each new shape, and a batch that grows has many."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def attend_grouped(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **settings: object,
) -> tuple[Tensor, None]:
    """What transformers calls an attention function; the result has shape (N, Q, heads, head size)."""
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.to(query.dtype)
    count, heads, length, size = query.shape
    shared = key.shape[1]
    if length > 1 or heads == shared or attention_mask is None or attention_mask.shape[1] != 1 or is_unusual(settings):
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **settings
        )
        return output
    folded = query.reshape(count, shared, heads // shared, size)
    attended = scaled_dot_product_attention(folded, key, value, attn_mask=attention_mask, scale=scaling)
    return attended.reshape(count, 1, heads, value.shape[-1]), None


def is_unusual(settings: Mapping[str, object]) -> bool:
    """Whether a model wants of its attention what torch's fast functions do not have."""
    return bool(settings.get("dropout")) or any(
        settings.get(name) is not None for name in ("softcap", "position_bias", "s_aux", "cache")
    )
