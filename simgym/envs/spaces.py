"""A space of Unicode texts, for utterances: Gymnasium's `Text` knows alphanumeric characters unless told each one.

`UnicodeText` holds every `str` of bounded length without lone surrogates (they have no UTF-8 form, so they could not be
written to a transcript). It works with `sample`, `seed`, `contains`, batching (a `Tuple` of texts), concatenation and
the shared memory of `AsyncVectorEnv` (UTF-32 code points, one length per text).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from multiprocessing.sharedctypes import SynchronizedArray
from typing import Any, cast, overload

import numpy as np
from gymnasium import spaces
from gymnasium.vector import utils as vector_utils

from simgym.conversation import has_surrogates
from simgym.errors import ConfigurationError

_LONGEST_SAMPLE = 64
"""Characters; a uniform length up to the bound would make samples of thousands of characters."""

_SAMPLED_RANGES = ((0x20, 0x7F), (0xA1, 0x180), (0x391, 0x3CA), (0x4E00, 0x4F00), (0x1F600, 0x1F640))
"""Code points that samples are made of: ASCII, Latin, Greek, CJK, emoji."""


class UnicodeText(spaces.Space[str]):
    """All texts of `min_length` to `max_length` code points without lone surrogates."""

    def __init__(self, max_length: int, *, min_length: int = 0, seed: int | np.random.Generator | None = None) -> None:
        """Bound the length.

        Args:
            max_length: Most code points, inclusive.
            min_length: Fewest code points, inclusive, >= 0.
            seed: Of `sample`.
        """
        if not 0 <= min_length <= max_length:
            raise ConfigurationError(
                f"Got min_length {min_length} and max_length {max_length}, expected 0 <= min <= max."
            )
        self.min_length = int(min_length)
        self.max_length = int(max_length)
        super().__init__(shape=None, dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A random text: up to 64 characters (more only if `min_length` asks for it) of several scripts."""
        if mask is not None or probability is not None:
            raise ConfigurationError("UnicodeText.sample takes no mask and no probability; there is no list of texts.")
        longest = max(self.min_length, min(self.max_length, _LONGEST_SAMPLE))
        length = int(self.np_random.integers(self.min_length, longest + 1))
        ranges = self.np_random.integers(len(_SAMPLED_RANGES), size=length)
        return "".join(chr(int(self.np_random.integers(*_SAMPLED_RANGES[choice]))) for choice in ranges)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and self.min_length <= len(x) <= self.max_length and not has_surrogates(x)

    def to_jsonable(self, sample_n: Iterable[str]) -> list[str]:
        return list(sample_n)

    def from_jsonable(self, sample_n: list[object]) -> list[str]:
        return [str(item) for item in sample_n]

    def __repr__(self) -> str:
        return f"UnicodeText({self.min_length}, {self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and (self.min_length, self.max_length) == (
            other.min_length,
            other.max_length,
        )

    __hash__ = None  # type: ignore[assignment]  # as Gymnasium's own spaces: mutable through their seed


class SharedTexts(Sequence[str]):
    """A live view of N texts in shared memory; a deep copy of it is a plain tuple.

    `AsyncVectorEnv` reads its shared memory once and expects views that change with it, so a tuple made at that time
    would stay empty for ever.
    """

    def __init__(self, rows: Any) -> None:
        """Look at int32 [N, 1 + max_length]: length, then code points."""
        self._rows = rows

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        row = self._rows[index]
        return str(row[1 : 1 + row[0]].astype("<u4").tobytes().decode("utf-32-le"))

    def __len__(self) -> int:
        return len(self._rows)

    def __deepcopy__(self, memo: dict[int, object]) -> tuple[str, ...]:
        return tuple(self)


# --- what Gymnasium's vector environments need to know of the space, in its own registry of functions


@vector_utils.batch_space.register(UnicodeText)
def _batch(space: UnicodeText, n: int = 1) -> object:
    from gymnasium.vector.utils.space_utils import _batch_space_custom

    return _batch_space_custom(space, n)  # type: ignore[arg-type]  # one seeded copy per row, as for Text


def _batch_differing(space_N: Sequence[UnicodeText]) -> spaces.Space[object]:
    return spaces.Tuple(space_N)


cast(Any, vector_utils.batch_differing_spaces).register(UnicodeText, _batch_differing)  # dispatches on the items


@vector_utils.concatenate.register(UnicodeText)
def _concatenate(space: UnicodeText, items: Iterable[str], out: object) -> tuple[str, ...]:
    return tuple(items)


@vector_utils.create_empty_array.register(UnicodeText)
def _empty(space: UnicodeText, n: int = 1, fn: object = None) -> tuple[str, ...]:
    return ("",) * n


@vector_utils.create_shared_memory.register(UnicodeText)
def _create_shared(space: UnicodeText, n: int = 1, ctx: Any = None) -> Any:
    import multiprocessing

    return (ctx or multiprocessing).Array("i", n * (space.max_length + 1))


@vector_utils.read_from_shared_memory.register(UnicodeText)
def _read_shared(space: UnicodeText, shared_memory: SynchronizedArray[object], n: int = 1) -> SharedTexts:
    return SharedTexts(_as_rows(space, shared_memory))


@vector_utils.write_to_shared_memory.register(UnicodeText)
def _write_shared(space: UnicodeText, index: int, value: str, shared_memory: SynchronizedArray[object]) -> None:
    codes = np.frombuffer(value.encode("utf-32-le"), dtype="<u4").astype(np.int32)
    row = _as_rows(space, shared_memory)[index]
    row[0] = len(codes)
    row[1 : 1 + len(codes)] = codes


def _as_rows(space: UnicodeText, shared_memory: SynchronizedArray[Any]) -> Any:
    memory: Any = shared_memory.get_obj()
    return np.frombuffer(memory, dtype=np.int32).reshape(-1, space.max_length + 1)
