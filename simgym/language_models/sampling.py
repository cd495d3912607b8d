"""From logits to tokens: temperature, nucleus and one uniform number per token and row.

Each row brings its own number in [0, 1) from a counter-based generator keyed by its request's seed, and the token is
found by inverting the row's cumulative distribution. So what a row draws depends on its logits and its seed, not on
how many rows stand beside it. Rows meet in one batch only for the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from simgym.language_models.base import Sampling

if TYPE_CHECKING:
    from torch import Tensor

_NUCLEUS_TRY = 512
"""Most nuclei are smaller than this many tokens; sorting the whole vocabulary is kept for those that are not."""


def draw_tokens(logits: Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> Tensor:
    """One token for each of B rows.

    Args:
        logits: float [B, V]; -inf marks forbidden tokens.
        samplings: B settings.
        uniforms: B numbers in [0, 1).

    Returns:
        int64 [B] on the CPU.
    """
    import torch

    tokens = logits.argmax(dim=-1).cpu()
    drawn = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if not drawn:
        return tokens
    rows = torch.tensor(drawn, device=logits.device)
    temperatures = torch.tensor([samplings[row].temperature for row in drawn], device=logits.device)
    scaled = (logits[rows].float() / temperatures[:, None]).cpu()
    for position, row in enumerate(drawn):
        tokens[row] = _draw_one(scaled[position], samplings[row].top_p, uniforms[row])
    return tokens


def _draw_one(logits: Tensor, top_p: float, uniform: float) -> int:
    import torch

    probabilities = torch.softmax(logits.double(), dim=-1)
    if top_p >= 1:
        return _invert(probabilities.cumsum(-1), uniform)
    ranked, tokens = probabilities.topk(min(_NUCLEUS_TRY, probabilities.numel()))
    if ranked.sum() < top_p:
        ranked, tokens = probabilities.sort(descending=True)
    cumulative = ranked.cumsum(-1)
    size = int((cumulative < top_p).sum()) + 1
    return int(tokens[_invert(cumulative[:size], uniform)])


def _invert(cumulative: Tensor, uniform: float) -> int:
    import torch

    target = torch.tensor(uniform, dtype=cumulative.dtype) * cumulative[-1]
    return min(int(torch.searchsorted(cumulative, target, right=True)), cumulative.numel() - 1)
