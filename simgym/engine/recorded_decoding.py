"""Decoding passes that are recorded once and replayed: one launch a step instead of many hundreds.

A decoding pass of a small model takes a GPU a millisecond or two and Python twenty: it consists of hundreds of small
kernels. A CUDA graph holds them all, for tensors of fixed addresses and sizes. So passes are recorded for a few sizes:
a batch is padded to a number of slots, whose further ones write where nobody reads, and looks at a number of columns
that is rounded up, behind its mask. What is recorded is dropped when the memory of keys and values moves, or an adapter
is put on the model. A model whose passes cannot be recorded (it asks the device for a number on the way, as mixtures of
experts may) decodes without; the first replay is compared with the pass that was recorded.

On other devices the same code runs each pass anew, so that tests can do without a GPU.
"""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from simgym.engine.kv_cache import KVCache, rounded_up
from simgym.engine.transfer import to_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_FIRST_USES = 3
"""Passes of a size before it is worth recording."""
_LATER_USES = 24
"""The same where a larger size that is recorded can be used instead."""
_MOST_RECORDINGS = 24
_MOST_DIFFERENCE = 0.03
"""Between a pass and its first replay, as a share of the largest logit."""


@dataclass(frozen=True, slots=True)
class Size:
    """What a recording is made for."""

    slots: int
    """Sequences, the ones that pad included."""
    columns: int
    """Columns that attention looks through."""
    adapter: str | None
    """Of all of them; None: the base model."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where CUDA graphs are recorded; both are None on other devices."""

    pool: Any
    """Of memory, which all recordings of a model share: one runs at a time."""
    stream: Any
    """The recording one; always the same, for libraries keep memory for each."""


class DecodingModel(Protocol):
    """What is recorded; the `ModelRunner`."""

    device: torch.device

    def decode_pass(self, inputs: Tensor, kv_cache: KVCache, size: Size) -> Tensor:
        """Logits, shape (slots, V), of one token a slot.

        Args:
            inputs: Shape (3, slots): token, position and column of each.
            kv_cache: Where keys and values are.
            size: What it is made for.
        """
        ...


class RecordedDecoding:
    """Recordings by size, for one place of the memory."""

    def __init__(self, model: DecodingModel) -> None:
        self.model = model
        self.recordings: dict[Size, Recording] = {}
        self.refusal: str | None = None
        """Why the model's passes cannot be recorded; None as long as they can."""
        self._uses: Counter[Size] = Counter()
        self._made_for: tuple[int, int] | None = None
        self._pool: Any = None
        self._stream: Any = None

    def decode(self, token_ids: list[int], kv_cache: KVCache, adapter: str | None, changes: int) -> Tensor | None:
        """Logits after one more token in each of the first N slots, valid until the next call.

        Args:
            token_ids: N tokens.
            kv_cache: N slots are in use.
            adapter: Of all sequences; None: the base model.
            changes: How often adapters were put on the model so far.

        Returns:
            Shape (N, V); None if the pass is to be run in the usual way.
        """
        if self._made_for != (kv_cache.allocation, changes):
            self.clear()
            self._made_for = kv_cache.allocation, changes
        count, visible = len(token_ids), max(kv_cache.lengths) + 1
        size = Size(
            min(rounded_up(count, 1), kv_cache.num_slots), min(rounded_up(visible, 128), kv_cache.num_columns), adapter
        )
        self._uses[size] += 1
        recording = self._recorded(size)
        if self._is_worth_recording(size, recording):
            recording = self._record(size, kv_cache)
        if recording is None:
            return None
        logits = recording.run(_inputs(token_ids, kv_cache, recording.size.slots))
        kv_cache.grow(0, [1] * count)
        return logits[:count]

    def clear(self) -> None:
        """Drop all recordings."""
        import torch

        if self.recordings and self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)  # one may be running
        self.recordings.clear()
        self._uses.clear()
        self._pool = None

    def _recorded(self, size: Size) -> Recording | None:
        """The smallest recording in which a batch of this size fits, if that does not waste too much."""
        fitting = [
            recording
            for known, recording in self.recordings.items()
            if known.adapter == size.adapter
            and size.slots <= known.slots <= max(16, 4 * size.slots)
            and size.columns <= known.columns <= 2 * size.columns
        ]
        return min(fitting, key=lambda recording: recording.size.slots * recording.size.columns, default=None)

    def _is_worth_recording(self, size: Size, recording: Recording | None) -> bool:
        if self.refusal is not None or len(self.recordings) >= _MOST_RECORDINGS or size in self.recordings:
            return False
        return self._uses[size] > (_FIRST_USES if recording is None else _LATER_USES)

    def _record(self, size: Size, kv_cache: KVCache) -> Recording | None:
        """A recording, or None if the model's passes cannot be recorded."""
        import torch

        kind = CudaRecording if self.model.device.type == "cuda" else RepeatedPass
        if kind is CudaRecording:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            self._stream = self._stream or torch.cuda.Stream(self.model.device)  # type: ignore[no-untyped-call]
        try:
            recording = kind(self.model, kv_cache, size, Place(self._pool, self._stream))
        except RuntimeError as error:
            self.refusal = (str(error).splitlines() or [type(error).__name__])[0]
            warnings.warn(f"Decoding passes of this model are not recorded: {self.refusal}", stacklevel=2)
            self.clear()
            return None
        self.recordings[size] = recording
        return recording


