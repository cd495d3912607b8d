"""Matrix products for few tokens on a CPU: weights laid out for it, layers with the same input as one product.

The library behind `torch.nn.Linear` rearranges the weights anew in each call. For thousands of tokens that is nothing;
for the sixteen tokens of a decoding step it is a large part of the time. A `Projection` keeps a copy that is arranged
already (oneDNN's, float32 and `bfloat16-mixed`), or at least one matrix for all layers that read the same input
(`int8`). Sums are float32 or exact integers, as in the layers that it stands for.

The copies take as much memory as the weights. A weight that is changed in place, as an optimizer does, is noticed by
its version, and copied again at the next pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_ROWS = 16
"""Tokens that the arrangement is made for; others can use it, too."""
_FEWEST = 3
"""Tokens from which on it pays; fewer are products with a vector, bound by reading the weights as they are."""


class Projection:
    """One or more linear layers that read the same input."""

    def __init__(self, *layers: torch.nn.Linear) -> None:
        """Copy nothing yet.

        Args:
            layers: `torch.nn.Linear`, all of one kind of numbers (`simgym.engine.numerics`).
        """
        self._layers = layers
        self._weights: Any = None
        self._scale: Any = None
        self._bias: Tensor | None = None
        self._state: list[tuple[int, int]] | None = None

    def clear(self) -> None:
        """Forget the copy; the next `refresh` makes it anew."""
        self._weights = self._scale = self._bias = self._state = None

    def refresh(self) -> None:
        """Copy the weights, if that has not been done or they have changed since."""
        state = [weight_version(layer.weight) for layer in self._layers]
        if state != self._state:
            self._copy()
            self._state = state

    def __call__(
        self, inputs: Tensor, *, activation: str = "none", times: Tensor | None = None, plus: Tensor | None = None
    ) -> Tensor:
        """The layers' outputs side by side, with at most one thing done to them.

        Args:
            inputs: Shape (T, width).
            activation: `none`, or `swish`.
            times: A factor of the shape of the result.
            plus: A summand of the shape of the result.
        """
        import torch

        if self._weights.dtype == torch.int8:
            return _after(self._int8(inputs), activation, times, plus)
        if len(inputs) < _FEWEST:
            outputs = [layer(inputs) for layer in self._layers]
            return _after(outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1), activation, times, plus)
        pointwise = torch.ops.mkldnn._linear_pointwise
        if self._weights.dtype == torch.bfloat16:  # what follows is float32
            product = pointwise(inputs.bfloat16(), self._weights, None, "none", [], "").to(inputs.dtype)
            return _after(product if self._bias is None else product.add_(self._bias), activation, times, plus)
        result: Tensor
        if times is not None:
            result = pointwise.binary(inputs, times, self._weights, self._bias, "mul")
        elif plus is not None:
            result = pointwise.binary(inputs, plus, self._weights, self._bias, "add")
        else:
            result = pointwise(inputs, self._weights, self._bias, activation, [], "")
        return result

    def _int8(self, inputs: Tensor) -> Tensor:
        """As `simgym.engine.numerics` does it layer by layer."""
        import torch

        scale = inputs.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        rounded = (inputs / scale).round_().to(torch.int8)
        product: Tensor = torch._int_mm(rounded, self._weights).to(inputs.dtype).mul_(scale).mul_(self._scale)
        return product if self._bias is None else product.add_(self._bias)

    def _copy(self) -> None:
        import torch

        weights = torch.cat([layer.weight.detach() for layer in self._layers])
        self._bias = _joined([layer.bias for layer in self._layers])
        if weights.dtype == torch.int8:
            self._weights = weights.t().contiguous()
            self._scale = torch.cat([layer.get_buffer("scale") for layer in self._layers])
        else:
            self._weights = torch.ops.mkldnn._reorder_linear_weight(weights, _ROWS)


def can_be_packed(layer: torch.nn.Module) -> bool:
    """Whether this torch and this processor can do it for a layer."""
    import torch

    if not isinstance(layer, torch.nn.Linear) or layer.weight.device.type != "cpu":
        return False
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not (available and torch.backends.mkldnn.enabled):
        return False
    dtype = layer.weight.dtype
    if dtype == torch.int8:
        return True
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def weight_version(weight: Tensor) -> tuple[int, int]:
    """Changes when a weight is written to or replaced; tensors of inference mode have no counter."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


def _joined(biases: list[Tensor | None]) -> Tensor | None:
    import torch

    present = [bias.detach() for bias in biases if bias is not None]
    return torch.cat(present) if present else None


def _after(product: Tensor, activation: str, times: Tensor | None, plus: Tensor | None) -> Tensor:
    import torch

    if activation == "swish":
        return torch.nn.functional.silu(product, inplace=True)
    if times is not None:
        return product.mul_(times)
    return product if plus is None else product.add_(plus)
