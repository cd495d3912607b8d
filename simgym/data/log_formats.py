"""Logged conversations in other people's formats, read into the files of the data pipeline.

    simgym data import chats.json --format sharegpt -o clean.jsonl

| format | a row |
|---|---|
| openai | `{"messages": [...]}` of fine-tuning files, or `{"request": {...}, "response": {...}}` of logged calls |
| sharegpt | `{"id": ..., "conversations": [{"from": "human", "value": ...}, ...]}` |
| lmsys | `{"conversation_id": ..., "conversation": [...], "language": ...}` of LMSYS-Chat-1M |
| oasst | a message tree of OpenAssistant, or its flat messages |
| mirrorbench | `{"conversation_id": ..., "task_description": ..., "turns": [{"role": ..., "content": ...}]}` |
| simulatorarena | `{"workerId": ..., "user_queries": [...], "ai_responses": [...]}`, a conversation of its study |
| otel | spans of OpenTelemetry with the `gen_ai.*` conventions, as OTLP JSON or one span a row |

A user simulator learns what users say to what they see: system prompts, tool calls and tools' results are left out, and
what an assistant says before and after a tool call is one turn. A row that cannot be read, and a conversation that
cannot be learned from, is listed with its reason in `NAME.skipped.jsonl`; neither ends the import.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from simgym.conversation import Conversation, Message, has_surrogates
from simgym.data.foreign_rows import ForeignRow, LogRow, as_mapping, optional, row_id
from simgym.data.logged import LoggedConversation, StepOutput, StepSummary, unusable
from simgym.data.rows import read_rows
from simgym.errors import MalformedFile, UnknownName
from simgym.jsonl import parse_line, read_json, read_lines
from simgym.plugins import unknown
from simgym.transcripts import text_hash

_SEATS = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model", "ai"), "assistant"),
    **dict.fromkeys(("system", "developer", "tool", "function", "function_call", "observation"), None),
}
"""Who speaks under which name; None: nothing that a user sees."""
_MOST_CONVERSATIONS = 2_000_000
"""Conversations that are put together in memory, of formats whose rows are parts of one."""


Reader = Callable[[Iterable[tuple[int, object]], Callable[[str, Exception], None]], Iterator[ForeignRow]]
"""Rows with their numbers, and whom to tell of one that cannot be read, to conversations."""
_UNREADABLE = (KeyError, TypeError, AttributeError, ValueError, IndexError, RecursionError)


def import_log(
    source: str,
    path: str | Path,
    *,
    format: str,
    split: str = "train",
    revision: str | None = None,
    advance: Callable[[str, int], object] = lambda phase, count: None,
) -> StepSummary:
    """Write a log as a file of the data pipeline.

    Args:
        source: A `.jsonl`, `.json` or `.parquet` file, a pattern, a folder, or a Hugging Face id.
        path: The file to write; see `logged.StepOutput` for what stands beside it.
        format: One of `LOG_FORMATS`.
        split: Split of a dataset on the Hub.
        revision: Hub revision to pin.
        advance: Told what is done at the moment and how many conversations were read.

    Raises:
        UnknownName: there is no such format.
        ConfigurationError: the source does not exist or cannot be opened.
        MalformedFile: nothing in it is a row of the format; the message has the first reason.
    """
    if format not in LOG_FORMATS:
        raise UnknownName(unknown("log format", format, list(LOG_FORMATS)))
    seen: set[str] = set()
    with StepOutput(path) as step:

        def unreadable(name: str, error: Exception) -> None:
            step.skip(name, f"not a row of {format}", _reason(error))

        rows = _rows(source, split, revision, unreadable)
        for number, row in enumerate(LOG_FORMATS[format](rows, unreadable), 1):
            _keep(row, step, seen)
            if number % 1000 == 0:
                advance("reading", number)
        if not seen and step.skipped and set(step.skipped) == {f"not a row of {format}"}:
            raise MalformedFile(
                f"{source} has no row in the format {format}: none of {step.skipped.total()} could be read. "
                f"Formats: {', '.join(LOG_FORMATS)}."
            )
        step.details["format"] = format
    return step.summary()


def _keep(row: ForeignRow, step: StepOutput, seen: set[str]) -> None:
    try:
        conversation = _conversation(row.turns)
    except _UNREADABLE as error:
        step.skip(_plain(row.id), "unreadable turn", _reason(error))
        return
    identity = text_hash(repr([row.id, conversation.to_json()]))
    if reason := unusable(conversation):
        step.skip(_plain(row.id), reason)
    elif identity in seen:
        step.skip(_plain(row.id), "repeated conversation")
    else:
        seen.add(identity)
        user = text_hash(row.user or f"unknown user of {row.id} {identity}")
        logged = LoggedConversation(
            id=_plain(row.id),
            user_key=user,
            country=_plain(row.country),
            language=_plain(row.language),
            conversation=conversation,
            intent=_plain(row.intent),
        )
        step.keep({**logged.to_json(), "hashed_ip": user})  # the column by which `preprocess` knows a user


def _conversation(turns: Sequence[tuple[object, object]]) -> Conversation:
    """The turns that a user sees; what surrounds an assistant's tool calls is joined."""
    messages: list[Message] = []
    hidden = False
    for speaker, content in turns:
        name = str(speaker).strip().lower()
        if name not in _SEATS:
            raise ValueError(f"nobody is called {name[:40]!r}, expected one of {', '.join(_SEATS)}")
        seat = _SEATS[name]
        text = _text(content) if seat is not None else ""
        if seat is None:
            hidden = hidden or name not in ("system", "developer")
        elif seat == "assistant" and not text.strip():  # a tool call alone
            hidden = True
        elif hidden and seat == "assistant" and messages and messages[-1].role == "assistant":
            messages[-1] = Message("assistant", f"{messages[-1].content}\n\n{text}")
        else:
            messages.append(Message("user" if seat == "user" else "assistant", text))
            hidden = False
    return Conversation(tuple(messages))


