"""JSON values with something else in one place; for whoever tests a reader."""

from __future__ import annotations

import copy
from typing import Any

MISSING = object()
"""Instead of a value: take the key away."""


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every part of a JSON value."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [at, *(place for key in keys for place in places(value[key], (*at, key)))]


def with_other(value: Any, at: tuple[Any, ...], other: Any) -> Any:
    """A copy of a JSON value with something else at a place, or without what is there if that is a key."""
    if not at:
        return other
    value = copy.deepcopy(value)
    *way, last = at
    target = value
    for key in way:
        target = target[key]
    if other is MISSING:
        del target[last]
    else:
        target[last] = other
    return value
