"""One number decides a conversation: seeds derived by hashing, never by drawing in order.

`derive_seed(7, "user", 2)` depends on its arguments alone, so the user's third turn of conversation 7 gets the
same random numbers whether the conversation runs alone, in a batch of 64, or is resumed after a kill. There is no
global generator and no shared stream that neighbours could advance.
"""

from __future__ import annotations

import hashlib

import numpy as np

SEED_BITS = 53
"""Seeds fit a double exactly, so they survive JSON readers that know only floating point numbers."""


def derive_seed(seed: int, *path: str | int) -> int:
    """The seed of one purpose below `seed`.

    Args:
        seed: Any integer; usually the seed given to `reset`.
        path: What the seed is for, e.g. `("user", turn, attempt)`. Types count: `1` and `"1"` differ.

    Returns:
        An integer in [0, 2**53), uniformly distributed (BLAKE2b of the arguments).
    """
    digest = hashlib.blake2b(repr((int(seed), *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - SEED_BITS)


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """A counter-based (Philox) generator for one purpose below `seed`."""
    return np.random.Generator(np.random.Philox(key=derive_seed(seed, *path)))
