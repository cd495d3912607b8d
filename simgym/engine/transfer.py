"""Small numbers on their way to the device, without waiting for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def to_device(values: list[Any], device: Any, dtype: Any = None) -> Tensor:
    """Numbers (or lists of them) as a tensor; a copy to a GPU is queued behind the work that it has."""
    import torch

    if torch.device(device).type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(device, non_blocking=True)
