"""Keys and values of the running sequences: one slot each, filled from the left, written in place.

transformers' caches append to all rows at once, which copies everything at each token and pads what is ragged. Here
every slot has its own length: a token is written where its sequence ends, attention masks what lies behind that end,
and a sequence that starts or finishes touches no other. It is handed to a model's forward call as `past_key_values`;
which slots and columns the call writes is set beforehand by `prepare`.

The memory is a rectangle of slots and columns, the longest sequence times the number of sequences. `fits` tells the
scheduler whether a rectangle stays within `max_bytes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Layers = list[tuple["Tensor", "Tensor"]]
"""Keys and values of every layer, each of shape (heads, tokens, head size)."""
_SLACK = 64
"""Columns by which the memory grows beyond what is asked for."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What a model has to be told about N slots that get up to Q new tokens each."""

    position_ids: Tensor
    """Shape (N, Q): where in its sequence each token stands."""
    visible: Tensor
    """Shape (N, 1, Q, C): True where a token may look."""


class KVCache:
    """Memory of S slots of C columns; what transformers calls a cache."""

    is_compileable = False
    is_sliding: tuple[bool, ...] = ()

    def __init__(self, device: Any, *, max_bytes: int, token_bytes: int) -> None:
        """Allocate nothing yet.

        Args:
            device: Where the model is.
            max_bytes: Of all slots together.
            token_bytes: Of one token in all layers, as the model's configuration suggests; corrected by the first
                forward pass.
        """
        self.device = device
        self.max_bytes = max_bytes
        self.token_bytes = token_bytes
        self.lengths: list[int] = []
        """Tokens in each slot that is in use, slots 0, 1, ... in order."""
        self.num_slots = self.num_columns = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._first = 0
        self._rows: Any = None
        self._columns: Any = None
        self._visible = 0

    def fits(self, slots: int, columns: int) -> bool:
        """Whether so many sequences of so many tokens stay within `max_bytes`."""
        return slots * _with_slack(columns) * self.token_bytes <= self.max_bytes

    def reserve(self, slots: int, columns: int) -> None:
        """Make room; the last column is where padding is written, and is never read."""
        import torch

        if not self.lengths and slots * columns < self.num_slots * self.num_columns // 4:
            self.free()  # one long prompt shall not cost its length times the widest batch for ever
        if slots <= self.num_slots and columns < self.num_columns:
            return
        grown = max(slots, self.num_slots), max(_with_slack(columns), self.num_columns)
        if grown[0] * grown[1] * self.token_bytes > self.max_bytes:
            grown = slots, _with_slack(columns)  # what earlier sequences needed is no longer needed
        self.num_slots, self.num_columns = grown
        kept, longest = len(self.lengths), max(self.lengths, default=0)
        for layer, pair in self._layers.items():
            larger = []
            for old in pair:
                # zeros, for what is masked must still be a number
                shape = (self.num_slots, old.shape[1], self.num_columns, old.shape[3])
                new = torch.zeros(shape, dtype=old.dtype, device=old.device)
                new[:kept, :, :longest] = old[:kept, :, :longest]
                larger.append(new)
            self._layers[layer] = (larger[0], larger[1])

    def free(self) -> None:
        """Give the memory back."""
        self.lengths, self._layers, self.num_slots, self.num_columns = [], {}, 0, 0

    def prepare(self, first: int, new_N: list[int]) -> Placement:
        """Direct the next forward call to N slots from `first` on, of which each gets so many more tokens.

        Inputs of the call are padded on the left to the largest number.
        """
        import torch

        old_N = self.lengths[first : first + len(new_N)]
        self._first, self._visible = first, max(old + new for old, new in zip(old_N, new_N, strict=True))
        old = torch.tensor(old_N, device=self.device)
        new = torch.tensor(new_N, device=self.device)
        width = max(new_N)
        position = old[:, None] + torch.arange(width, device=self.device)[None] - (width - new)[:, None]
        real = position >= old[:, None]
        self._rows = torch.arange(first, first + len(new_N), device=self.device)[:, None].expand_as(position)
        self._columns = torch.where(real, position, self.num_columns - 1)
        position = position.clamp(min=0)
        columns = torch.arange(self._visible, device=self.device)
        for slot, count in enumerate(new_N, first):
            self.lengths[slot] += count
        return Placement(position, columns <= position[:, None, :, None])

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write new keys and values, of shape (N, heads, Q, head size); all of these slots come back."""
        pair = self._layers.get(layer_idx) or self._allocate(layer_idx, keys, values)
        for memory, new in zip(pair, (keys, values), strict=True):
            memory[self._rows, :, self._columns] = new.transpose(1, 2)
        slots = slice(self._first, self._first + len(keys))
        return pair[0][slots, :, : self._visible], pair[1][slots, :, : self._visible]

    def write(self, slot: int, start: int, layers: Layers) -> None:
        """Put keys and values that are known already into a slot, from column `start` on."""
        for layer, (keys, values) in enumerate(layers):
            pair = self._layers.get(layer) or self._allocate(layer, keys[None], values[None])
            pair[0][slot, :, start : start + keys.shape[1]] = keys
            pair[1][slot, :, start : start + values.shape[1]] = values

    def read(self, slot: int, start: int, end: int) -> Layers:
        """A copy of a slot's columns."""
        return [
            (keys[slot, :, start:end].clone(), values[slot, :, start:end].clone())
            for keys, values in (self._layers[layer] for layer in range(len(self._layers)))
        ]

    def remove(self, slot: int) -> None:
        """Free a slot; the last one in use takes its place."""
        last = len(self.lengths) - 1
        if slot != last:
            length = self.lengths[slot] = self.lengths[last]
            for pair in self._layers.values():
                for memory in pair:
                    memory[slot, :, :length] = memory[last, :, :length]
        self.lengths.pop()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """What models ask for to place new tokens; they are told positions instead."""
        return self._visible

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """For models that ask although the mask is given."""
        return self._visible, 0

    def _allocate(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        pair = [
            torch.zeros(
                (self.num_slots, like.shape[1], self.num_columns, like.shape[3]), dtype=like.dtype, device=like.device
            )
            for like in (keys, values)
        ]
        self._layers[layer] = (pair[0], pair[1])
        allocated = sum(tensor.numel() * tensor.element_size() for known in self._layers.values() for tensor in known)
        self.token_bytes = max(self.token_bytes, allocated // (self.num_slots * self.num_columns))
        return self._layers[layer]


def _with_slack(columns: int) -> int:
    return columns + 1 + _SLACK
