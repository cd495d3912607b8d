"""Forward passes of one model: over the slots of the KV cache, and over whole token sequences without it.

The first kind makes completions, the other log-likelihoods of given texts and hidden states. A lock is held during each
pass, so that whoever else uses the model (a trainer, say) can keep the engine away from it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from simgym.engine.attention import attention_masks, cache_argument
from simgym.engine.config import EngineConfig
from simgym.engine.cpu_decoder import CpuDecoder, is_right
from simgym.engine.fused_decoding import FusedDecoding
from simgym.engine.grouped_attention import grouped_attention
from simgym.engine.kv_cache import KVCache, Placement
from simgym.engine.lora_bank import LoraBank, without_autocast
from simgym.engine.openvino_decoder import OpenvinoDecoder
from simgym.engine.paged_kv_cache import PagedKVCache
from simgym.engine.recorded_decoding import RecordedDecoding, Size
from simgym.engine.transfer import to_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput

Floats = npt.NDArray[np.float32]


class _Deepest(Exception):
    """Ends a forward pass whose deeper layers nobody asked for; models offer no other way."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A text whose log-likelihood is asked for."""

    prompt: list[int]
    """Tokens before it, at least one."""
    continuation: list[int]
    """Its tokens, at least one."""


class ModelRunner:
    """Runs a model; knows nothing of scheduling."""

    def __init__(self, model: PreTrainedModel, config: EngineConfig, lock: AbstractContextManager[object]) -> None:
        """Put a model behind a lock; `config` is resolved for its device."""
        self.lora_bank = LoraBank(model)
        self.device = model.device
        self.lock = lock
        self.recorded: RecordedDecoding | None = None
        if config.gpu_paths and config.cuda_graphs and _can_be_recorded(model):
            self.recorded = RecordedDecoding(self)
        self.fused: FusedDecoding | None = None
        if self.recorded is not None and config.fused_decoding and _is_half_on_cuda(model):
            self.fused = FusedDecoding(model)
        self.cpu_decoder: CpuDecoder | None = None
        if not config.gpu_paths and CpuDecoder.supports(model, config.max_packed_bytes or 0):
            self.cpu_decoder = CpuDecoder(model)
        self.openvino: OpenvinoDecoder | None = None
        if self.cpu_decoder is not None and config.openvino and OpenvinoDecoder.supports(model):
            self.openvino = OpenvinoDecoder(model, self.cpu_decoder)
        self._tried: set[str] = set()
        self._config = config
        self._cache_argument = cache_argument(type(self.lora_bank.base)) or "past_key_values"

    def forward(
        self, tokens: Tensor, kv_cache: KVCache, first: int, new_N: list[int], adapters: list[str | None]
    ) -> Tensor:
        """Logits after the last token of N slots.

        Args:
            tokens: (N, Q) token ids, padded on the left.
            kv_cache: Where their keys and values go.
            first: The first of the slots.
            new_N: How many of each row's tokens are no padding.
            adapters: N names of adapters, or None for the base model.

        Returns:
            (N, V), V as large as the largest vocabulary among the adapters.
        """
        if isinstance(kv_cache, PagedKVCache):
            assert self.openvino is not None
            with self.lock:
                logits = self.openvino(tokens, kv_cache, first, new_N)
            return self.lora_bank.own_logits(logits[:, None], adapters)[:, 0]
        if not any(adapters) and (decoder := self._tried_decoder()) is not None:
            with self.lock, without_autocast(self.device):
                logits = decoder(tokens, kv_cache, first, new_N)
            return self.lora_bank.own_logits(logits[:, None], adapters)[:, 0]
        placement = kv_cache.prepare(first, new_N)
        with self.lock, self._attention():
            output = self.lora_bank.forward(adapters, **self._inputs(tokens, placement, kv_cache))
        return output.logits[:, -1]  # type: ignore[no-any-return]

    def uses_openvino(self) -> bool:
        """Whether sequences without adapters that begin now are OpenVINO's, which wants a `PagedKVCache`."""
        if self.openvino is not None and "openvino" not in self._tried:
            if not self._is_right(self.openvino):
                self.openvino = None
            self._tried.add("openvino")
        if self.openvino is not None and not (self.openvino.is_current() and self._has_own_layers()):
            self.openvino = None  # whoever changes weights will do so again
        return self.openvino is not None

    def _tried_decoder(self) -> CpuDecoder | None:
        """Makes passes without adapters; None where there is none, or its logits are not the model's."""
        if not self._has_own_layers():
            self.cpu_decoder = None
        if self.cpu_decoder is not None and "cpu" not in self._tried:
            if not self._is_right(self.cpu_decoder):
                self.cpu_decoder = None
            self._tried.add("cpu")
        return self.cpu_decoder

    def _has_own_layers(self) -> bool:
        """Whether nobody but the bank has put adapters round the model's layers."""
        return self.cpu_decoder is None or not self.lora_bank.is_empty or self.cpu_decoder.is_current()

    def _is_right(self, decoder: CpuDecoder | OpenvinoDecoder) -> bool:
        with self.lock, self.lora_bank.base_alone() as base:
            return is_right(base, decoder)

    def decode(self, token_ids: list[int], kv_cache: KVCache, adapters: list[str | None]) -> Tensor:
        """Logits after one more token in each slot that is in use; valid until the next call."""
        if self.recorded is not None and len(set(adapters)) == 1:
            with self.lock:
                logits = self.recorded.decode(token_ids, kv_cache, adapters[0], self.lora_bank.changes)
            if logits is not None:
                return self.lora_bank.own_logits(logits[:, None], adapters)[:, 0]
        tokens = to_device(token_ids, self.device)[:, None]
        return self.forward(tokens, kv_cache, 0, [1] * len(token_ids), adapters)

    def clear(self) -> None:
        """Drop what was recorded, as when weights change or memory is short."""
        if self.recorded is not None:
            self.recorded.clear()
        self.forget()

    def forget(self) -> None:
        """Drop copies of weights that were updated in place."""
        if self.cpu_decoder is not None:
            self.cpu_decoder.clear()
        if self.openvino is not None:
            self.openvino.clear()

    def decode_pass(self, inputs: Tensor, kv_cache: KVCache, size: Size) -> Tensor:
        """See `DecodingModel`."""
        tokens, positions, columns = inputs.unbind()
        placement = kv_cache.direct(positions, columns, size.columns)
        arguments = self._inputs(tokens[:, None], placement, kv_cache)
        with self._attention():
            output = self._fused_pass(positions + 1, size.adapter, arguments)
            if output is None:
                output = self.lora_bank.forward_alike(size.adapter, **arguments)
        logits: Tensor = output.logits
        return logits[:, -1]

    def _fused_pass(self, lengths: Tensor, adapter: str | None, arguments: dict[str, object]) -> CausalLMOutput:
        """The pass with fused pieces; None where there are none."""
        import torch

        if self.fused is None:
            return None
        try:
            with self.fused(lengths):
                return self.lora_bank.forward_alike(adapter, **arguments)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError) as error:  # there is no compiler, or torch's kernels refuse the model
            self.fused = None
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            warnings.warn(f"Decoding is slower than it could be, without fused pieces: {reason}", stacklevel=2)
            return None

    def _inputs(self, tokens: Tensor, placement: Placement, kv_cache: KVCache) -> dict[str, object]:
        base = self.lora_bank.base
        return {
            "input_ids": tokens,
            "position_ids": placement.position_ids,
            "attention_mask": attention_masks(base.config.get_text_config(), placement.visible, base.dtype),
            self._cache_argument: kv_cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }

    @contextlib.contextmanager
    def _attention(self) -> Iterator[None]:
        """Within it, the model attends as is fastest here."""
        if not self._config.gpu_paths:
            yield
            return
        with grouped_attention(self.lora_bank.base.config.get_text_config()):
            yield

    def loglikelihoods(self, texts: list[Scored], adapter: str | None) -> list[float]:
        """Sum of the natural log-probabilities of each continuation's tokens, <= 0."""
        import torch

        # logits are in memory for the continuations alone, so the longest of a batch bounds it
        longest = max((len(text.continuation) for text in texts), default=1)
        size = max(1, min(self._config.max_sequences, self._config.max_scored_tokens // longest))
        sequences = [[*text.prompt, *text.continuation] for text in texts]
        results = [0.0] * len(texts)
        for batch in self._batches(sequences, size):
            kept = max(len(texts[index].continuation) for index in batch) + 1
            with torch.inference_mode(), self.lock:
                logits = self.lora_bank.forward(
                    [adapter] * len(batch),
                    **self._padded([sequences[index] for index in batch]),
                    logits_to_keep=kept,
                ).logits
            sums = []
            for row, index in enumerate(batch):
                tail = texts[index].continuation
                logprobs = logits[row, -len(tail) - 1 : -1].float().log_softmax(-1)
                sums.append(logprobs.gather(-1, to_device(tail, self.device)[:, None]).sum())
            for index, logprob in zip(batch, torch.stack(sums).tolist(), strict=True):
                results[index] = min(0.0, logprob)
        return results

    def hidden_states(self, sequences: list[list[int]], layers: list[int]) -> list[Floats]:
        """Outputs of the base model's layers (1 is the first) for each token sequence, shape (K, L, D) each.

        The forward pass ends at the deepest of them, so that a middle layer costs a fraction of a whole pass.
        """
        results: dict[int, Floats] = {}
        for batch in self._batches(sequences, self._config.max_sequences):
            with self.lock:
                states = self._layer_outputs([sequences[index] for index in batch], layers)
            results |= {index: row[:, : len(sequences[index])] for index, row in zip(batch, states, strict=True)}
        return [results[index] for index in range(len(sequences))]

    def decoder_layers(self) -> torch.nn.ModuleList:
        """The decoder's layers in order: the longest list of modules in it, whatever the architecture calls it."""
        from torch.nn import ModuleList

        base = self.lora_bank.base
        decoder = base.get_decoder() if hasattr(base, "get_decoder") else base  # not what reads images
        return max((module for module in decoder.modules() if isinstance(module, ModuleList)), key=len)

    def _layer_outputs(self, sequences: list[list[int]], layers: list[int]) -> Floats:
        """Shape (N, K, L, D), padded on the right: nothing attends to what comes after it, so there is no mask, without
        which attention leaves out what is later instead of computing it."""
        import torch

        outputs: dict[int, Tensor] = {}
        modules, deepest = self.decoder_layers(), max(layers)

        def keep(layer: int, output: Tensor) -> None:
            outputs[layer] = output[0] if isinstance(output, tuple) else output
            if layer == deepest:
                raise _Deepest

        hooks = [
            modules[layer - 1].register_forward_hook(lambda module, inputs, output, layer=layer: keep(layer, output))
            for layer in set(layers)
        ]
        try:
            with torch.inference_mode(), self.lora_bank.base_alone() as base:
                base(input_ids=self._padded_behind(sequences), logits_to_keep=1, use_cache=False)
        except _Deepest:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        stacked: Floats = torch.stack([outputs[layer] for layer in layers], dim=1).cpu().float().numpy()
        return stacked

    def _batches(self, sequences: list[list[int]], size: int) -> list[list[int]]:
        """Indices of sequences of similar length, in batches within the bounds: padding is work for nothing."""
        batches: list[list[int]] = []
        tokens = 0  # of the last batch
        for index in sorted(range(len(sequences)), key=lambda index: len(sequences[index])):
            length = len(sequences[index])
            padded = (len(batches[-1]) + 1) * length if batches else 0
            if batches and len(batches[-1]) < size and self._fits(padded, tokens + length):
                batches[-1].append(index)
                tokens += length
            else:
                batches.append([index])
                tokens = length
        return batches

    def _fits(self, padded: int, tokens: int) -> bool:
        """Whether so many tokens, `padded` with the padding, may go through the model at once."""
        allowed = max(self._config.max_padding * tokens, tokens + (self._config.free_padding or 0))
        return padded <= min(allowed, self._config.max_padded_tokens or padded)

    def _padded_behind(self, sequences: list[list[int]]) -> Tensor:
        """Token ids, shape (N, L), padded on the right."""
        import torch

        longest = max(map(len, sequences))
        padded = [ids + [self._config.pad_token_id] * (longest - len(ids)) for ids in sequences]
        return torch.tensor(padded, device=self.device)

    def _padded(self, sequences: list[list[int]]) -> dict[str, Tensor]:
        """Left-padded inputs of a forward pass."""
        import torch

        longest = max(map(len, sequences))
        padding = [longest - len(ids) for ids in sequences]
        mask = torch.tensor(
            [[0] * pad + [1] * (longest - pad) for pad in padding],
            device=self.device,
        )
        padded = [[self._config.pad_token_id] * pad + ids for pad, ids in zip(padding, sequences, strict=True)]
        return {
            "input_ids": torch.tensor(padded, device=self.device),
            "attention_mask": mask,
            "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
        }


def _can_be_recorded(model: PreTrainedModel) -> bool:
    """Whether a decoding pass may be the same work each time; mixtures of experts ask which expert has what to do."""
    config = model.config.get_text_config()
    experts = any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
    return not experts and len({parameter.device for parameter in model.parameters()}) == 1


def _is_half_on_cuda(model: PreTrainedModel) -> bool:
    import torch

    return model.device.type == "cuda" and model.dtype in (torch.bfloat16, torch.float16)
