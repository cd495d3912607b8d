"""Objects in a model's reply that are JSON, or would be but for a slip of the pen.

Where nothing enforces a schema, models put fences and prose around an object, leave a comma behind the last item, use
single quotes, or write LaTeX, regular expressions and Windows paths with one backslash. `json_repair` mends such
objects, and much else by guessing (comments, Python's `None` and capitals of keys need no guessing, and are read before
it); its reading counts only where there is no other one:

* the object is closed, so nothing was cut off;
* the reading has every letter and digit of the text, in order: only punctuation was mended;
* no key of the object stands in the text twice, as it does where a quotation could be taken for a key.

Everything else stays unread, and its reader reports a fault. At temperature 0 a judge repeats its slip for ever, so
without this the same tasks (mathematics, code) would be missing from every run.
"""

from __future__ import annotations

import json
import re

_LONGEST_MENDED = 50_000  # characters; mending is slower than reading
_ESCAPE = re.compile(r'\\(?:(["\\/nrt]|[bf](?![A-Za-z])|u[0-9a-fA-F]{4})|)')
_OUTSIDE = re.compile(
    r'(?P<string>"(?:\\.|[^"\\])*")|/\*.*?\*/|(?<!:)//[^\n]*|#[^\n]*|\b(?P<word>None|True|False)\b|'
    r"(?<![\w.+-])(?P<number>0+\d+|\d+\.)(?=\s*[,}\]])",
    re.DOTALL,
)
_QUOTATION_MARKS = str.maketrans(dict.fromkeys("“”„", '"'))
_UNTOLD = re.compile(r"\\[nrtbf]|\\u[0-9a-fA-F]{4}|[\W_]")


def read_objects(reply: str, key: str) -> list[dict[str, object]]:
    """The JSON objects of a reply that have a key and are not inside another one, in order.

    Returns:
        More than one where the reply has them: whether they agree is for the caller to say. None where there is no
        such object, or where one of them can be read in more than one way.
    """
    text = _unpacked(double_lone_backslashes(reply))
    start = max(0, text.find("{"))
    for candidate in (text, text[:start] + _normalised(text[start:])):
        objects, rest = _strict(candidate)
        if matching := _with_key(objects, key):
            break
    if matching:
        brace = rest.find("{")  # of an object that could not be read, perhaps the model's own beside a quotation
        return [] if brace >= 0 and _mentions(key, rest[brace:]) else matching
    mended = _mended(text)
    return _with_key([] if mended is None else [mended], key)


def _unpacked(text: str) -> str:
    """What a JSON string holds whose content is JSON; other texts as they are."""
    try:
        inner = json.loads(text) if text.lstrip().startswith('"') else None
    except (ValueError, RecursionError):
        inner = None
    return inner if isinstance(inner, str) else text


def _normalised(text: str) -> str:
    """The text with what stands outside of its strings as JSON has it: no comments, `null` for `None`, 8 for 08."""
    if '"' not in text:
        text = text.translate(_QUOTATION_MARKS)
    return _OUTSIDE.sub(_as_json, text)


def _as_json(match: re.Match[str]) -> str:
    if match["string"] is not None:
        return match["string"]
    if match["word"] is not None:
        return {"None": "null", "True": "true", "False": "false"}[match["word"]]
    number = match["number"]
    return "" if number is None else number.lstrip("0").removesuffix(".") or "0"


def _with_key(objects: list[dict[str, object]], key: str) -> list[dict[str, object]]:
    """Those that have a key, in whatever capitals, or, if there is one object alone, the object inside it."""
    matching = [value for value in (_in_small_letters(value, key) for value in objects) if key in value]
    if matching or len(objects) != 1 or len(objects[0]) != 1:
        return matching
    (inner,) = objects[0].values()
    return _with_key([inner], key) if isinstance(inner, dict) else []


def _in_small_letters(value: dict[str, object], key: str) -> dict[str, object]:
    """The object with its keys in small letters if the key is written in others; empty if it is there twice."""
    if sum(name.lower() == key for name in value) > 1:
        return {}
    return value if key in value else {name.lower(): entry for name, entry in value.items()}


def double_lone_backslashes(text: str) -> str:
    r"""The text with each backslash that begins no JSON escape doubled; `\b` and `\f` before a letter are `\beta` and
    `\frac`, never a backspace."""
    return _ESCAPE.sub(_doubled, text)


def _doubled(match: re.Match[str]) -> str:
    return match.group(0) if match.group(1) else "\\\\"


def _strict(text: str) -> tuple[list[dict[str, object]], str]:
    """The objects that are JSON as they stand, and the text around them."""
    objects: list[dict[str, object]] = []
    around, start, end = [], text.find("{"), 0
    while start >= 0:
        try:
            value, stop = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        around.append(text[end:start])
        objects.append(value)
        start, end = text.find("{", stop), stop
    return objects, " ".join([*around, text[end:]])


def _with_one_value_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object; a key that stands in it twice, with different values, has two readings."""
    value = dict(pairs)
    if len(value) != len(pairs) and any(repr(value[name]) != repr(entry) for name, entry in pairs):
        raise ValueError("a key with several values")
    return value


# line breaks in strings are common, and have one reading
_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_with_one_value_each)


def _mended(text: str) -> dict[str, object] | None:
    """The one object between the first and the last brace, if it has one reading."""
    from json_repair import repair_json  # slow to import, and seldom needed

    start, end = text.find("{"), text.rfind("}") + 1
    raw = text[max(0, start) : end]
    if not raw.startswith("{") or "{" in text[end:] or len(raw) > _LONGEST_MENDED:
        return None
    try:
        value = repair_json(raw, return_objects=True, skip_json_loads=True)
        same = _told(json.dumps(value, ensure_ascii=False)) == _told(raw)
    except (ValueError, RecursionError, IndexError, TypeError):
        return None
    if not same or not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return None
    return value if all(_mentions(name, raw) == 1 for name in value) else None


def _mentions(key: str, text: str) -> int:
    """How often a key, or what looks like it, stands before a colon."""
    return len(re.findall(rf"(?<!\w){re.escape(key)}[\"']?\s*:", text, re.IGNORECASE))


def _told(text: str) -> str:
    """Letters and digits alone."""
    return _UNTOLD.sub("", text).lower()
