"""Logs of other people's making. A missing value is one however it is spelt: strangers are never one user."""

from __future__ import annotations

import json
from typing import get_args, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from simgym.cli.data import import_
from simgym.cli.main import app
from simgym.data import LOG_FORMATS, import_log, preprocess, read_logged
from simgym.errors import SimgymError

CHAT = [("user", "how do I bake bread"), ("assistant", "With patience."), ("user", "and rye?"), ("assistant", "Also.")]
ROLES = {"user": "human", "assistant": "gpt"}


def openai_turns():
    return [{"role": role, "content": text} for role, text in CHAT]


def genai(turns):
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]} for role, text in turns])


def otlp(attributes, trace="t1", events=()):
    pairs = [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]
    span = {"traceId": trace, "attributes": pairs, "events": list(events)}
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


def tree():
    reply = {"message_id": "m4", "role": "assistant", "text": "Also.", "replies": []}
    follow_up = {"message_id": "m3", "role": "prompter", "text": "and rye?", "replies": [reply]}
    best = {"message_id": "m2", "role": "assistant", "text": "With patience.", "rank": 0, "replies": [follow_up]}
    worse = {"message_id": "m5", "role": "assistant", "text": "No idea.", "rank": 1, "replies": []}
    root = {"message_id": "m1", "role": "prompter", "text": CHAT[0][1], "lang": "en", "replies": [worse, best]}
    return {"message_tree_id": "m1", "prompt": root}


def flat():
    rows, waiting = [], [(None, tree()["prompt"])]
    while waiting:
        parent, message = waiting.pop()
        waiting += [(message["message_id"], reply) for reply in message.pop("replies")]
        rows.append({"parent_id": parent, **message})
    return rows[::-1]


TOOLS = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": CHAT[0][1]},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]},
    {"role": "tool", "content": "{}", "tool_call_id": "c"},
    {"role": "assistant", "content": [{"type": "text", "text": "With patience."}]},
    *openai_turns()[2:],
]
EVENTS = [
    *({"name": f"gen_ai.{role}.message", "attributes": {"content": text}} for role, text in CHAT[:3]),
    {"name": "gen_ai.choice", "attributes": {"message": json.dumps({"content": "Also."})}},
]
INDEXED = {f"gen_ai.prompt.{at}.{key}": value for at, turn in enumerate(CHAT[:3])
           for key, value in zip(("role", "content"), turn, strict=True)}  # fmt: skip
SAMPLES = {
    "openai": ("openai", [{"messages": openai_turns()}]),
    "openai with tools": ("openai", [{"messages": TOOLS}]),
    "openai calls": (
        "openai",
        [
            {
                "request": {"messages": openai_turns()[:3], "user": "u"},
                "response": {"choices": [{"message": openai_turns()[3]}]},
            }
        ],
    ),
    "sharegpt": ("sharegpt", [{"conversations": [{"from": ROLES[role], "value": text} for role, text in CHAT]}]),
    "lmsys": ("lmsys", [{"conversation_id": "c1", "conversation": openai_turns(), "language": "English"}]),
    "oasst trees": ("oasst", [tree()]),
    "oasst flat": ("oasst", flat()),
    "mirrorbench": ("mirrorbench", [{"conversation_id": "c", "task_description": "Bakes.", "turns": openai_turns()}]),
    "simulatorarena": (
        "simulatorarena",
        [
            {
                "workerId": "w",
                "intent": "Bread",
                "user_queries": [text for role, text in CHAT if role == "user"],
                "ai_responses": [text for role, text in CHAT if role == "assistant"],
            }
        ],
    ),
    "otel": (
        "otel",
        [
            otlp({"gen_ai.input.messages": genai(CHAT[:1]), "gen_ai.output.messages": genai(CHAT[1:2])}),
            otlp({"gen_ai.input.messages": genai(CHAT[:3]), "gen_ai.output.messages": genai(CHAT[3:])}),
            otlp({"http.method": "GET"}),
        ],
    ),
    "otel events": ("otel", [{"trace_id": "t", "attributes": {}, "events": EVENTS}]),
    "otel indexed": ("otel", [otlp({**INDEXED, "gen_ai.completion.0.content": "Also."})]),
}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_format_gives_the_words_that_the_user_and_the_assistant_exchanged(name, tmp_path):
    format, rows = SAMPLES[name]
    summary = import_log(write(tmp_path / "log.jsonl", rows), tmp_path / "out.jsonl", format=format)
    (logged,) = read_logged(tmp_path / "out.jsonl")
    assert [(message.role, message.content) for message in logged.conversation.messages] == CHAT
    assert (summary.kept, dict(summary.skipped)) == (1, {})


