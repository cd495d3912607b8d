"""Dataclasses from JSON values of unknown origin: every field is checked against its annotation.

A value of another shape becomes one sentence that says where it stands, what it is and what was expected
(`calls[3].seed is 'x', expected an integer`), instead of a KeyError here or a TypeError three modules further on.
Understood are the types that records on disk consist of: numbers, texts, booleans, None, literals, unions, tuples,
lists, mappings by text, further dataclasses, classes with a `parse` that reads a text, and `object` for whatever is
JSON. A boolean is no number, and a float is finite. A field that was renamed is still read from older files under the
name in its metadata:
`p_adjusted: float = field(metadata={FORMERLY: "p_corrected"})`.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from simgym.errors import ConfigurationError

FORMERLY = "formerly"
"""Key of a field's metadata: what the field is called in files of older versions."""
_T = TypeVar("_T")
_Reader = Callable[[object, str], object]
_NAMES = {int: "an integer", float: "a finite number", str: "a text", bool: "true or false", type(None): "null"}


def from_json(cls: type[_T], value: object, where: str, *, extra: Literal["refuse", "ignore"] = "refuse") -> _T:
    """A dataclass instance from a JSON object whose keys are its fields.

    Args:
        cls: The dataclass.
        value: What `json` gave.
        where: What to call the value in messages, e.g. `plan`.
        extra: Whether keys that are no field are an error.

    Raises:
        ConfigurationError: not an object, a field is missing, unknown or of another type, or the class refuses it.
    """
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where} is {describe(value)}, expected a JSON object.")
    readers, required, former = _fields(cls)  # type: ignore[arg-type]  # classes can be hashed
    for name, old in former.items():
        if old in value and name not in value:
            value = {**{key: entry for key, entry in value.items() if key != old}, name: value[old]}
    if extra == "refuse" and (unknown := sorted(str(key) for key in value if key not in readers)):
        raise ConfigurationError(f"{where} has unknown keys {_short(unknown)}. Known: {', '.join(readers)}.")
    if missing := [name for name in required if name not in value]:
        raise ConfigurationError(f"{where} lacks the key {missing[0]!r}.")
    return cls(**{name: read(value[name], f"{where}.{name}") for name, read in readers.items() if name in value})


def read_as(annotation: Any, value: Any, where: str) -> Any:
    """A JSON value as what a type annotation says, e.g. `tuple[float, ...]`.

    Raises:
        ConfigurationError: it is something else.
    """
    return _reader(annotation)(value, where)


def describe(value: object) -> str:
    """A JSON value in a few words, for messages."""
    if isinstance(value, Mapping):
        return "a JSON object"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _short(value)


def _short(value: object) -> str:
    text = ascii(value)  # whatever a file holds must not act on the terminal that shows the message
    return text if len(text) <= 60 else f"{text[:57]}..."


@functools.cache
def _fields(cls: type) -> tuple[dict[str, _Reader], list[str], dict[str, str]]:
    """What reads each field, the names of required fields, and the former names of renamed ones."""
    hints = get_type_hints(cls)
    own = [field for field in fields(cls) if field.init]
    required = [field.name for field in own if field.default is MISSING and field.default_factory is MISSING]
    former = {field.name: field.metadata[FORMERLY] for field in own if FORMERLY in field.metadata}
    return {field.name: _reader(hints[field.name]) for field in own}, required, former


def _reader(annotation: object) -> _Reader:
    """What reads a value of this type."""
    if annotation is object or annotation is Any:
        return _anything
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return functools.partial(_literal, arguments)
    if origin in (Union, types.UnionType):
        return _union(arguments)
    if origin in (tuple, list) or origin in (Sequence, frozenset):
        return _sequence(origin, arguments)
    if origin in (dict, Mapping) or annotation in (dict, Mapping):
        return functools.partial(_mapping, _reader(arguments[1]) if arguments else _reader(object))
    if (parse := getattr(annotation, "parse", None)) is not None:
        return lambda value, where: parse(_scalar(str, value, where))
    if is_dataclass(annotation):
        record: Any = annotation
        return lambda value, where: from_json(record, value, where)
    if annotation in _NAMES:
        return functools.partial(_scalar, annotation)
    raise TypeError(f"Records on disk cannot hold {annotation!r}.")  # a mistake in the record's definition


def _anything(value: object, where: str) -> object:
    """The value as it is, unless a number in it could not be written again."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, float) and not math.isfinite(item):
            raise ConfigurationError(f"{where} holds {item}, expected finite numbers.")
        if isinstance(item, Mapping | list | tuple):
            waiting.extend(item.values() if isinstance(item, Mapping) else item)
    return value


def _scalar(kind: type, value: Any, where: str) -> Any:
    if type(value) is kind and not (isinstance(value, float) and not math.isfinite(value)):
        return value
    if kind is float and type(value) is int and abs(value) < 2**1023:
        return value
    raise ConfigurationError(f"{where} is {describe(value)}, expected {_NAMES[kind]}.")


def _literal(choices: tuple[object, ...], value: object, where: str) -> object:
    if isinstance(value, str | int | None) and value in choices:
        return value
    raise ConfigurationError(f"{where} is {describe(value)}, expected one of {', '.join(map(str, choices))}.")


def _union(arguments: tuple[object, ...]) -> _Reader:
    nullable = type(None) in arguments
    others = [argument for argument in arguments if argument is not type(None)]
    readers = [_reader(argument) for argument in others]

    def read(value: Any, where: str) -> Any:
        if value is None and nullable:
            return None
        for reader in readers[:-1]:
            try:
                return reader(value, where)
            except ConfigurationError:
                continue
        return readers[-1](value, where)

    return read


def _sequence(origin: object, arguments: tuple[object, ...]) -> _Reader:
    kind = list if origin is list else tuple
    open_ended = origin is not tuple or arguments[-1:] == (Ellipsis,)
    readers = [_reader(argument) for argument in arguments if argument is not Ellipsis]

    def read(value: Any, where: str) -> Any:
        if not isinstance(value, list | tuple):
            raise ConfigurationError(f"{where} is {describe(value)}, expected a list.")
        if not open_ended and len(value) != len(readers):
            raise ConfigurationError(f"{where} has {len(value)} entries, expected {len(readers)}.")
        each = readers * len(value) if open_ended else readers
        return kind(reader(item, f"{where}[{at}]") for at, (reader, item) in enumerate(zip(each, value, strict=True)))

    return read


def _mapping(item: _Reader, value: object, where: str) -> object:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where} is {describe(value)}, expected a JSON object.")
    return {str(key): item(entry, f"{where}[{_short(key)}]") for key, entry in value.items()}
