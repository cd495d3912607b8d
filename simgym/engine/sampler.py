"""The next token of every running sequence, drawn so that it depends on nothing but logits, settings, seed and token
number.

Each sequence brings its own number in [0, 1) from a counter-based generator keyed by its seed, and the token is found
by inverting the cumulative distribution. So what a sequence draws depends on its logits and its seed, not on how many
others stand beside it. They meet in one batch only for the arithmetic.

On a CPU, sequence by sequence is fastest. On other devices all are drawn in one call there: only settings and uniform
numbers go up, and only tokens and their log-probabilities come down, once a step. Both ways find the same token; those
of equal probability, which lower precision makes common, are ranked by their ids, so that the batch has no part in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simgym.engine.grammar import Grammar
from simgym.engine.sequence import Sample, Sequence
from simgym.engine.transfer import to_device

if TYPE_CHECKING:
    from torch import Tensor

_NUCLEUS_TRY = 512
"""Most nuclei are smaller than this many tokens; sorting the whole vocabulary is kept for those that are not."""
_MOST_NUMBERS = 2**25
"""Probabilities, in float64, of which a device makes a few copies at a time."""


class Sampler:
    """Draws the next token of every running sequence."""

    def __init__(self, grammar: Grammar, *, on_device: bool) -> None:
        """Draw on the device that the logits are on, or sequence by sequence on the CPU."""
        self._grammar = grammar
        self._on_device = on_device

    def sample(self, logits: Tensor, sequences: list[Sequence]) -> list[Sample]:
        """One token for each of N sequences; `logits` of shape (N, V), -inf where a token does not exist."""
        import torch

        allowed = self._grammar.mask(logits, [sequence.matcher for sequence in sequences])
        draw = draw_on_device if self._on_device else draw_one_by_one
        tokens = draw(allowed, sequences).to(logits.device)
        logprobs = logits.float().log_softmax(-1)
        drawn = logprobs.gather(-1, tokens[:, None])[:, 0]
        # a token id is exact in float64, so that both come down in one copy
        token_ids, values = torch.stack([tokens.double(), drawn.double()]).tolist()
        choices = _choice_logprobs(logprobs, sequences)
        return [
            Sample(int(token), logprob, chosen)
            for token, logprob, chosen in zip(token_ids, values, choices, strict=True)
        ]


def draw_one_by_one(logits: Tensor, sequences: list[Sequence]) -> Tensor:
    """One token for each of N sequences, and one number from the generator of each.

    Args:
        logits: float (N, V); -inf marks forbidden tokens.
        sequences: Their temperature, nucleus and generator.

    Returns:
        int64 (N,) on the CPU.
    """
    import torch

    uniforms = [float(sequence.rng.random()) for sequence in sequences]
    tokens = torch.empty(len(sequences), dtype=torch.int64)
    greedy = [row for row, sequence in enumerate(sequences) if sequence.temperature == 0]
    if greedy:
        rows = logits if len(greedy) == len(sequences) else logits[greedy]
        tokens[greedy] = torch.from_numpy(rows.float().cpu().numpy().argmax(-1))  # ten times as fast as torch's
    drawn = [row for row, sequence in enumerate(sequences) if sequence.temperature > 0]
    if drawn:
        temperatures = torch.tensor([sequences[row].temperature for row in drawn], device=logits.device)
        scaled = (logits[drawn].float() / temperatures[:, None]).cpu()
        for position, row in enumerate(drawn):
            tokens[row] = _draw_token(scaled[position], sequences[row].top_p, uniforms[row])
    return tokens


def draw_on_device(logits: Tensor, sequences: list[Sequence]) -> Tensor:
    """The same in one call on the device of the logits; int64 (N,) there."""
    import torch

    uniforms = [float(sequence.rng.random()) for sequence in sequences]
    kinds: dict[str, list[int]] = {"greedy": [], "plain": [], "nucleus": []}
    for row, sequence in enumerate(sequences):
        kinds[_kind(sequence)].append(row)
    tokens = torch.empty(len(sequences), dtype=torch.int64, device=logits.device)
    size = max(1, _MOST_NUMBERS // logits.shape[-1])
    for kind, rows in kinds.items():
        for part in (rows[first : first + size] for first in range(0, len(rows), size)):
            index = slice(None) if len(part) == len(sequences) else to_device(part, logits.device)
            if kind == "greedy":
                tokens[index] = logits[index].argmax(-1)
                continue
            settings = [(sequences[row].temperature, sequences[row].top_p, uniforms[row]) for row in part]
            temperature, top_p, uniform = to_device(settings, logits.device, torch.float64).unbind(-1)
            scaled = logits[index].float() / temperature.float()[:, None]
            probabilities = torch.softmax(scaled, dim=-1, dtype=torch.float64)
            if kind == "plain":
                tokens[index] = _draw_from_all(probabilities, uniform)
            else:
                tokens[index] = _draw_from_nuclei(scaled, probabilities, top_p, uniform)
    return tokens


def _kind(sequence: Sequence) -> str:
    if sequence.temperature == 0:
        return "greedy"
    return "nucleus" if sequence.top_p < 1 else "plain"


def _draw_from_nuclei(scaled: Tensor, probabilities: Tensor, top_p: Tensor, uniforms: Tensor) -> Tensor:
    """A token of each row's nucleus; the vocabulary is sorted for the rows whose nucleus may be wide.

    Tokens are ranked by their float32 logits, which is half the work and the same order.
    """
    import torch

    width = min(_NUCLEUS_TRY, probabilities.shape[-1])
    tokens = scaled.topk(width, dim=-1).indices
    ranked, tokens = _ranked(probabilities.gather(-1, tokens), tokens)
    drawn = _draw_from_ranked(ranked, tokens, top_p, uniforms)
    if width == probabilities.shape[-1]:
        return drawn
    # of tokens as probable as the last one, others may be out of sight
    surely_ranked = torch.where(ranked > ranked[:, -1:], ranked, 0.0).sum(-1)
    wide = (surely_ranked < top_p).nonzero()[:, 0]
    if len(wide):
        tokens = scaled[wide].sort(dim=-1, descending=True, stable=True).indices
        ranked = probabilities[wide].gather(-1, tokens)
        drawn[wide] = _draw_from_ranked(ranked, tokens, top_p[wide], uniforms[wide])
    return drawn


def _ranked(probabilities: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """In falling order, tokens of equal probability by their ids."""
    tokens, order = tokens.sort(dim=-1)
    ranked, order = probabilities.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return ranked, tokens.gather(-1, order)


def _draw_from_ranked(ranked: Tensor, tokens: Tensor, top_p: Tensor, uniforms: Tensor) -> Tensor:
    cumulative = ranked.cumsum(-1)
    last = (cumulative < top_p[:, None]).sum(-1, keepdim=True).clamp(max=ranked.shape[-1] - 1)
    target = uniforms[:, None] * cumulative.gather(-1, last)
    position = (cumulative <= target).sum(-1, keepdim=True)
    return tokens.gather(-1, position.minimum(last))[:, 0]


def _draw_from_all(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """A token of each row's whole distribution."""
    import torch

    cumulative = probabilities.cumsum(-1)
    target = uniforms[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=cumulative.shape[-1] - 1)