class Recording(Protocol):
    """A pass that can be run again."""

    size: Size

    def run(self, inputs: Tensor) -> Tensor:
        """Logits for other inputs, shape (slots, V), valid until any recording runs again."""
        ...


class RepeatedPass:
    """A pass that is run anew each time; as of a graph, inputs and logits are the same tensors each time."""

    def __init__(self, model: DecodingModel, kv_cache: KVCache, size: Size, place: Place) -> None:
        self.size = size
        self._model, self._kv_cache = model, kv_cache
        self._inputs = _idle_inputs(kv_cache, size)
        self._logits = model.decode_pass(self._inputs, kv_cache, size).clone()

    def run(self, inputs: Tensor) -> Tensor:
        """See `Recording`."""
        self._inputs.copy_(inputs)
        return self._logits.copy_(self._model.decode_pass(self._inputs, self._kv_cache, self.size))


class CudaRecording:
    """A CUDA graph of a pass."""

    def __init__(self, model: DecodingModel, kv_cache: KVCache, size: Size, place: Place) -> None:
        """Record a pass over inputs that touch only what nobody reads.

        Raises:
            RuntimeError: the pass cannot be recorded, or its replay differs.
        """
        import torch

        self.size = size
        self._inputs = _idle_inputs(kv_cache, size)
        self._graph = torch.cuda.CUDAGraph()
        current, stream = torch.cuda.current_stream(model.device), place.stream
        stream.wait_stream(current)
        with torch.cuda.stream(stream), _without_garbage_collection():
            expected = model.decode_pass(self._inputs, kv_cache, size)  # lets libraries prepare what they need
            stream.synchronize()
            self._graph.capture_begin(pool=place.pool, capture_error_mode="thread_local")
            try:
                self._logits = model.decode_pass(self._inputs, kv_cache, size)
            except BaseException:
                with contextlib.suppress(RuntimeError):
                    self._graph.capture_end()
                raise
            self._graph.capture_end()
        current.wait_stream(stream)
        self._graph.replay()
        difference = (self._logits.float() - expected.float()).abs().max() / expected.float().abs().max()
        if not difference <= _MOST_DIFFERENCE:  # nor if it is not a number
            raise RuntimeError(f"a replay differs from its pass by {float(difference):.2g} of the largest logit")

    def run(self, inputs: Tensor) -> Tensor:
        """See `Recording`."""
        self._inputs.copy_(inputs)
        self._graph.replay()
        return self._logits


def _idle_inputs(kv_cache: KVCache, size: Size) -> Tensor:
    """Those of slots that all pad."""
    nobody = kv_cache.num_columns - 1
    return to_device([[0] * size.slots, [0] * size.slots, [nobody] * size.slots], kv_cache.device)


def _inputs(token_ids: list[int], kv_cache: KVCache, slots: int) -> Tensor:
    """Token, position and column of each slot; slots that pad write to the column that nobody reads."""
    lengths, padding = kv_cache.lengths[: len(token_ids)], slots - len(token_ids)
    nobody = kv_cache.num_columns - 1
    rows = [[*token_ids, *[0] * padding], [*lengths, *[0] * padding], [*lengths, *[nobody] * padding]]
    return to_device(rows, kv_cache.device)


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """A collector that frees tensors of the device in the middle of a recording would break it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
