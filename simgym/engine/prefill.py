"""Which parts of which prompts are prefilled in which forward pass.

What the prefix cache knows of a prompt is copied. What prompts of one batch share beyond that (a system prompt, a
rubric, the history of a fork) is prefilled once. The rest is prefilled prompt by prompt, those of similar length
together.
"""

from __future__ import annotations

from dataclasses import dataclass

from simgym.engine.config import EngineConfig
from simgym.engine.prefix_cache import PrefixCache, shared_length
from simgym.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a prompt that is prefilled in one pass."""

    sequence: Sequence
    """Whose prompt."""
    start: int
    """Its first token."""
    end: int
    """The token behind its last."""

    @property
    def length(self) -> int:
        """Tokens."""
        return self.end - self.start


def unmatched(sequences: list[Sequence], prefix_cache: PrefixCache) -> list[Chunk]:
    """What is left of each prompt behind its match; its last token always is, for its logits are wanted."""
    return [
        Chunk(sequence, prefix_cache.match(sequence.adapter, sequence.prompt[:-1]).length, len(sequence.prompt))
        for sequence in sequences
    ]


def shared_prefixes(sequences: list[Sequence], prefix_cache: PrefixCache, config: EngineConfig) -> list[Chunk]:
    """What two or more prompts share beyond what is known; one chunk for each group that begins alike."""
    groups: dict[tuple[str | None, tuple[int, ...]], list[Chunk]] = {}
    for chunk in unmatched(sequences, prefix_cache):
        long_enough = chunk.start + config.min_shared_prefix
        if long_enough < chunk.end:
            beginning = tuple(chunk.sequence.prompt[:long_enough])
            groups.setdefault((chunk.sequence.adapter, beginning), []).append(chunk)
    shared, saved = [], 0
    for group in groups.values():
        if len(group) > 1:
            # what the first and the last in order share, all share
            prompts = sorted(chunk.sequence.prompt for chunk in group)
            end = min(shared_length(prompts[0], prompts[-1]), min(map(len, prompts)) - 1)
            shared.append(Chunk(group[0].sequence, group[0].start, end))
            saved += (len(group) - 1) * shared[-1].length
    return shared if saved >= (config.min_saved_tokens or 0) else []


def passes(chunks: list[Chunk], config: EngineConfig) -> list[list[Chunk]]:
    """Chunks of similar length together: padding is work for nothing."""
    batches: list[list[Chunk]] = []
    tokens = 0
    for chunk in sorted(chunks, key=lambda chunk: chunk.length):
        padded = (len(batches[-1]) + 1) * chunk.length if batches else 0
        tight = padded <= config.max_padding * (tokens + chunk.length) + (config.free_padding or 0)
        if batches and padded <= (config.max_pass_tokens or padded) and tight:
            batches[-1].append(chunk)
            tokens += chunk.length
        else:
            batches.append([chunk])
            tokens = chunk.length
    return batches
