"""Keys and values of the rows that are being decoded: one slot a row, filled from the left, written in place.

transformers' caches append to all rows at once, which copies everything at each token and pads what is ragged. Here
every slot has its own length: a token is written where its row ends, attention masks what lies behind that end, and a
row that leaves or enters touches no other. Handed to a model's forward call as `past_key_values`; which slots and
columns the call writes is set beforehand by `aim`.

Works for layers of full and of sliding-window attention. Layers that keep another kind of state are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from simgym.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor

Layers = list[tuple["Tensor", "Tensor"]]
"""Keys and values of every layer, each of shape (heads, tokens, head size)."""
_SLACK = 64
"""Columns by which the memory grows beyond what is asked for."""


class SlotCache:
    """Memory of S slots of C columns; what transformers calls a cache."""

    is_compileable = False
    is_sliding: tuple[bool, ...] = ()

    def __init__(self, device: Any) -> None:
        self.device = device
        self.lengths: list[int] = []
        """Tokens in each slot that is in use, slots 0, 1, ... in order."""
        self._slots = self._columns = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._first = 0
        self._rows: Any = None
        self._at: Any = None
        self._visible = 0

    def reserve(self, slots: int, columns: int) -> None:
        """Make room; the last column is where padding is written, and is never read."""
        import torch

        if not self.lengths and slots * columns < self._slots * self._columns // 4:
            self.free()  # one long prompt shall not cost its length times the widest batch for ever
        if slots <= self._slots and columns < self._columns:
            return
        self._slots, self._columns = max(slots, self._slots), max(columns + 1 + _SLACK, self._columns)
        kept = len(self.lengths)
        for layer, pair in self._layers.items():
            grown = []
            for old in pair:
                # zeros, for what is masked must still be a number
                new = torch.zeros(
                    (self._slots, old.shape[1], self._columns, old.shape[3]), dtype=old.dtype, device=old.device
                )
                longest = max(self.lengths, default=0)
                new[:kept, :, :longest] = old[:kept, :, :longest]
                grown.append(new)
            self._layers[layer] = (grown[0], grown[1])

    def free(self) -> None:
        """Give the memory back."""
        self.lengths, self._layers, self._slots, self._columns = [], {}, 0, 0

    def aim(self, first: int, new_N: Sequence[int]) -> dict[str, Tensor]:
        """Direct the next forward call to N slots from `first` on, of which each gets so many more tokens.

        Inputs of the call are padded on the left to the largest number.

        Returns:
            `position_ids` of shape (N, Q), and `visible` of shape (N, 1, Q, C'): True where a query may look.
        """
        import torch

        old = torch.tensor(self.lengths[first : first + len(new_N)], device=self.device)
        new = torch.tensor(new_N, device=self.device)
        width = max(new_N)
        position = old[:, None] + torch.arange(width, device=self.device)[None] - (width - new)[:, None]
        real = position >= old[:, None]
        self._first, self._visible = first, int((old + new).max())
        self._rows = torch.arange(first, first + len(new_N), device=self.device)[:, None].expand_as(position)
        self._at = torch.where(real, position, self._columns - 1)
        position = position.clamp(min=0)
        columns = torch.arange(self._visible, device=self.device)
        for number, count in enumerate(new_N):
            self.lengths[first + number] += count
        return {"position_ids": position, "visible": columns <= position[:, None, :, None]}

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write new keys and values, of shape (N, heads, Q, head size); all that the slots hold comes back."""
        pair = self._layers.get(layer_idx) or self._allocate(layer_idx, keys, values)
        for memory, new in zip(pair, (keys, values), strict=True):
            memory[self._rows, :, self._at] = new.transpose(1, 2)
        slots = slice(self._first, self._first + len(keys))
        return pair[0][slots, :, : self._visible], pair[1][slots, :, : self._visible]

    def write(self, slot: int, start: int, layers: Layers) -> None:
        """Put tokens that were read earlier into a slot, from column `start` on."""
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

        made = tuple(
            torch.zeros((self._slots, one.shape[1], self._columns, one.shape[3]), dtype=one.dtype, device=one.device)
            for one in (keys, values)
        )
        self._layers[layer] = (made[0], made[1])
        return self._layers[layer]


def attention_masks(config: Any, visible: Tensor, dtype: Any) -> Any:
    """`visible` as a model of this configuration wants its mask: a tensor, or one for each kind of layer.

    Raises:
        ConfigurationError: a layer is of a kind whose state is not keys and values of all tokens.
    """
    import torch

    kinds = list(dict.fromkeys(getattr(config, "layer_types", None) or []))
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if unknown := [kind for kind in kinds if kind not in ("full_attention", "sliding_attention")]:
        raise ConfigurationError(
            f"The model has layers of {unknown[0]}, whose state cannot be kept between turns here. Run it on a server "
            "(vLLM, SGLang) and name it openai:NAME."
        )
    if not kinds:
        kinds = ["sliding_attention" if window else "full_attention"]

    def mask(kind: str) -> Tensor:
        seen = visible
        if kind == "sliding_attention" and window and window < visible.shape[-1]:
            # the query's own column is the last that it sees
            own = visible.sum(-1, keepdim=True) - 1
            seen = visible & (torch.arange(visible.shape[-1], device=visible.device) > own - window)
        if getattr(config, "_attn_implementation", "sdpa") == "sdpa":
            return seen
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)

    return mask(kinds[0]) if len(kinds) == 1 else {kind: mask(kind) for kind in kinds}
