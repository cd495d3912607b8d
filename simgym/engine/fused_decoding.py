"""Decoding passes of fewer and faster kernels, from torch: flash attention over the slots, and compiled small pieces.

Recorded decoding leaves a step of many small kernels and of an attention kernel that reads a mask. Where torch has the
means, attention reads each slot up to its own length instead (torch's flash attention, half precision and full
attention only), and norms and rotary positions, which stand between the matrix products, are compiled: the same
functions of the model's own code, each a kernel or two instead of a dozen. Both happen in recorded passes alone.
Results are those of the model up to the rounding of its dtype; float32 is left as it is, since there the same seed has
to draw the same token in any batch.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from simgym.engine.grouped_attention import attend_grouped, attention_function, is_unusual

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

_patching = threading.RLock()
"""Held while functions of transformers' modules, which all models share, are others; passes are recorded seldom."""
_ROTARY = "apply_rotary_pos_emb"
"""What modules of transformers call the function that turns queries and keys by their positions."""


class FusedDecoding:
    """The fused pieces of one model."""

    def __init__(self, model: PreTrainedModel, *, backend: str = "inductor") -> None:
        """Compile nothing yet.

        Args:
            model: A causal language model of transformers.
            backend: As `torch.compile` calls it.
        """
        self._config = model.config.get_text_config()
        self._flash = _flash_attention(self._config, model.dtype)
        self._norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
        rotary = {sys.modules[type(module).__module__] for module in model.modules()}
        self._rotary = [module for module in rotary if callable(getattr(module, _ROTARY, None))]
        self._compiled: dict[Callable[..., object], Callable[..., object]] = {}
        self._backend = backend

    @contextlib.contextmanager
    def __call__(self, lengths: Tensor) -> Iterator[None]:
        """Within it, the model's pass over N slots uses them.

        Args:
            lengths: Shape (N,), tokens of each slot, the new one included.
        """
        with contextlib.ExitStack() as stack:
            if self._flash is not None:
                attend = _FlashAttention(self._flash, lengths)
                # a name of this model's own: it is bound to the lengths of its slots
                stack.enter_context(attention_function(self._config, f"simgym_flash_{id(self)}", attend))
            stack.enter_context(_patching)
            self._put_in(stack)
            yield

    def _put_in(self, stack: contextlib.ExitStack) -> None:
        for norm in self._norms:
            norm.forward = functools.partial(self._compile(type(norm).forward), norm)
            stack.callback(norm.__dict__.pop, "forward")
        for module in self._rotary:
            original = getattr(module, _ROTARY)
            setattr(module, _ROTARY, _here(self._compile(original), original))
            stack.callback(setattr, module, _ROTARY, original)

    def _compile(self, function: Callable[..., object]) -> Callable[..., object]:
        import torch

        if function not in self._compiled:
            self._compiled[function] = torch.compile(function, dynamic=True, backend=self._backend)
        return self._compiled[function]


def _here(function: Callable[..., object], otherwise: Callable[..., object]) -> Callable[..., object]:
    """A function for this thread; models that run in others meanwhile keep theirs."""
    thread = threading.get_ident()

    def chosen(*arguments: object, **named: object) -> object:
        return (function if threading.get_ident() == thread else otherwise)(*arguments, **named)

    return chosen


def _flash_attention(config: PretrainedConfig, dtype: torch.dtype) -> Callable[..., Sequence[Tensor]] | None:
    """torch's attention over sequences of different lengths; None where it, or this model, cannot do it."""
    import torch

    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if dtype not in (torch.bfloat16, torch.float16) or kinds != {"full_attention"} or windowed:
        return None
    operator = torch.ops.aten._flash_attention_forward.default  # its public name cannot be told lengths in 2.11
    if "seqused_k" not in {argument.name for argument in operator._schema.arguments}:
        return None
    return operator


class _FlashAttention:
    """Attention of one new token a slot; what transformers calls an attention function."""

    def __init__(self, attend: Callable[..., Sequence[Tensor]], lengths: Tensor) -> None:
        import torch

        self._attend = attend
        self._lengths = lengths.int()
        self._slots = torch.arange(len(lengths) + 1, dtype=torch.int32, device=lengths.device)

    def __call__(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **settings: object,
    ) -> tuple[Tensor, None]:
        """Attend; the result has shape (N, 1, heads, head size)."""
        size = query.shape[-1]
        if query.shape[2] > 1 or is_unusual(settings) or size % 8 or size > 256 or value.shape[-1] != size:
            return attend_grouped(module, query, key, value, attention_mask, scaling, **settings)
        columns = key.stride(0) // key.stride(2)
        attended = self._attend(
            query[:, :, 0], _in_one_row(key), _in_one_row(value), self._slots, self._slots * columns, 1, key.shape[2],
            0.0, False, False, scale=scaling, seqused_k=self._lengths,
        )[0]  # fmt: skip
        return attended[:, None], None


def _in_one_row(memory: Tensor) -> Tensor:
    """(slots, heads, visible columns, size) as it lies in memory: (slots * all columns, heads, size)."""
    slots, heads, _, size = memory.shape
    columns = memory.stride(0) // memory.stride(2)
    return memory.as_strided((slots * columns, heads, size), (memory.stride(2), memory.stride(1), 1))
