"""The batched decoding loop: N token prompts in, N token lists out, over one forward pass per step.

Prompts are left-padded. A prefix that all prompts of the batch share (system prompt, guideline, rubric) is read once
and its keys and values repeated. A row that ends leaves the batch together with its cache, so that a long reply does
not pay for the short ones that stood beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from simgym.language_models.base import FinishReason, Sampling
from simgym.language_models.sampling import draw_tokens
from simgym.seeding import generator

if TYPE_CHECKING:
    from torch import Tensor

_SHORTEST_SHARED_PREFIX = 16
"""Tokens; below this, repeating the cache costs more than reading the prefix again."""


@dataclass(slots=True)
class Row:
    """One request on its way through the loop."""

    prompt: list[int]
    """Token ids of the prompt, at least one."""
    sampling: Sampling
    """How to draw."""
    seed: int
    """Keys the row's random numbers."""
    adapter: str
    """Adapter name as PEFT expects it; `__base__` for none."""
    matcher: Any | None = None
    """JSON grammar matcher, or None."""
    tokens: list[int] = field(default_factory=list)
    """Sampled so far."""
    logprobs: list[float] = field(default_factory=list)
    """Of the sampled tokens, under the unconstrained model at temperature 1."""
    finish_reason: FinishReason | None = None
    """None while the row is running."""
    uniforms: np.random.Generator = field(init=False)
    """Source of one number per token."""

    def __post_init__(self) -> None:
        self.uniforms = generator(self.seed)


def decode(
    forward: Callable[..., Any],
    rows: Sequence[Row],
    *,
    device: Any,
    pad_token: int,
    stop_tokens: frozenset[int],
    text_of: Callable[[list[int]], str],
    mask: Callable[[Tensor, Sequence[Any | None]], Tensor] | None = None,
) -> None:
    """Run all rows to their end; results are left in the rows.

    Args:
        forward: The model's forward call, taking also `adapter_names` (one per row).
        rows: B rows.
        device: Where the model lives.
        pad_token: Any token id; padded positions are masked out.
        stop_tokens: Tokens that end a row; they are kept in `tokens`.
        text_of: Decodes token ids, to look for stop texts.
        mask: Applies grammar matchers to the logits.
    """
    import torch

    running = list(rows)
    with torch.inference_mode():
        logits, cache, attention, position = _prefill(forward, running, device, pad_token)
        while running:
            raw = logits
            allowed = mask(raw, [row.matcher for row in running]) if mask else raw
            tokens = draw_tokens(
                allowed, [row.sampling for row in running], [float(row.uniforms.random()) for row in running]
            )
            chosen = raw.float().log_softmax(-1).gather(-1, tokens.to(raw.device)[:, None])[:, 0].cpu()
            for row, token, logprob in zip(running, tokens.tolist(), chosen.tolist(), strict=True):
                _advance(row, token, logprob, stop_tokens, text_of)
            keep = [index for index, row in enumerate(running) if row.finish_reason is None]
            running = [running[index] for index in keep]
            if not running:
                return
            if len(keep) < len(tokens):
                kept = torch.tensor(keep, device=device)
                cache.batch_select_indices(kept)
                attention, position, tokens = attention[kept], position[kept], tokens[keep]
            attention = torch.cat([attention, attention.new_ones(len(keep), 1)], dim=1)
            position = position + 1
            logits = forward(
                input_ids=tokens.to(device)[:, None],
                attention_mask=attention,
                position_ids=position[:, None],
                past_key_values=cache,
                use_cache=True,
                adapter_names=[row.adapter for row in running],
            ).logits[:, -1]


def _prefill(forward: Callable[..., Any], rows: list[Row], device: Any, pad_token: int) -> tuple[Any, Any, Any, Any]:
    """Read all prompts: logits of the next token [B, V], cache, attention mask [B, L], last positions [B]."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    shared = shared_prefix([row.prompt for row in rows], [row.adapter for row in rows])
    if shared:
        prefix = torch.tensor([rows[0].prompt[:shared]], device=device)
        forward(
            input_ids=prefix,
            attention_mask=torch.ones_like(prefix),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            adapter_names=[rows[0].adapter],
        )
        cache.batch_repeat_interleave(len(rows))
    rests = [row.prompt[shared:] for row in rows]
    longest = max(map(len, rests))
    padded = [[pad_token] * (longest - len(rest)) + rest for rest in rests]
    mask = [[1] * shared + [0] * (longest - len(rest)) + [1] * len(rest) for rest in rests]
    attention = torch.tensor(mask, device=device)
    positions = (attention.cumsum(-1) - 1).clamp(min=0)
    logits = forward(
        input_ids=torch.tensor(padded, device=device),
        attention_mask=attention,
        position_ids=positions[:, shared:],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        adapter_names=[row.adapter for row in rows],
    ).logits[:, -1]
    return logits, cache, attention, positions[:, -1]


def shared_prefix(prompts: Sequence[list[int]], adapters: Sequence[str]) -> int:
    """How many leading tokens can be read once for all rows: equal tokens, equal adapter, one token left over."""
    if len(prompts) < 2 or len(set(adapters)) > 1:
        return 0
    first, last = min(prompts), max(prompts)  # what these two share, all share
    common = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    length = min(common, min(map(len, prompts)) - 1)
    return length if length >= _SHORTEST_SHARED_PREFIX else 0


def _advance(
    row: Row, token: int, logprob: float, stop_tokens: frozenset[int], text_of: Callable[[list[int]], str]
) -> None:
    row.tokens.append(token)
    row.logprobs.append(logprob)
    if row.matcher is not None:
        row.matcher.accept_token(token)
    ended = token in stop_tokens or (row.matcher is not None and row.matcher.is_terminated())
    if ended or (row.sampling.stop and any(stop in text_of(row.tokens) for stop in row.sampling.stop)):
        row.finish_reason = "stop"
    elif len(row.tokens) >= row.sampling.max_new_tokens:
        row.finish_reason = "length"
