"""YAML files that people write, read safely: plain values only, bounded, and one sentence for whatever is wrong.

Aliases may repeat a value, which a few lines can use to stand for billions of entries; a file whose values, written
out, are more than `MOST_VALUES` is refused before anything walks through them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simgym.errors import MalformedFile
from simgym.text_files import read_text

MOST_VALUES = 100_000
"""Mappings, lists and plain values of a file, with everything that aliases repeat."""


def read_yaml(path: str | Path) -> Any:
    """The value of a YAML file; None if it is empty.

    Raises:
        MalformedFile: it cannot be opened, is not YAML in UTF-8, or too large.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise MalformedFile(f"{path} cannot be read: {error}. Expected a YAML file in UTF-8.") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> object:
    """The value of a YAML text; `where` says in messages which one it is. Otherwise as `read_yaml`."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except RecursionError as error:
        raise MalformedFile(f"{where} is not YAML: it is nested too deeply") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        # a date that does not exist, or a tag (!!int, !!bool) on what is no such thing
        reason = str(error) or "a value is not what its tag says"
        raise MalformedFile(f"{where} is not YAML: {reason}") from error
    if not _is_small(value):
        raise MalformedFile(f"{where} holds more than {MOST_VALUES:,} values. Are its aliases (*name) meant?")
    return value


def _is_small(value: object) -> bool:
    """Whether everything in a value, repetitions included, can be walked through; one that holds itself cannot."""
    seen, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            entries = [*item.keys(), *item.values()]
        else:
            entries = list(item) if isinstance(item, list | tuple | set) else []
        seen += 1 + len(entries)
        if seen > MOST_VALUES:
            return False
        waiting.extend(entries)
    return True
