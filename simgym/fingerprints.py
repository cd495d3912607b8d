"""Comparing fingerprints: is this the model, judge or simulator that the file on disk was written with?

A fingerprint is a mapping of JSON values that says what decides a conversation. Two that differ are told apart by the
names of what differs, inner names behind a dot. Earlier versions recorded less of a local model than its prompt depends
on; a file of theirs is not continued, since nobody knows whether the rest is the same, but the message says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Fingerprint = Mapping[str, Any]
"""JSON values by name; which there are is up to the class whose fingerprint it is."""
_RECORDED_LATER = {"weights", "tokenizer", "chat_template", "generation_config", "date"}
"""What earlier versions left out of a local model's fingerprint."""


def differences(written: Any, current: Any) -> list[str]:
    """Names of what differs, sorted, e.g. `["model.dtype", "temperature"]`; empty if nothing does."""
    return sorted({name.rstrip(".") for name, _ in _differences(written, current, "")})


def describe_difference(written: object, current: object) -> str:
    """The same in brackets, for a message, and a sentence if an earlier version left out what differs.

    Returns:
        For example ` (different: model.dtype).`; with a blank in front, and a full stop at the end.
    """
    names = [name for name in differences(written, current) if name]
    shown = f" (different: {', '.join(names)})." if names else "."
    return shown + note_on_earlier(written, current)


def note_on_earlier(written: object, current: object) -> str:
    """A sentence if all that differs is what an earlier version did not record, with a blank in front; else nothing."""
    left_out = [earlier for _, earlier in _differences(written, current, "")]
    if not left_out or not all(left_out):
        return ""
    return " It is of an earlier simgym, which did not record these, so whether they are the same cannot be known."


def _differences(written: object, current: object, name: str) -> Iterator[tuple[str, bool]]:
    """Names of what differs, each with whether an earlier version left it out."""
    if isinstance(written, Mapping) and isinstance(current, Mapping):
        earlier = "tokenizer" not in written and {"weights", "tokenizer"} <= set(current)
        for key in {*written, *current}:
            if key not in written or key not in current:
                yield f"{name}{key}", earlier and key in _RECORDED_LATER and key not in written
            else:
                yield from _differences(written[key], current[key], f"{name}{key}.")
    elif isinstance(written, list) and isinstance(current, list) and len(written) == len(current):
        for before, now in zip(written, current, strict=True):
            yield from _differences(before, now, name)
    elif written != current:
        yield name, False
