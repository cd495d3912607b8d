"""Names to classes: simulators, judges and language models are found through entry points.

Built-ins are declared in simgym's own `pyproject.toml` in the groups `simgym.simulators`, `simgym.judges` and
`simgym.language_models`; another package adds its own by declaring the same groups. Nothing is imported until
its name is asked for.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from simgym.errors import UnknownName


@functools.cache  # the metadata of every installed package is read for it, and it is asked for at every step
def available(kind: str) -> Mapping[str, EntryPoint]:
    """All plug-ins of one kind (`simulators`, `judges` or `language_models`), by name; looked up once a process."""
    return {entry.name: entry for entry in sorted(entry_points(group=f"simgym.{kind}"), key=lambda entry: entry.name)}


def find(kind: str, name: str) -> Any:
    """Import the class or factory registered as `name`.

    Raises:
        UnknownName: nothing of that kind has the name; the message lists the known ones.
    """
    known = available(kind)
    if name not in known:
        raise UnknownName(
            f"{unknown(kind.removesuffix('s').replace('_', ' '), name, list(known))} Or install a plug-in."
        )
    return known[name].load()


def unknown(what: str, name: str, known: list[str]) -> str:
    """A sentence for a name that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {what} {name!r}.{hint} Known: {', '.join(known)}."
