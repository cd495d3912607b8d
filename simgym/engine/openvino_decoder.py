"""Forward passes of Llama, Qwen 2 and Qwen 3 on a CPU by OpenVINO, where it is installed.

The model's layers are written down once as a graph of OpenVINO's operations, with the model's own weights, and compiled
for this processor: fused layers, weights laid out for it, and attention that reads keys and values where they are
(`paged_kv_cache`). Sampling, grammars, seeds and the prefix cache stay what they are, for the graph's results are
logits. `benchmarks/throughput.py` says what it brings.

As with `cpu_decoder`: passes without adapters alone, and only after their logits for a few tokens have been compared
with the model's own. Attention is an operation that OpenVINO keeps for its own use, and may be another in its next
release; then the comparison fails, a warning says so, and passes are made as without OpenVINO. The compiled graph
keeps a copy of the weights, so a model whose weights change is not for it either.

Linear layers are in float32 or in `int8`, with the rounded weights of `simgym.engine.numerics`. Their inputs are then
rounded with a scale for each group of a token's numbers, where torch's way has one for the whole token.
"""

from __future__ import annotations

import math
import os
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np
from packaging.specifiers import SpecifierSet

from simgym.engine.cpu_decoder import CpuDecoder
from simgym.engine.kv_cache import KVCache
from simgym.engine.packed_weights import weight_version
from simgym.engine.paged_kv_cache import BLOCK, PagedKVCache

if TYPE_CHECKING:
    import torch
    from openvino import InferRequest, Model, Node
    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm

VERSIONS = SpecifierSet(">=2026.4,<2027")
MOST_TOKENS = 512
"""Tokens of several prompts that are read in one pass; what more of them need does not stay near the processor."""
_SMALLEST_GROUP, _LARGEST_GROUP = 32, 256
"""Numbers of an input that may share the scale with which they are rounded to 8 bits."""
_SEQUENCES = ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins")
"""Inputs that say which tokens belong together and where their keys and values are."""


