"""From logits to tokens: grammar, temperature, nucleus, and one uniform number per token and sequence.

Each sequence brings its own number in [0, 1) from a counter-based generator keyed by its seed, and the token is found
by inverting the cumulative distribution. So what a sequence draws depends on its logits and its seed, not on how many
others stand beside it. They meet in one batch only for the arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simgym.engine.grammar import Grammar
from simgym.engine.sequence import Sample, Sequence

if TYPE_CHECKING:
    from torch import Tensor

_NUCLEUS_TRY = 512
"""Most nuclei are smaller than this many tokens; sorting the whole vocabulary is kept for those that are not."""


class Sampler:
    """Draws the next token of every running sequence."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar

    def sample(self, logits: Tensor, sequences: list[Sequence]) -> list[Sample]:
        """One token for each of N sequences; `logits` of shape (N, V), -inf where a token does not exist."""
        allowed = self._grammar.mask(logits, [sequence.matcher for sequence in sequences])
        tokens = draw_tokens(allowed, sequences)
        logprobs = logits.float().log_softmax(-1)
        drawn = logprobs.gather(-1, tokens.to(logits.device)[:, None])[:, 0]
        return [
            Sample(token, logprob, tuple(row[list(sequence.choices)].tolist()) if sequence.choices else ())
            for sequence, token, logprob, row in zip(sequences, tokens.tolist(), drawn.tolist(), logprobs, strict=True)
        ]


def draw_tokens(logits: Tensor, sequences: list[Sequence]) -> Tensor:
    """One token for each of N sequences, and one number from the generator of each.

    Args:
        logits: float (N, V); -inf marks forbidden tokens.
        sequences: Their temperature, nucleus and generator.

    Returns:
        int64 (N,) on the CPU.
    """
    import torch

    uniforms = [float(sequence.rng.random()) for sequence in sequences]
    tokens = logits.argmax(dim=-1).cpu()
    drawn = [row for row, sequence in enumerate(sequences) if sequence.temperature > 0]
    if not drawn:
        return tokens
    rows = torch.tensor(drawn, device=logits.device)
    temperatures = torch.tensor([sequences[row].temperature for row in drawn], device=logits.device)
    scaled = (logits[rows].float() / temperatures[:, None]).cpu()
    for position, row in enumerate(drawn):
        tokens[row] = _draw_token(scaled[position], sequences[row].top_p, uniforms[row])
    return tokens


def _draw_token(logits: Tensor, top_p: float, uniform: float) -> int:
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
