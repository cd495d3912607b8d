"""What OpenAILM makes of refusals: of one request, of a field, of a form of schemas, or of the whole run."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_server import SCHEMA, SECRET, SOON, Answer, Connect, Serve, ask, echo, fails, says

from simgym.errors import ConfigurationError
from simgym.language_models import SamplingParams

pytest.importorskip("openai")


@pytest.mark.parametrize(
    ("refused", "asked"),
    [
        (set(), ["json_schema", "json_schema"]),
        ({"json_schema"}, ["json_schema", "json_object", "json_object"]),
        ({"json_schema", "json_object"}, ["json_schema", "json_object", None, None]),
    ],
)
def test_a_server_without_json_schemas_is_asked_more_simply_from_then_on(
    serve: Serve, connect: Connect, refused: set[str], asked: list[str | None]
) -> None:
    def picky(path: str, body: dict[str, Any]) -> Answer:
        form = body.get("response_format", {}).get("type")
        return fails(400, "unsupported response_format") if form in refused else says('{"n": 1}')

    server = serve(picky)
    model = connect(server)
    before = model.fingerprint()
    for _ in range(2):
        assert model.generate([ask(json_schema=SCHEMA)])[0].text == '{"n": 1}'
    assert [body.get("response_format", {}).get("type") for body in server.bodies] == asked
    assert model.fingerprint() == before
    sent = server.bodies[0]["response_format"]["json_schema"]
    assert sent == {"name": "reply", "schema": SCHEMA, "strict": True}


def test_a_request_that_is_refused_in_every_form_teaches_nothing(serve: Serve, connect: Connect) -> None:
    server = serve(lambda path, body: fails(400, "no") if body["messages"][-1]["content"] == "bad" else says("{}"))
    model = connect(server)
    assert model.generate([ask("bad", json_schema=SCHEMA)])[0].fault is not None
    model.generate([ask("good", json_schema=SCHEMA)])
    assert server.bodies[-1]["response_format"]["type"] == "json_schema"


def test_a_model_that_wants_max_completion_tokens_gets_them(serve: Serve, connect: Connect) -> None:
    def modern(path: str, body: dict[str, Any]) -> Answer:
        if "max_tokens" in body:
            return fails(400, "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.")
        return says(str(body["max_completion_tokens"]))

    server = serve(modern)
    model = connect(server)
    request = ask(sampling=SamplingParams(max_new_tokens=9))
    assert [model.generate([request])[0].text for _ in range(2)] == ["9", "9"]
    assert len(server.bodies) == 3


def test_a_refused_field_is_left_out_from_then_on_with_one_warning(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    def modern(path: str, body: dict[str, Any]) -> Answer:
        for field in ("temperature", "seed"):
            if field in body:
                return fails(400, f"Unsupported value: '{field}' is not supported with this model.", param=field)
        return says("fine")

    server = serve(modern)
    model = connect(server)
    assert [model.generate([ask(json_schema=SCHEMA)])[0].text for _ in range(2)] == ["fine", "fine"]
    assert len(server.bodies) == 4
    assert all(body["response_format"]["type"] == "json_schema" for body in server.bodies)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert "are drawn at its own temperature" in warnings[0]
    assert "not seeded" in warnings[1]


def test_content_that_is_refused_first_does_not_settle_the_form(serve: Serve, connect: Connect) -> None:
    server = serve(lambda path, body: fails(400, "I do not like it") if len(server.bodies) == 1 else says("{}"))
    model = connect(server)
    first = model.generate([ask(json_schema=SCHEMA)])[0]
    model.generate([ask(json_schema=SCHEMA)])
    assert str(first.fault).startswith("refused: ")
    assert [body["response_format"]["type"] for body in server.bodies] == ["json_schema", "json_schema"]


def test_an_error_inside_a_200_counts_as_its_code(serve: Serve, connect: Connect) -> None:
    busy: Answer = (200, {"choices": None, "error": {"code": 429, "message": "slow down"}}, SOON)
    broken_off = says("Half a sent", finish_reason="error")
    answers = iter([busy, (*broken_off[:2], SOON)])
    server = serve(lambda path, body: next(answers, None) or echo(path, body))
    assert connect(server, max_retries=2).generate([ask()])[0].text == "hello"
    fault = connect(serve(lambda path, body: busy)).generate([ask()])[0].fault
    assert str(fault).startswith("server: ")
    assert "answered 429: slow down" in str(fault)


def test_one_flagged_input_or_odd_reply_is_a_fault_of_its_request_alone(serve: Serve, connect: Connect) -> None:
    odd = {
        "flagged": fails(403, f"Your input was flagged, {SECRET}"),
        "parts": says([{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]),
        "number": says(7),
        "usage": (200, {**says("ok")[1], "usage": {"prompt_tokens": "many"}}, {}),
        "key": says(f"your key is {SECRET}"),
    }
    server = serve(lambda path, body: odd.get(body["messages"][-1]["content"]) or echo(path, body))
    replies = connect(server).generate([ask(text) for text in ("hello", *odd)])
    assert [reply.text for reply in replies] == ["hello", "", "in parts", "", "ok", "your key is [key]"]
    assert [str(reply.fault).partition(":")[0] for reply in replies] == [
        "None", "refused", "None", "unparsable", "None", "None"
    ]  # fmt: skip
    assert SECRET not in repr(replies)


@pytest.mark.parametrize("answer", [fails(402, "Insufficient Balance"), fails(429, "quota", code="insufficient_quota")])
def test_no_credit_ends_the_run_at_once(serve: Serve, connect: Connect, answer: Answer) -> None:
    server = serve(lambda path, body: answer)
    with pytest.raises(ConfigurationError, match="no credit"):
        connect(server, max_retries=4).generate([ask()])
    assert len(server.bodies) == 1