def _choice_logprobs(logprobs: Tensor, sequences: list[Sequence]) -> list[tuple[float, ...]]:
    """Log-probabilities of the choices of sequences at their first token, in one copy; empty for others."""
    asking = [
        (row, token) for row, sequence in enumerate(sequences) if not sequence.token_ids for token in sequence.choices
    ]
    chosen: list[tuple[float, ...]] = [()] * len(sequences)
    if not asking:
        return chosen
    rows, tokens = to_device(asking, logprobs.device).unbind(-1)
    for (row, _), value in zip(asking, logprobs[rows, tokens].tolist(), strict=True):
        chosen[row] = (*chosen[row], value)
    return chosen


def _draw_token(logits: Tensor, top_p: float, uniform: float) -> int:
    import torch

    probabilities = torch.softmax(logits.double(), dim=-1)
    if top_p >= 1:
        return _invert(probabilities.cumsum(-1), uniform)
    # what is less likely than this adds up to less than what the nucleus leaves out
    tokens = (probabilities >= (1 - top_p) / (2 * probabilities.numel())).nonzero()[:, 0]
    ranked, order = probabilities[tokens].sort(descending=True, stable=True)
    cumulative = ranked.cumsum(-1)
    size = int((cumulative < top_p).sum()) + 1
    return int(tokens[order[_invert(cumulative[:size], uniform)]])


def _invert(cumulative: Tensor, uniform: float) -> int:
    import torch

    target = torch.tensor(uniform, dtype=cumulative.dtype) * cumulative[-1]
    return min(int(torch.searchsorted(cumulative, target, right=True)), cumulative.numel() - 1)
