"""Keys and values of the running sequences: one slot each, filled from the left, written in place.

transformers' caches append to all rows at once, which copies everything at each token and pads what is ragged. Here
every slot has its own length: a token is written where its sequence ends, attention masks what lies behind that end,
and a sequence that starts or finishes touches no other. It is handed to a model's forward call in the place of such a
cache; which slots and columns the call writes is set beforehand by `prepare`, or by `direct` for a recorded pass.

The memory is a rectangle of slots and columns, the longest sequence times the number of sequences. `fits` tells the
scheduler whether a rectangle stays within `max_bytes`. Neighbouring layers whose keys and values have one shape share a
tensor, so that what the prefix cache knows goes in, and what it is to keep comes out, in a few copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simgym.engine.transfer import to_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Block = list["Tensor"]
"""Keys and values of consecutive tokens in every layer: tensors of shape (K, heads, tokens, head size), each with the
keys and values of several layers, K together."""
_Member = tuple[int, int]
"""A layer, and 0 for its keys or 1 for its values."""
_JOINED = 8
"""Layers that share a tensor; when the memory grows, so many are in memory twice."""
_SLACK = 64
"""Columns by which the memory grows beyond what is asked for."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What a model has to be told about N slots that get up to Q new tokens each."""

    position_ids: Tensor
    """Shape (N, Q): where in its sequence each token stands."""
    visible: Tensor
    """Shape (N, 1, Q, C): True where a token may look."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """Which keys and values share a tensor."""

    heads: int
    size: int
    dtype: torch.dtype
    device: torch.device


class KVCache:
    """Memory of S slots of C columns; what transformers calls a cache."""

    is_compileable = False
    is_sliding: tuple[bool, ...] = ()

    def __init__(self, device: torch.device, *, max_bytes: int, token_bytes: int, for_gpu: bool = False) -> None:
        """Allocate nothing yet.

        Args:
            device: Where the model is.
            max_bytes: Of all slots together.
            token_bytes: Of one token in all layers, as the model's configuration suggests; corrected by the first
                forward pass.
            for_gpu: Grow in large steps where there is room, so that the memory seldom moves; and let the heads of a
                token stand side by side in memory, as flash attention wants them, instead of the tokens of a head.
        """
        self.device = device
        self.max_bytes = max_bytes
        self.token_bytes = token_bytes
        self._for_gpu = for_gpu
        self.lengths: list[int] = []
        """Tokens in each slot that is in use, slots 0, 1, ... in order."""
        self.num_slots = self.num_columns = 0
        self.allocation = 0
        """Incremented when the memory moves, which recorded passes do not survive."""
        self._kinds: dict[_Member, _Kind] = {}  # as the first pass shows them
        self._memory: Block = []  # (K, S, heads, C, size) each
        self._members: list[list[_Member]] = []  # what each of these tensors holds
        self._layers: dict[_Member, Tensor] = {}  # views of them, (S, heads, C, size) each
        self._first = 0
        self._targets: dict[
            torch.device, tuple[Tensor, ...]
        ] = {}  # rows and columns of the next call's tokens, by device
        self._visible = 0

    def fits(self, slots: int, columns: int) -> bool:
        """Whether so many sequences of so many tokens stay within `max_bytes`."""
        return slots * _with_slack(columns) * self.token_bytes <= self.max_bytes

    def reserve(self, slots: int, columns: int) -> None:
        """Make room; the last column is where padding is written, and is never read."""
        if not self.lengths and slots * columns < self.num_slots * self.num_columns // 4:
            self.free()  # one long prompt shall not cost its length times the widest batch for ever
        if slots <= self.num_slots and columns < self.num_columns:
            self._join()
            return
        wanted = rounded_up(_with_slack(columns), 256) if self._for_gpu else _with_slack(columns)
        grown = max(slots, self.num_slots), max(wanted, self.num_columns)
        if grown[0] * grown[1] * self.token_bytes > self.max_bytes:
            grown = slots, _with_slack(columns)  # what earlier sequences needed is no longer needed
        self.num_slots, self.num_columns = grown
        self._allocate()

    def free(self) -> None:
        """Give the memory back."""
        self.lengths, self._memory, self._members, self._layers = [], [], [], {}
        self.num_slots = self.num_columns = 0
        self.allocation += 1

    def prepare(self, first: int, new_N: list[int]) -> Placement:
        """Direct the next forward call to N slots from `first` on, of which each gets so many more tokens.

        Inputs of the call are padded on the left to the largest number.
        """
        import torch

        old_N = self.lengths[first : first + len(new_N)]
        self._first, self._visible = first, max(old + new for old, new in zip(old_N, new_N, strict=True))
        if self._for_gpu:  # masks of such sizes are used as they are, others are copied in every layer
            self._visible = min(-(-self._visible // 16) * 16, self.num_columns)
        old, new = to_device([old_N, new_N], self.device)
        width = max(new_N)
        position = old[:, None] + torch.arange(width, device=self.device)[None] - (width - new)[:, None]
        columns = torch.where(position >= old[:, None], position, self.num_columns - 1)
        self.grow(first, new_N)
        return self._place(position.clamp(min=0), columns)

    def direct(self, positions: Tensor, columns: Tensor, visible: int) -> Placement:
        """Direct a forward call to the first N slots, one new token each, by tensors alone.

        Args:
            positions: Shape (N,), where each token stands.
            columns: Shape (N,), where it is written.
            visible: Columns that the call may look at.
        """
        self._first, self._visible = 0, visible
        return self._place(positions[:, None], columns[:, None])

    def grow(self, first: int, new_N: list[int]) -> None:
        """Count tokens that a forward call writes."""
        for slot, count in enumerate(new_N, first):
            self.lengths[slot] += count

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values, of shape (N, heads, Q, head size); all of these slots come back."""
        if (layer_idx, 0) not in self._layers:
            self._first_seen(layer_idx, keys, values)
        pair = self._layers[layer_idx, 0], self._layers[layer_idx, 1]
        if keys.device not in self._targets:  # a model may lie on several devices
            self._targets[keys.device] = tuple(index.to(keys.device) for index in self._targets[self.device])
        rows, columns = self._targets[keys.device]
        for memory, new in zip(pair, (keys, values), strict=True):
            memory[rows, :, columns] = new.transpose(1, 2)
        slots = slice(self._first, self._first + len(keys))
        return pair[0][slots, :, : self._visible], pair[1][slots, :, : self._visible]

    def write(self, slot: int, start: int, block: Block) -> None:
        """Put keys and values that are known already into a slot, from column `start` on."""
        self._join()
        for memory, known in zip(self._memory, block, strict=True):
            memory[:, slot, :, start : start + known.shape[-2]] = known

    def read(self, slot: int, start: int, end: int) -> Block:
        """A copy of a slot's columns."""
        self._join()
        return [memory[:, slot, :, start:end].clone() for memory in self._memory]

    def remove(self, slot: int) -> None:
        """Free a slot; the last one in use takes its place."""
        self._join()
        last = len(self.lengths) - 1
        if slot != last:
            length = self.lengths[slot] = self.lengths[last]
            for memory in self._memory:
                memory[:, slot, :, :length] = memory[:, last, :, :length]
        self.lengths.pop()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """What models ask for to place new tokens; they are told positions instead."""
        return self._visible

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """For models that ask although the mask is given."""
        return self._visible, 0

    def _place(self, positions: Tensor, columns: Tensor) -> Placement:
        import torch

        rows = torch.arange(self._first, self._first + len(positions), device=self.device)
        self._targets = {self.device: (rows[:, None].expand_as(positions), columns)}
        visible = torch.arange(self._visible, device=self.device)
        return Placement(positions, visible <= positions[:, None, :, None])

    def _first_seen(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Memory of a layer whose keys and values are seen for the first time; `_join` moves it to that of others."""
        for side, new in enumerate((keys, values)):
            kind = _Kind(new.shape[1], new.shape[3], new.dtype, new.device)
            self._kinds[layer, side], self._layers[layer, side] = kind, self._zeros(kind, 1)[0]
        seen = sum(kind.heads * kind.size * kind.dtype.itemsize for kind in self._kinds.values())
        self.token_bytes = max(self.token_bytes, seen)

    def _join(self) -> None:
        """Move layers that were seen for the first time in the last pass to those that share their tensors."""
        if len(self._layers) != sum(map(len, self._members)):
            self._allocate()

    def _allocate(self) -> None:
        """New memory for all layers that are known, with what the slots in use hold."""
        old_layers, used, longest = self._layers, len(self.lengths), max(self.lengths, default=0)
        self._memory, self._members, self._layers = [], [], {}
        self.allocation += 1
        for kind, members in self._shared().items():
            if not used:
                for member in members:
                    old_layers.pop(member, None)
            memory = self._zeros(kind[0], len(members))
            for number, member in enumerate(members):
                if member in old_layers:  # which then goes, so that not all is in memory twice
                    memory[number, :used, :, :longest] = old_layers.pop(member)[:used, :, :longest]
                self._layers[member] = memory[number]
            self._memory.append(memory)
            self._members.append(members)

    def _shared(self) -> dict[tuple[_Kind, int], list[_Member]]:
        """Keys and values by the tensor that they are in."""
        groups: dict[tuple[_Kind, int], list[_Member]] = {}
        for member, kind in sorted(self._kinds.items(), key=lambda entry: entry[0]):
            groups.setdefault((kind, member[0] // _JOINED), []).append(member)
        return groups

    def _zeros(self, kind: _Kind, count: int) -> Tensor:
        import torch

        # zeros, for what is masked must still be a number
        sides = (self.num_columns, kind.heads) if self._for_gpu else (kind.heads, self.num_columns)
        memory = torch.zeros((count, self.num_slots, *sides, kind.size), dtype=kind.dtype, device=kind.device)
        return memory.transpose(2, 3) if self._for_gpu else memory


def _with_slack(columns: int) -> int:
    return columns + 1 + _SLACK


def rounded_up(number: int, least: int) -> int:
    """The next of `least` times 1, 2, 3, 4, 6, 8, 12, 16, 24, ..."""
    size = least
    while size < number:
        if size >= 2 * least and 3 * size // 2 >= number:
            return 3 * size // 2
        size *= 2
    return size