def _text(content: Any) -> str:
    """The words of a message's content: a text, parts, or none."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        return _part(content)
    return "\n".join(part for part in map(_part, content) if part)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text")
    if kind in ("tool_call", "tool_call_response", "tool_use", "tool_result", "reasoning", "thinking"):
        return ""
    if kind not in ("text", "input_text", "output_text"):
        raise ValueError(f"a part of type {str(kind)[:40]!r}, expected text")
    text = part.get("text", part.get("content", ""))
    if not isinstance(text, str):
        raise TypeError(f"a text that is a {type(text).__name__}")
    return text


def _each(read: Callable[[int, Any], ForeignRow]) -> Reader:
    """A reader of a format with one conversation a row."""

    def reader(
        rows: Iterable[tuple[int, object]], unreadable: Callable[[str, Exception], None]
    ) -> Iterator[ForeignRow]:
        for number, row in rows:
            try:
                foreign = read(number, as_mapping(row))
            except _UNREADABLE as error:
                unreadable(f"row {number}", error)
            else:
                yield foreign

    return reader


def _openai(number: int, row: LogRow) -> ForeignRow:
    request = row.get("request") or row
    request = request.get("body", request)  # of a batch file
    messages = list(request["messages"])
    response = row.get("response") or {}
    for choice in list((response.get("body") or response).get("choices") or ())[:1]:
        messages.append(choice["message"])
    turns = [(message["role"], message.get("content")) for message in messages]
    return ForeignRow(id=row_id(row, number, "id", "custom_id"), turns=turns, user=optional(request, "user"))


def _sharegpt(number: int, row: LogRow) -> ForeignRow:
    turns = row["conversations"] if "conversations" in row else row["items"]
    return ForeignRow(
        id=row_id(row, number, "id"),
        turns=[(turn["from"], turn["value"]) for turn in turns],
        language=optional(row, "language", "lang"),
    )


def _lmsys(number: int, row: LogRow) -> ForeignRow:
    return ForeignRow(
        id=row_id(row, number, "conversation_id", "question_id"),
        turns=[(turn["role"], turn["content"]) for turn in row["conversation"]],
        language=optional(row, "language"),
    )


def _mirrorbench(number: int, row: LogRow) -> ForeignRow:
    return ForeignRow(
        id=row_id(row, number, "conversation_id", "id"),
        turns=[(turn["role"], turn["content"]) for turn in row["turns"]],
        intent=optional(row, "task_description"),
    )


def _simulatorarena(number: int, row: LogRow) -> ForeignRow:
    said, answers = list(row["user_queries"]), list(row["ai_responses"])
    if not 0 <= len(said) - len(answers) <= 1:
        raise ValueError(f"{len(said)} queries of the user with {len(answers)} responses, expected as many")
    seats = (("user", "assistant"), (said, answers))
    turns = [(seats[0][index % 2], seats[1][index % 2][index // 2]) for index in range(len(said) + len(answers))]
    return ForeignRow(
        id=row_id(row, number, "id"), turns=turns, user=optional(row, "workerId"), intent=optional(row, "intent")
    )


def _oasst(rows: Iterable[tuple[int, Any]], unreadable: Callable[[str, Exception], None]) -> Iterator[ForeignRow]:
    """Each tree gives one conversation: from the root along the replies that people ranked best."""
    children: dict[str, list[Mapping[str, object]]] = {}
    roots: list[Mapping[str, object]] = []
    for number, row in rows:
        try:
            if "prompt" in as_mapping(row):
                yield _best_path(as_mapping(row["prompt"]), lambda message: message.get("replies") or ())
            elif (parent := row["parent_id"]) is None:
                roots.append({"message_id": row["message_id"], **row})
            else:
                children.setdefault(str(parent), []).append(row)
        except _UNREADABLE as error:
            unreadable(f"row {number}", error)
    for root in roots:
        try:
            yield _best_path(root, lambda message: children.get(str(message["message_id"]), ()))
        except _UNREADABLE as error:
            unreadable(str(root["message_id"]), error)


def _best_path(root: LogRow, replies: Callable[[LogRow], Sequence[LogRow]]) -> ForeignRow:
    path = [root]
    while following := replies(path[-1]):
        if len(path) > 1000:
            raise ValueError("more than 1000 messages deep")
        path.append(
            min(following, key=lambda message: float("inf") if message.get("rank") is None else message["rank"])
        )
    return ForeignRow(
        id=str(root["message_id"]),
        turns=[(message["role"], message["text"]) for message in path],
        user=optional(root, "user_id"),
        language=optional(root, "lang"),
    )


def _otel(rows: Iterable[tuple[int, object]], unreadable: Callable[[str, Exception], None]) -> Iterator[ForeignRow]:
    """Of each conversation the span that holds most of it: a later request repeats what was said before."""
    longest: dict[str, ForeignRow] = {}
    for number, row in rows:
        try:
            for span in _spans(as_mapping(row)):
                foreign = _span(span, number)
                if foreign is None or (foreign.id not in longest and len(longest) >= _MOST_CONVERSATIONS):
                    continue
                if foreign.id not in longest or len(foreign.turns) > len(longest[foreign.id].turns):
                    longest[foreign.id] = foreign
        except _UNREADABLE as error:
            unreadable(f"row {number}", error)
    yield from longest.values()


def _spans(row: LogRow) -> Iterator[LogRow]:
    if "resourceSpans" not in row:
        if "attributes" not in row and "events" not in row:
            raise KeyError("resourceSpans, or attributes of a span")
        yield row
        return
    for resource in row["resourceSpans"]:
        for scope in resource.get("scopeSpans") or ():
            yield from scope.get("spans") or ()


def _span(span: LogRow, number: int) -> ForeignRow | None:
    """A span's conversation; None if it is not a call of a model or its contents were not recorded."""
    attributes = _attributes(span.get("attributes") or {})
    turns = _attribute_turns(attributes) or _indexed_turns(attributes) or _event_turns(span.get("events") or ())
    if not turns:
        return None
    identity = optional(attributes, "gen_ai.conversation.id", "session.id") or optional(span, "traceId", "trace_id")
    user = optional(attributes, "enduser.id", "user.id", "enduser.pseudo.id")
    return ForeignRow(id=identity or f"row {number}", turns=turns, user=user)