def test_an_imported_file_goes_through_the_pipeline_and_keeps_its_users(tmp_path):
    rows = [
        {"id": f"c{number}", "user": f"person {number % 2}",
         "messages": [{"role": "user", "content": f"hello {number}"}, {"role": "assistant", "content": "hi"}]}
        for number in range(6)
    ]  # fmt: skip
    (tmp_path / "log.json").write_text(json.dumps(rows))
    import_log(str(tmp_path / "log.json"), tmp_path / "out.jsonl", format="openai")
    summary = preprocess(str(tmp_path / "out.jsonl"), tmp_path / "clean.jsonl", language=None)
    assert summary.kept == 6
    for path in ("out.jsonl", "clean.jsonl"):
        assert len({logged.user_key for logged in read_logged(tmp_path / path)}) == 2


def test_malformed_rows_are_counted_and_named_and_the_rest_is_imported(tmp_path):
    good = {"id": "good", "messages": openai_turns()}
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    lines = [
        json.dumps(good), "{not json", "[1, 2]", '{"messages": 7}', json.dumps(good),
        json.dumps({"id": "seen", "messages": [image]}), json.dumps({"id": "first", "messages": openai_turns()[1:]}),
        json.dumps({"id": "nobody", "messages": [{"role": "narrator", "content": "x"}]}),
        '{"id": "half", "messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "?"}]}',
    ]  # fmt: skip
    path = tmp_path / "log.jsonl"
    path.write_bytes("\n".join([*lines, ""]).encode() + b'{"messages": "\xff"}\n')
    outcome = CliRunner().invoke(app, ["data", "import", str(path), "-o", str(tmp_path / "o.jsonl"), "--format=openai"])
    assert outcome.exit_code == 0, outcome.output
    skipped = [json.loads(line) for line in (tmp_path / "o.skipped.jsonl").read_text().splitlines()]
    assert {(row["id"], row["reason"]) for row in skipped} == {
        ("row 2", "not a row of openai"), ("row 3", "not a row of openai"), ("row 4", "not a row of openai"),
        ("good", "repeated conversation"), ("seen", "unreadable turn"), ("first", "does not begin with the user"),
        ("nobody", "unreadable turn"), ("half", "lone surrogates"), ("row 10", "not a row of openai"),
    }  # fmt: skip
    assert "skipped 4: not a row of openai" in outcome.stdout
    assert "narrator" in next(row["detail"] for row in skipped if row["id"] == "nobody")


def test_a_log_in_another_format_is_refused_in_a_sentence(tmp_path):
    path = write(tmp_path / "log.jsonl", [{"messages": openai_turns()}])
    outcome = CliRunner().invoke(app, ["data", "import", path, "-o", str(tmp_path / "o.jsonl"), "--format=sharegpt"])
    assert outcome.exit_code == 2
    assert "has no row in the format sharegpt: none of 1 could be read" in " ".join(outcome.output.split())


def test_the_command_offers_every_format():
    choices = get_type_hints(import_)["format"]
    assert set(get_args(choices)) == set(LOG_FORMATS)


KEYS = sorted({"messages", "role", "content", "conversations", "from", "value", "conversation", "prompt", "replies",
               "text", "rank", "parent_id", "message_id", "attributes", "events", "resourceSpans", "scopeSpans",
               "spans", "key", "gen_ai.input.messages", "parts", "type", "name", "request", "response"})  # fmt: skip
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from([*KEYS, "user", "gpt", "[]"]))
JSON = st.recursive(
    LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner))
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(format=st.sampled_from(sorted(LOG_FORMATS)), rows=st.lists(JSON, max_size=4))
def test_no_row_whatever_it_holds_ends_in_a_traceback(tmp_path, format, rows):
    try:
        summary = import_log(write(tmp_path / "log.jsonl", rows), tmp_path / "out.jsonl", format=format)
    except SimgymError:
        return
    assert summary.read == summary.kept + sum(summary.skipped.values())
