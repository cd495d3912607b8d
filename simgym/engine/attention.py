"""What the engine asks of a model: attention over keys and values that can be kept, at positions that can be told.

Keys and values of a token are computed once and used in every later pass, beside whatever else is in the batch. That
holds for full and for sliding-window attention with positions that are absolute or rotary. It does not hold for layers
that keep a state of another kind (Mamba, linear attention, convolutions, chunks), nor where positions depend on the
longest sequence of a pass (LongRoPE, dynamic NTK), nor where the model makes its own from the mask (ALiBi). Such models
are refused by their configuration, before their weights are loaded.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from simgym.engine.errors import UnsupportedModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

_KINDS = ("full_attention", "sliding_attention")
_CACHE_ARGUMENTS = ("cache", "past_key_values")


def check_supported(
    config: PretrainedConfig, model_class: type[PreTrainedModel] | None = None, *, max_length: int | None = None
) -> None:
    """Refuse a model whose state the engine cannot keep.

    Args:
        config: The model's configuration as transformers has it.
        model_class: The class that it will be loaded as; None: only the configuration is looked at.
        max_length: Tokens of the longest sequence; None: what the configuration says.

    Raises:
        UnsupportedModel: in a sentence that says why.
    """
    text = config.get_text_config()
    if unknown := [kind for kind in _layer_kinds(text) if kind not in _KINDS]:
        raise UnsupportedModel(f"The model has layers of {unknown[0]}, whose state cannot be kept between passes.")
    if getattr(model_class, "_is_stateful", False):
        raise UnsupportedModel("The model has recurrent layers, whose state cannot be kept between passes.")
    if model_class is not None:
        accepted = inspect.signature(model_class.forward).parameters
        missing = "past_key_values" if cache_argument(model_class) is None else "position_ids"
        if missing not in accepted:
            raise UnsupportedModel(
                f"{model_class.__name__} does not take {missing}, so keys and values cannot be kept for it (as with "
                "ALiBi positions, or decoders of encoder-decoder models)."
            )
    if getattr(text, "alibi", False):
        raise UnsupportedModel("The model has ALiBi positions, which cannot be told apart in a mixed batch.")
    _check_positions(text, max_length)


def cache_argument(model_class: type[PreTrainedModel]) -> str | None:
    """What a model's forward pass calls keys and values that are kept; None: it takes none.

    transformers calls them `cache` from 5.24 on, and `past_key_values` before, as do models that bring their own code.
    """
    accepted = inspect.signature(model_class.forward).parameters
    return next((name for name in _CACHE_ARGUMENTS if name in accepted), None)


def _check_positions(config: PretrainedConfig, max_length: int | None) -> None:
    limit = getattr(config, "max_position_embeddings", None)
    for rope in _rope_parameters(config):
        kind = rope.get("rope_type", rope.get("type"))
        if kind == "longrope":
            switch = rope.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", limit
            )
        elif kind == "dynamic":
            switch = limit
        else:
            continue
        longest = max_length or limit
        if switch is None or longest is None or longest > switch:
            raise UnsupportedModel(
                f"The model's positions ({kind}) change for all tokens once a sequence in the batch is longer than "
                f"{switch} tokens, so keys and values cannot be kept beyond that. Set context_length={switch} or less."
            )


def _rope_parameters(config: PretrainedConfig) -> Iterator[Mapping[str, Any]]:
    """Settings of rotary positions, whether there is one for all layers or one for each kind of layer."""
    for name in ("rope_parameters", "rope_scaling"):
        parameters = getattr(config, name, None)
        if isinstance(parameters, Mapping):
            nested = [value for value in parameters.values() if isinstance(value, Mapping)]
            yield from nested or [parameters]


def _layer_kinds(config: PretrainedConfig) -> list[str]:
    return list(dict.fromkeys(getattr(config, "layer_types", None) or []))


def attention_masks(config: PretrainedConfig, visible: Tensor, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """`visible` as a model of this configuration wants its mask: a tensor, or one for each kind of layer."""
    import torch

    kinds = _layer_kinds(config)
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if not kinds:
        kinds = ["sliding_attention" if window else "full_attention"]

    def mask(kind: str) -> Tensor:
        seen = visible
        if kind == "sliding_attention" and window and window < visible.shape[-1]:
            # the query's own column is the last that it sees
            own = visible.sum(-1, keepdim=True) - 1
            seen = visible & (torch.arange(visible.shape[-1], device=visible.device) > own - window)
        if getattr(config, "_attn_implementation", "sdpa") == "sdpa":
            return seen
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)

    return mask(kinds[0]) if len(kinds) == 1 else {kind: mask(kind) for kind in kinds}


def token_bytes(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of one token's keys and values in all layers, as far as the configuration tells; 0 if it does not."""
    heads = getattr(config, "num_attention_heads", 0) or 0
    width = getattr(config, "head_dim", None) or (getattr(config, "hidden_size", 0) // heads if heads else 0)
    kept_heads = getattr(config, "num_key_value_heads", None) or heads
    return 2 * int(getattr(config, "num_hidden_layers", 0) or 0) * kept_heads * width * int(dtype.itemsize)