def _attribute_turns(attributes: LogRow) -> list[tuple[object, object]]:
    """Current conventions: `gen_ai.input.messages` and `gen_ai.output.messages`, each a list or its JSON."""
    turns: list[tuple[object, object]] = []
    for key in ("gen_ai.input.messages", "gen_ai.output.messages"):
        value = attributes.get(key)
        messages = json.loads(value) if isinstance(value, str) else value or ()
        if key.startswith("gen_ai.output"):
            messages = messages[:1]  # further choices were not what the user saw
        turns += [(message["role"], message.get("parts", message.get("content"))) for message in messages]
    return turns


def _indexed_turns(attributes: Mapping[str, object]) -> list[tuple[object, object]]:
    """OpenLLMetry: `gen_ai.prompt.0.role`, `gen_ai.prompt.0.content`, ..., `gen_ai.completion.0.content`."""
    turns: list[tuple[object, object]] = []
    for number in itertools.count():
        key = f"gen_ai.prompt.{number}"
        if f"{key}.role" not in attributes:
            break
        turns.append((attributes[f"{key}.role"], attributes.get(f"{key}.content")))
    if turns and "gen_ai.completion.0.content" in attributes:
        turns.append(("assistant", attributes["gen_ai.completion.0.content"]))
    return turns


def _event_turns(events: Sequence[LogRow]) -> list[tuple[object, object]]:
    """Earlier conventions: events `gen_ai.user.message`, `gen_ai.assistant.message`, `gen_ai.choice`."""
    turns: list[tuple[object, object]] = []
    for event in events:
        name, fields = str(event.get("name", "")), _attributes(event.get("attributes") or {})
        if name == "gen_ai.choice":
            message = fields.get("message", fields)
            message = json.loads(message) if isinstance(message, str) else message
            turns.append(("assistant", message.get("content")))
        elif name.startswith("gen_ai.") and name.endswith(".message"):
            turns.append((name.split(".")[1], fields.get("content")))
    return turns


