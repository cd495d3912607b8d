"""Forward passes of Llama, Qwen 2 and Qwen 3 on a CPU with a third of the operations.

On a CPU, half of a decoding step's time is not arithmetic: transformers' layers consist of some fifty small operations
each, and the library rearranges the weights in every product. This is the same arithmetic from fewer pieces: queries,
keys and values as one product of packed weights (`packed_weights`), the gate's activation and the product with `up` as
part of theirs, rotary positions in three operations, attention that does not repeat keys and values for the heads that
share them and takes one mask for all layers, and in the last layer only the tokens whose logits are wanted.

It is a copy of what those models compute, so it is used for those classes alone, without adapters, and only after its
logits for a few tokens have been compared with the model's own. Results are those of the model up to rounding.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from simgym.engine.kv_cache import KVCache
from simgym.engine.packed_weights import Projection, can_be_packed

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.modeling_layers import GradientCheckpointingLayer
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

_CLASSES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_MOST_DIFFERENCE = 1e-4
"""Between the model's logits and those made here, as a share of the largest."""
_ROUNDED_DIFFERENCE = 0.1
"""The same where linear layers compute with rounded numbers: another last bit may round the other way."""
_TRIAL = (1, 2, 3, 5, 8, 13)
"""Tokens of the comparison."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """What a pass needs of one layer."""

    number: int
    qkv: Projection
    output: Projection
    gate: Projection
    up: Projection
    down: Projection
    module: GradientCheckpointingLayer
    """The decoder layer; its norms are read where they are."""
    linear: tuple[torch.nn.Linear, ...]
    """Its linear layers, see `_linear`."""


class CpuDecoder:
    """Passes of one model over slots of the KV cache."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Nothing is copied before the first pass; see `supports`."""
        self._model = model
        self._decoder = model.get_decoder()
        config = model.config
        self._heads = config.num_attention_heads
        self._shared = config.num_key_value_heads
        self._size = getattr(config, "head_dim", None) or config.hidden_size // self._heads
        self._layers = [_layer(number, layer) for number, layer in enumerate(self._decoder.layers)]
        self._logits = Projection(model.get_output_embeddings())
        self._logits_layer = model.get_output_embeddings()

    @staticmethod
    def supports(model: PreTrainedModel, max_bytes: int) -> bool:
        """Whether passes of the model can be made here, with packed weights of at most so many bytes."""
        import torch

        if type(model).__name__ not in _CLASSES or model.device.type != "cpu":
            return False
        config = model.config
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", False)
        if config.hidden_act != "silu" or windowed or kinds != {"full_attention"}:
            return False
        if config._attn_implementation != "sdpa" or model.dtype != torch.float32:
            return False
        linear = [part for layer in model.get_decoder().layers for part in _linear(layer)]
        linear.append(model.get_output_embeddings())
        if not all(map(can_be_packed, linear)):
            return False
        size: int = sum(layer.weight.numel() * layer.weight.element_size() for layer in linear)
        return size <= max_bytes

    @property
    def cached_heads(self) -> tuple[int, int]:
        """Heads of keys and values in each layer, and their size."""
        return self._shared, self._size

    @property
    def final_norm(self) -> LlamaRMSNorm:
        """What follows the last layer."""
        return self._decoder.norm

    def modules(self) -> list[GradientCheckpointingLayer]:
        """The decoder layers."""
        return [layer.module for layer in self._layers]

    def rotary(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of every position, shape (..., head size)."""
        import torch

        turns: tuple[Tensor, Tensor] = self._decoder.rotary_emb(torch.empty(0), position_ids=position_ids)
        return turns

    def new_cache(self, max_bytes: int) -> KVCache:
        """Memory for its passes."""
        return KVCache(self._model.device, max_bytes=max_bytes, token_bytes=1)

    def __call__(self, tokens: Tensor, kv_cache: KVCache, first: int, new_N: list[int]) -> Tensor:
        """Logits after the last token of N slots, shape (N, V); see `ModelRunner.forward`."""
        import torch

        self._refresh()
        placement = kv_cache.prepare(first, new_N)
        count, length = tokens.shape
        states = self._model.get_input_embeddings()(tokens).flatten(0, 1)
        cos, sin = self.rotary(placement.position_ids)
        half = self._size // 2
        turn = cos[:, :, None], torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)[:, :, None]
        mask = torch.zeros(placement.visible.shape).masked_fill_(~placement.visible, float("-inf"))
        for layer in self._layers:
            attended = self._attention(layer, states.view(count, length, -1), turn, mask, kv_cache)
            if layer.number == len(self._layers) - 1:
                attended, states = (part.view(count, length, -1)[:, -1].contiguous() for part in (attended, states))
            states = layer.output(attended, plus=states)
            inputs = _normed(layer.module.post_attention_layernorm, states)
            states = layer.down(layer.up(inputs, times=layer.gate(inputs, activation="swish")), plus=states)
        return self._logits(_normed(self._decoder.norm, states))

    def _attention(
        self, layer: _Layer, states: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor, kv_cache: KVCache
    ) -> Tensor:
        """What the heads see, shape (T, heads * size); keys and values are written."""
        import torch

        count, length, width = states.shape
        heads, shared, size = self._heads, self._shared, self._size
        inputs = _normed(layer.module.input_layernorm, states.view(-1, width))
        projected = layer.qkv(inputs).view(count, length, heads + 2 * shared, size)
        turned = projected[:, :, : heads + shared]
        if hasattr(layer.module.self_attn, "q_norm"):
            queries = _normed(layer.module.self_attn.q_norm, turned[:, :, :heads])
            turned = torch.cat([queries, _normed(layer.module.self_attn.k_norm, turned[:, :, heads:])], dim=2)
        cos, sin = turn
        turned = (turned * cos).addcmul_(turned.roll(size // 2, -1), sin)
        keys, values = kv_cache.update(
            turned[:, :, heads:].transpose(1, 2), projected[:, :, heads + shared :].transpose(1, 2), layer.number
        )
        query = turned[:, :, :heads].view(count, length, shared, heads // shared, size)
        attend = functools.partial(
            torch.nn.functional.scaled_dot_product_attention,
            key=keys,
            value=values,
            attn_mask=mask,
            scale=layer.module.self_attn.scaling,
        )
        if length == 1:  # the heads of a group stand where further tokens would
            return attend(query[:, 0]).reshape(count, heads * size)
        seen = [attend(group.transpose(1, 2)).transpose(1, 2) for group in query.unbind(3)]
        return torch.stack(seen, dim=3).reshape(count * length, heads * size)

    def _refresh(self) -> None:
        """Pack what is not packed yet, or has changed."""
        layer = self._model.get_output_embeddings()
        if layer is not self._logits_layer:  # an adapter brought tokens
            self._logits, self._logits_layer = Projection(layer), layer
        for projection in self._projections():
            projection.refresh()

    def _projections(self) -> Iterator[Projection]:
        yield self._logits
        for each in self._layers:
            yield from (each.qkv, each.output, each.gate, each.up, each.down)

    def clear(self) -> None:
        """Forget the packed weights, as when the model's were changed in a way that does not show."""
        for projection in self._projections():
            projection.clear()

    def is_current(self) -> bool:
        """Whether the model still consists of the layers that are packed; somebody may have put adapters round them."""
        return all(
            own is present
            for layer in self._layers
            for own, present in zip(layer.linear, _linear(layer.module), strict=True)
        )


class Decoder(Protocol):
    """Makes a model's passes in its place."""

    def new_cache(self, max_bytes: int) -> KVCache:
        """Memory for its passes."""
        ...

    def __call__(self, tokens: Tensor, kv_cache: KVCache, first: int, new_N: list[int]) -> Tensor:
        """Logits after the last token of N slots, shape (N, V)."""
        ...


def difference(model: PreTrainedModel, decoder: Decoder) -> float:
    """Largest difference between the model's logits and those of two passes of a decoder, as a share of the largest."""
    import torch

    kv_cache = decoder.new_cache(2**40)
    kv_cache.reserve(1, len(_TRIAL))
    kv_cache.lengths.append(0)
    tokens = torch.tensor([_TRIAL], device=model.device)
    expected = model(input_ids=tokens, use_cache=False, logits_to_keep=1).logits[:, -1]
    read, decoded = tokens[:, :-1], tokens[:, -1:]
    decoder(read, kv_cache, 0, [read.shape[1]])
    logits = decoder(decoded, kv_cache, 0, [1])
    return float((logits - expected).abs().max() / expected.abs().max())


def is_right(model: PreTrainedModel, decoder: Decoder) -> bool:
    """Whether a decoder's logits are the model's; a warning says why not."""
    import torch

    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    rounded = any(layer.weight.dtype != torch.float32 for layer in linear)
    try:
        largest = difference(model, decoder)
    except (RuntimeError, AttributeError, TypeError, ImportError) as error:  # another library than this was made for
        reason = " ".join(str(error).split())[:200]
    else:
        if largest <= (_ROUNDED_DIFFERENCE if rounded else _MOST_DIFFERENCE):  # nor if it is not a number
            return True
        reason = f"logits differ by {largest:.2g} of the largest"
    name = type(decoder).__name__
    warnings.warn(f"Passes are slower than they could be, for {name} is not used: {reason}", stacklevel=2)
    return False


def _layer(number: int, module: GradientCheckpointingLayer) -> _Layer:
    query, keys, values, output, gate, up, down = linear = _linear(module)
    return _Layer(
        number=number,
        qkv=Projection(query, keys, values),
        output=Projection(output),
        gate=Projection(gate),
        up=Projection(up),
        down=Projection(down),
        module=module,
        linear=linear,
    )


def _linear(module: GradientCheckpointingLayer) -> tuple[torch.nn.Linear, ...]:
    attention, mlp = module.self_attn, module.mlp
    own = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
    return *own, mlp.gate_proj, mlp.up_proj, mlp.down_proj


def _normed(norm: LlamaRMSNorm, states: Tensor) -> Tensor:
    import torch

    return torch.nn.functional.rms_norm(states, norm.weight.shape, norm.weight, norm.variance_epsilon)
