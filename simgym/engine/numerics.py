"""Numbers that linear layers compute with: float32, or a kind that is faster on CPUs for their matrices alone.

Nearly all time of a language model on a CPU goes into its linear layers. So here only the matrix products change, and
what lies between them (norms, attention, residuals, softmax) is computed in float32, which is faster than a whole model
in bfloat16 and nearer to float32 (`benchmarks/numerics.py`):

* `bfloat16-mixed`: weights, inputs and results of each product are rounded to bfloat16, sums are float32. It means the
  same on a GPU, where bfloat16 as a whole is faster;
* `int8`: weights are rounded to 8 bits, a scale for each output, and inputs, a scale for each token (W8A8, as in
  LLM.int8, arXiv 2208.07339, without its outliers); sums are exact integers. CPUs only, no gradients.

Either way a token's scale is its own. But the order of float32 sums depends on how many tokens are computed together,
and rounding to 8 bits of mantissa makes their last bits into visible ones: the same request, alone or in a batch, has
probabilities that differ as much as either differs from float32, and a sampled reply soon goes another way. Only
float32 gives the same conversation in another batch, or after a run was killed and continued. Layers keep being
`torch.nn.Linear`, so that PEFT puts adapters on them. How much each gains on a machine, and how far its probabilities
are from float32, `simgym doctor --bench` measures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

MIXED = ("bfloat16-mixed", "int8")
"""Kinds that are made here; all others are torch's own."""


def convert(model: PreTrainedModel, kind: str) -> None:
    """Replace the linear layers of a model that is in float32; those that are replaced already stay.

    Args:
        model: Changed in place.
        kind: One of `MIXED`; any other leaves the model alone.
    """
    import torch

    if kind not in MIXED:
        return
    rounded = _classes()[kind]
    for path, layer in list(model.named_modules()):
        if type(layer) is torch.nn.Linear and "lora_" not in path:  # adapters stay trainable
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, rounded(layer))


@contextlib.contextmanager
def float_output(model: PreTrainedModel) -> Iterator[None]:
    """Within it, a converted model has a float32 output layer, as resizing its embeddings needs.

    Where the output layer shares the embedding's weights, those are exact; else the rounded ones are taken.
    """
    import torch

    layer = model.get_output_embeddings()
    kind = type(layer)
    if kind is torch.nn.Linear:
        yield
        return
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    with torch.no_grad():
        if layer.bias is not None:
            plain.bias.copy_(layer.bias)
        if not tied:
            rounded = layer.weight.float()
            plain.weight.copy_(rounded * layer.scale[:, None] if hasattr(layer, "scale") else rounded)
    if tied:
        plain.weight = model.get_input_embeddings().weight
    model.set_output_embeddings(plain)
    yield
    model.set_output_embeddings(kind(model.get_output_embeddings()))


def converted(model: PreTrainedModel) -> int:
    """How many layers compute with rounded numbers."""
    import torch

    return sum(isinstance(layer, torch.nn.Linear) and type(layer) is not torch.nn.Linear for layer in model.modules())


def _classes() -> dict[str, Callable[[torch.nn.Linear], torch.nn.Linear]]:
    import torch

    class Bfloat16Linear(torch.nn.Linear):
        """y = x W, both rounded to bfloat16."""

        def __init__(self, layer: torch.nn.Linear) -> None:
            torch.nn.Module.__init__(self)
            self.in_features, self.out_features = layer.in_features, layer.out_features
            self.weight = torch.nn.Parameter(layer.weight.detach().bfloat16(), requires_grad=False)
            self.bias = layer.bias

        def forward(self, inputs: Tensor) -> Tensor:
            product = torch.nn.functional.linear(inputs.bfloat16(), self.weight).to(inputs.dtype)
            return product if self.bias is None else product + self.bias

    class Int8Linear(torch.nn.Linear):
        """y = x W in 8 bits."""

        def __init__(self, layer: torch.nn.Linear) -> None:
            torch.nn.Module.__init__(self)
            self.in_features, self.out_features = layer.in_features, layer.out_features
            weight = layer.weight.detach().float()
            scale = weight.abs().amax(1).clamp(min=1e-12) / 127
            rounded = (weight / scale[:, None]).round().to(torch.int8)
            self.weight = torch.nn.Parameter(rounded.t().contiguous().t(), requires_grad=False)
            self.scale: Tensor
            self.register_buffer("scale", scale)
            self.bias = layer.bias

        def forward(self, inputs: Tensor) -> Tensor:
            flat = inputs.reshape(-1, self.in_features)
            scale = flat.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
            rounded = (flat / scale).round_().to(torch.int8)
            product = torch._int_mm(rounded, self.weight.t()).to(inputs.dtype)
            product = product.mul_(scale).mul_(self.scale).reshape(*inputs.shape[:-1], self.out_features)
            return product if self.bias is None else product + self.bias

    return {"bfloat16-mixed": Bfloat16Linear, "int8": Int8Linear}
