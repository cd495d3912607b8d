"""Keys and values in blocks of 32 tokens, as OpenVINO's attention reads them; see `openvino_decoder`.

The slots are those of `KVCache`, one for each running sequence, filled from the left; only the order in memory is
another: the heads of a block stand side by side, then comes the next block. A slot's blocks follow each other, so that
there is no table of free blocks to keep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simgym.engine.kv_cache import Block, KVCache

if TYPE_CHECKING:
    from torch import Tensor, device

BLOCK = 32
"""Tokens of a block; OpenVINO's choice on CPUs."""


class PagedKVCache(KVCache):
    """Memory of S slots of C columns in blocks, for one model on a CPU in float32."""

    def __init__(self, device: device, *, max_bytes: int, layers: int, heads: int, size: int) -> None:
        """Allocate nothing yet.

        Args:
            device: Where the model is.
            max_bytes: Of all slots together.
            layers: Layers of the model.
            heads: Heads of keys and values in each.
            size: Numbers of a head.
        """
        super().__init__(device, max_bytes=max_bytes, token_bytes=8 * layers * heads * size)
        self._shape = 2, layers, heads, size
        self._blocks: Tensor | None = None  # (2, layers, S, C / 32, heads, 32, size)

    @property
    def blocks_a_slot(self) -> int:
        """How many blocks a slot has; block `b` of slot `s` is number `s * blocks_a_slot + b`."""
        return self.num_columns // BLOCK

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer, shape (S * C / 32, heads, 32, size) each; valid until `allocation` changes."""
        assert self._blocks is not None
        keys, values = self._blocks.flatten(2, 3)
        return list(zip(keys, values, strict=True))

    def free(self) -> None:
        """Give the memory back."""
        super().free()
        self._blocks = None

    def write(self, slot: int, start: int, block: Block) -> None:
        """Put keys and values that are known already into a slot, from column `start` on."""
        known = block[0]  # (2, layers, heads, tokens, size)
        for number, first, end in _parts(start, start + known.shape[-2]):
            self._slot(slot)[:, :, number, :, first:end] = known[
                ..., number * BLOCK + first - start : number * BLOCK + end - start, :
            ]

    def read(self, slot: int, start: int, end: int) -> Block:
        """A copy of a slot's columns, shape (2, layers, heads, tokens, size)."""
        first, last = start // BLOCK, -(-end // BLOCK)
        columns = self._slot(slot)[:, :, first:last].transpose(2, 3).flatten(3, 4)
        return [columns[..., start - first * BLOCK : end - first * BLOCK, :].clone()]

    def remove(self, slot: int) -> None:
        """Free a slot; the last one in use takes its place."""
        last = len(self.lengths) - 1
        if slot != last:
            self.lengths[slot] = self.lengths[last]
            used = -(-self.lengths[last] // BLOCK)
            self._slot(slot)[:, :, :used] = self._slot(last)[:, :, :used]
        self.lengths.pop()

    def _slot(self, slot: int) -> Tensor:
        """Blocks of a slot, shape (2, layers, C / 32, heads, 32, size)."""
        assert self._blocks is not None
        return self._blocks[:, :, slot]

    def _join(self) -> None:
        """All layers are known from the start."""

    def _allocate(self) -> None:
        import torch

        self.allocation += 1
        self.num_columns = self.num_columns // BLOCK * BLOCK  # the slack is more than a block
        sides, layers, heads, size = self._shape
        old, used = self._blocks, len(self.lengths)
        shape = sides, layers, self.num_slots, self.num_columns // BLOCK, heads, BLOCK, size
        self._blocks = torch.zeros(shape)  # for what is masked must still be a number
        if old is not None and used:
            longest = -(-max(self.lengths) // BLOCK)
            self._blocks[:, :, :used, :longest] = old[:, :, :used, :longest]


def _parts(start: int, end: int) -> list[tuple[int, int, int]]:
    """Blocks that hold columns `start` to `end`, and which of their own columns these are."""
    numbers = range(start // BLOCK, -(-end // BLOCK))
    return [(number, max(start - number * BLOCK, 0), min(end - number * BLOCK, BLOCK)) for number in numbers]