def _attributes(attributes: Any) -> dict[str, Any]:
    """OTLP's list of typed pairs, or a plain mapping, as a mapping."""
    if isinstance(attributes, Mapping):
        return dict(attributes)
    return {pair["key"]: _value(pair.get("value")) for pair in attributes}


def _value(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    if "arrayValue" in value:
        return [_value(item) for item in value["arrayValue"].get("values") or ()]
    if "kvlistValue" in value:
        return _attributes(value["kvlistValue"].get("values") or ())
    return next(iter(value.values()), None)


LOG_FORMATS: Mapping[str, Reader] = {
    "openai": _each(_openai),
    "sharegpt": _each(_sharegpt),
    "lmsys": _each(_lmsys),
    "oasst": _oasst,
    "mirrorbench": _each(_mirrorbench),
    "simulatorarena": _each(_simulatorarena),
    "otel": _otel,
}
"""Formats that `import_log` reads, by name."""


def _rows(
    source: str, split: str, revision: str | None, unreadable: Callable[[str, Exception], None]
) -> Iterator[tuple[int, object]]:
    """Rows with their numbers from 1; a line that is no JSON is told of and passed over."""
    if Path(source).suffix == ".json":
        value = read_json(source)
        yield from enumerate(value if isinstance(value, list) else [value], 1)
    elif Path(source).suffix == ".jsonl" and Path(source).is_file():
        for number, line in read_lines(source):
            if line.strip():
                try:
                    row = parse_line(line, f"line {number}", allow_nan=True)
                except MalformedFile as error:
                    unreadable(f"row {number}", error)
                else:
                    yield number, row
    else:
        yield from read_rows(source, split=split, revision=revision)


def _reason(error: Exception) -> str:
    detail = f"lacks {error}" if isinstance(error, KeyError) else str(error)
    return _plain(detail or type(error).__name__)[:200]


def _plain(text: str) -> str:
    """A text that can be written to a file."""
    return text.encode("utf-8", "replace").decode() if has_surrogates(text) else text
