"""The rules that every plug-in has to keep, whatever it is; `checks` and `environment_checks` apply them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from simgym.conversation import INTENT_PREFIX, Conversation, Message, Scenario
from simgym.errors import ConfigurationError
from simgym.transcripts import ModelCall

_Result = TypeVar("_Result")
TOLERANCE = 1e-3
"""Numbers computed in a batch and alone may differ by rounding."""


def run_batch(
    what: str, call: Callable[[Sequence[Any]], list[_Result]], rows: Sequence[Any], kind: type[_Result]
) -> list[_Result]:
    """Call with all rows and with none, and look at number and type of the results."""
    if len(none := call([])) != 0:
        fail(f"{what} returned {len(none)} results for an empty list. Return an empty list")
    results = call(rows)
    if not isinstance(results, list) or len(results) != len(rows):
        count = len(results) if hasattr(results, "__len__") else "?"
        fail(f"{what} returned a {type(results).__name__} of {count} for {len(rows)} inputs. Return a list of as many")
    for result in results:
        if not isinstance(result, kind):
            fail(f"{what} returned a {type(result).__name__}, expected a {kind.__name__}")
    return results


def check_repeatable(
    what: str,
    call: Callable[[Sequence[Any]], Sequence[_Result]],
    rows: Sequence[Any],
    essence: Callable[[_Result], object],
) -> None:
    """The same input and seed give the same result: twice, in another order, and alone."""
    first = [essence(result) for result in call(rows)]
    if not alike(first, [essence(result) for result in call(rows)]):
        fail(f"{what} gave two results for the same input and seed. Draw everything random from the seed")
    if not alike(first, [essence(result) for result in call(rows[::-1])][::-1]):
        fail(f"{what} gave other results when its input was reversed. Keep the order, and let no row depend on another")
    if not alike(first, [essence(call([row])[0]) for row in rows]):
        fail(f"{what} gave other results alone than in a batch. Let a row depend on its own input and seed only")


def check_calls(what: str, calls: Sequence[ModelCall], role: str) -> None:
    """Model calls are recorded, and with the right role."""
    for call in calls:
        if not isinstance(call, ModelCall) or call.role != role:
            fail(f"{what} recorded the model call {call!r:.60}, expected a ModelCall with role {role!r}")


def check_text(what: str, text: object) -> None:
    """A text that a UTF-8 file can hold."""
    if not isinstance(text, str):
        fail(f"{what} returned a text of type {type(text).__name__}, expected str")
    elif any("\ud800" <= character <= "\udfff" for character in text):
        fail(f"{what} returned a lone surrogate in {text[:40]!r}. Replace it; no UTF-8 file can hold it")


def check_fingerprint(name: str, fingerprint: Callable[[], Mapping[str, object]]) -> None:
    """A fingerprint is strict JSON and stays the same."""
    value = fingerprint()
    if not isinstance(value, dict) or not value:
        fail(f"{name}.fingerprint returned {value!r:.60}, expected a dict that identifies model and settings")
    try:
        written = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        fail(f"{name}.fingerprint is not strict JSON ({error}). Use texts, finite numbers, lists and dicts")
    if json.loads(written) != value:
        fail(f"{name}.fingerprint changes when written and read as JSON. Use lists, not tuples, and texts as keys")
    if fingerprint() != value:
        fail(f"{name}.fingerprint changes from call to call. A run could not be resumed")


def check_protocol(candidate: object, protocol: type, methods: str) -> str:
    """The object has the methods of its protocol; returns the name of its class."""
    name = type(candidate).__name__
    if not isinstance(candidate, protocol):
        fail(f"{name} is no {protocol.__name__}. Expected an object with {methods}")
    return name


def at_least_two(scenarios: Sequence[Scenario] | None) -> list[Scenario]:
    """The scenarios to check on."""
    chosen = made_up_scenarios() if scenarios is None else list(scenarios)
    if len(chosen) < 2:
        raise ConfigurationError(f"Got {len(chosen)} scenarios to check on, expected at least 2.")
    return chosen


def made_up_scenarios() -> list[Scenario]:
    """Three scenarios with openings and recorded turns."""
    wishes = ("plan a weekend in Porto", "get a toast for a wedding written", "find out why the bread does not rise")
    return [
        Scenario(
            id=f"check-{number}",
            intent=f"{INTENT_PREFIX}{wish}, with as little effort as possible",
            opening=f"hello, i want to {wish}",
            persona_seed=number,
            source="made up by simgym.testing.checks",
            history=(
                Message("user", f"hello, i want to {wish}"),
                Message("assistant", "Gladly. By when?"),
                Message("user", f"by the {number + 1}th"),
            ),
        )
        for number, wish in enumerate(wishes)
    ]


def made_up_conversation(scenario: Scenario) -> Conversation:
    """A conversation of one turn each."""
    opening = scenario.opening or "hello"
    return Conversation().add("user", opening).add("assistant", f"You said {opening!r}. Tell me more.")


def alike(first: Sequence[object], second: Sequence[object]) -> bool:
    """Equal, numbers up to rounding."""
    return len(first) == len(second) and all(
        math.isclose(left, right, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        if isinstance(left, float) and isinstance(right, float)
        else left == right
        for left, right in zip(first, second, strict=True)
    )


def fail(sentence: str) -> NoReturn:
    """Say which rule is broken."""
    raise ConfigurationError(f"{sentence}.")