def is_installed() -> bool:
    """Whether OpenVINO is there, of a version whose attention is the one that is known here."""
    try:
        return VERSIONS.contains(metadata.version("openvino"), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


class OpenvinoDecoder:
    """Passes of one model over slots of a `PagedKVCache`."""

    def __init__(self, model: PreTrainedModel, cpu_decoder: CpuDecoder) -> None:
        """Compile nothing yet.

        Args:
            model: What `CpuDecoder.supports` says yes to, with linear layers in float32 or `int8`.
            cpu_decoder: Knows its layers.
        """
        self._model = model
        self._layers = cpu_decoder
        self._request: InferRequest = None
        self._attached: tuple[PagedKVCache, int] | None = None
        self._process = 0
        self._weights: list[Tensor] = []
        self._versions: list[tuple[int, int]] = []

    @staticmethod
    def supports(model: PreTrainedModel) -> bool:
        """Whether the graph can be made of a model that `CpuDecoder` supports: its weights are all of a kind known."""
        import torch

        kinds = {layer.weight.dtype for layer in _linear_layers(model)}
        return is_installed() and kinds in ({torch.float32}, {torch.int8})

    def new_cache(self, max_bytes: int) -> PagedKVCache:
        """Memory for its passes."""
        heads, size = self._layers.cached_heads
        layers = self._model.config.num_hidden_layers
        return PagedKVCache(self._model.device, max_bytes=max_bytes, layers=layers, heads=heads, size=size)

    def __call__(self, tokens: Tensor, kv_cache: KVCache, first: int, new_N: list[int]) -> Tensor:
        """Logits after the last token of N slots, shape (N, V); see `ModelRunner.forward`."""
        import openvino
        import torch

        assert isinstance(kv_cache, PagedKVCache)
        request = self._compiled()
        self._attach(request, kv_cache)
        past_N = kv_cache.lengths[first : first + len(new_N)]
        kv_cache.grow(first, new_N)
        width = tokens.shape[1]
        flat = torch.cat([row[width - new :] for row, new in zip(tokens, new_N, strict=True)])
        positions = np.concatenate([np.arange(past, past + new) for past, new in zip(past_N, new_N, strict=True)])
        cos, sin = self._layers.rotary(torch.from_numpy(positions)[None])
        ends = np.cumsum(new_N)
        blocks_N = [-(-(past + new) // BLOCK) for past, new in zip(past_N, new_N, strict=True)]
        starts = (np.arange(first, first + len(new_N)) * kv_cache.blocks_a_slot).tolist()
        inputs: dict[str, np.ndarray] = {
            "tokens": flat.numpy(),
            "cos": cos[0].numpy(),
            "sin": sin[0].numpy(),
            "last": ends - 1,
            "past_lens": np.array(past_N, np.int32),
            "subsequence_begins": np.array([0, *ends], np.int32),
            "block_indices": np.concatenate(
                [np.arange(start, start + count) for start, count in zip(starts, blocks_N, strict=True)]
            ).astype(np.int32),
            "block_indices_begins": np.array([0, *np.cumsum(blocks_N)], np.int32),
            "max_context_len": np.array(max(past + new for past, new in zip(past_N, new_N, strict=True)), np.int32),
        }
        for name, value in inputs.items():
            request.set_tensor(name, openvino.Tensor(value))
        request.infer()
        logits: np.ndarray = request.get_output_tensor(0).data
        return torch.from_numpy(logits.copy())  # the next pass writes there

    def is_current(self) -> bool:
        """Whether what was compiled, if anything was, has the model's weights, and this process can run it."""
        own_process = self._request is None or self._process == os.getpid()  # its threads are not in a fork
        return own_process and self._versions == list(map(weight_version, self._weights))

    def clear(self) -> None:
        """Forget the compiled graph."""
        self._request = self._attached = None
        self._weights, self._versions = [], []

    def _attach(self, request: InferRequest, kv_cache: PagedKVCache) -> None:
        """Tell the graph where keys and values are."""
        import openvino

        if self._attached is not None:
            attached, allocation = self._attached
            if attached is kv_cache and allocation == kv_cache.allocation:
                return
        for number, pair in enumerate(kv_cache.layers()):
            for name, memory in zip(("keys", "values"), pair, strict=True):
                request.set_tensor(f"{name}.{number}", openvino.Tensor(memory.numpy(), shared_memory=True))
        self._attached = kv_cache, kv_cache.allocation

    def _compiled(self) -> InferRequest:
        import openvino
        import torch

        if self._request is None:
            settings = {
                "INFERENCE_PRECISION_HINT": "f32",
                "KV_CACHE_PRECISION": "f32",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "PERFORMANCE_HINT": "LATENCY",
                "DYNAMIC_QUANTIZATION_GROUP_SIZE": _group_size(self._model),  # of no effect in float32
            }
            graph = _Graph(self._model, self._layers)
            compiled = openvino.Core().compile_model(graph.model(), "CPU", settings)
            self._request, self._attached, self._process = compiled.create_infer_request(), None, os.getpid()
            self._weights, self._versions = graph.weights, list(map(weight_version, graph.weights))
        return self._request


class _Graph:
    """The model's layers in OpenVINO's operations."""

    def __init__(self, model: PreTrainedModel, layers: CpuDecoder) -> None:
        from openvino import opset13

        self.weights: list[Tensor] = []
        """The model's own."""
        self._arranged: list[Tensor] = []
        """The same as the compiler reads them: copied where their order in memory is another, or several are one."""
        self._ops = opset13
        self._model = model
        self._layers = layers
        self._inputs: dict[str, Node] = {}

    def model(self) -> Model:
        """From tokens to logits."""
        import openvino

        ops = self._ops
        tokens, last = self._input("tokens", [-1], "i64"), self._input("last", [-1], "i64")
        turn = [ops.unsqueeze(self._input(name, [-1, -1], "f32"), _integers(1)) for name in ("cos", "sin")]
        for name in _SEQUENCES:
            self._input(name, [-1], "i32")
        self._input("max_context_len", [], "i32")
        table = self._constant(self._model.get_input_embeddings().weight)
        states: Node = ops.gather(table, tokens, _integers(0))
        layers = self._layers.modules()
        for number, module in enumerate(layers):
            attended = self._attention(module.self_attn, self._normed(module.input_layernorm, states), turn, number)
            if number == len(layers) - 1:
                attended, states = (ops.gather(part, last, _integers(0)) for part in (attended, states))
            states = ops.add(states, self._linear(attended, module.self_attn.o_proj))
            inputs = self._normed(module.post_attention_layernorm, states)
            gate, up = self._linear(inputs, module.mlp.gate_proj), self._linear(inputs, module.mlp.up_proj)
            states = ops.add(states, self._linear(ops.multiply(ops.swish(gate), up), module.mlp.down_proj))
        normed = self._normed(self._layers.final_norm, states)
        logits = self._linear(normed, self._model.get_output_embeddings())
        return openvino.Model([ops.result(logits)], list(self._inputs.values()), "decoder")

    def _attention(self, attention: LlamaAttention, inputs: Node, turn: list[Node], number: int) -> Node:
        """What the heads see, shape (T, heads * size)."""
        from openvino.op import _PagedAttentionExtension

        ops = self._ops
        heads, size = self._layers.cached_heads
        projected = self._linear(inputs, attention.q_proj, attention.k_proj, attention.v_proj)
        widths = [layer.out_features for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]
        queries, keys, values = ops.variadic_split(projected, _integers(1), _integers(widths)).outputs()
        queries = self._heads(queries, size, getattr(attention, "q_norm", None), turn)
        keys = self._heads(keys, size, getattr(attention, "k_norm", None), turn)
        memory = [self._input(f"{name}.{number}", [-1, heads, BLOCK, size], "f32") for name in ("keys", "values")]
        arguments = [queries, keys, *memory, *(self._inputs[name] for name in _SEQUENCES)]
        arguments += [_floats(attention.scaling), _integers(0, np.int32), _floats([]), self._inputs["max_context_len"]]
        arguments += _nothing_more()
        outputs = [argument.output(0) for argument in arguments]
        node = _PagedAttentionExtension([*outputs[:2], values, *outputs[2:]])
        for name in ("k", "v"):
            node.get_rt_info()[f"num_{name}_heads"], node.get_rt_info()[f"{name}_head_size"] = heads, size
        return ops.reshape(node.output(0), _integers([-1, attention.o_proj.in_features]), False)

    def _heads(self, projected: Node, size: int, norm: LlamaRMSNorm | None, turn: list[Node]) -> Node:
        """Queries or keys at their positions, shape (T, heads * size)."""
        ops = self._ops
        parts = ops.reshape(projected, _integers([0, -1, size]), True)
        if norm is not None:
            parts = self._normed(norm, parts)
        first, second = ops.split(parts, _integers(2), 2).outputs()
        other = ops.concat([ops.negative(second), first], 2)
        turned = ops.add(ops.multiply(parts, turn[0]), ops.multiply(other, turn[1]))
        return ops.reshape(turned, _integers([0, -1]), True)

    def _normed(self, norm: LlamaRMSNorm, states: Node) -> Node:
        ops = self._ops
        mean = ops.reduce_mean(ops.power(states, _floats(2.0)), _integers([-1]), keep_dims=True)
        scale = ops.divide(_floats(1.0), ops.sqrt(ops.add(mean, _floats(norm.variance_epsilon))))
        return ops.multiply(self._constant(norm.weight), ops.multiply(states, scale))

    def _linear(self, inputs: Node, *layers: torch.nn.Linear) -> Node:
        """Outputs of layers with the same inputs side by side."""
        import torch

        ops, weights = self._ops, self._constant(*(layer.weight for layer in layers))
        if layers[0].weight.dtype == torch.int8:
            scales = self._constant(*(layer.get_buffer("scale")[:, None] for layer in layers))
            weights = ops.multiply(ops.convert(weights, np.float32), scales)  # which the compiler leaves in 8 bits
        product = ops.matmul(inputs, weights, False, True)
        biases = [layer.bias for layer in layers if layer.bias is not None]
        return ops.add(product, self._constant(*biases)) if biases else product

    def _constant(self, *weights: Tensor) -> Node:
        """One below the other."""
        import torch

        own = [weight.detach() for weight in weights]
        self.weights += own
        self._arranged.append((torch.cat(own) if len(own) > 1 else own[0]).contiguous())
        return self._ops.constant(self._arranged[-1].numpy(), shared_memory=True)

    def _input(self, name: str, shape: list[int], dtype: str) -> Node:
        import openvino

        node = self._ops.parameter(shape, getattr(openvino.Type, dtype))
        node.get_output_tensor(0).set_names({name})
        self._inputs[name] = node
        return node


def _linear_layers(model: PreTrainedModel) -> list[torch.nn.Linear]:
    import torch

    return [module for module in model.modules() if isinstance(module, torch.nn.Linear)]


def _group_size(model: PreTrainedModel) -> int:
    """The largest that divides the inputs of all layers, for large groups are fast and small ones exact; 0: inputs are
    not rounded."""
    common = math.gcd(*(layer.in_features for layer in _linear_layers(model)))
    return max((size for size in range(_SMALLEST_GROUP, _LARGEST_GROUP + 1) if common % size == 0), default=0)


def _integers(value: int | list[int], dtype: type[np.generic] = np.int64) -> Node:
    from openvino import opset13

    return opset13.constant(np.array(value, dtype))


def _floats(value: float | list[float]) -> Node:
    from openvino import opset13

    return opset13.constant(np.array(value, np.float32))


def _nothing_more() -> list[Node]:
    """What attention could do besides, in the order of its arguments, and shall not."""
    from openvino import opset13

    no_integers, no_floats = _integers([], np.int32), _floats([])
    return [
        no_integers,  # tokens over which scores are summed
        *(no_integers, no_integers, no_floats),  # blocks that are turned to other positions
        *(no_floats, _integers(128, np.int32), _integers(8, np.int32)),  # blocks that are left out
        no_floats,  # sinks
        *(_integers(0, np.int32), no_integers, no_integers, no_integers),  # blocks that are evicted
        no_integers,  # kinds of tokens
        *(opset13.constant(np.array([], np.uint8)), no_integers),  # trees of tokens
    ]
