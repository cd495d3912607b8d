"""What a server says, without a server: whom a refusal concerns, and a reader that is total over JSON.

Public sources of these faults: OpenRouter's list of errors and litellm#9305 (a flagged input is a 403), openlit#1068,
langchaingo#1355, langchain-azure#82 and platform-docs-public#7 (refused fields).
"""

from __future__ import annotations

import copy
import json
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgym.conversation import Message
from simgym.faults import Fault, FaultKind
from simgym.language_models import OpenAILM, Request
from simgym.language_models._server_problems import Asked, Scope, classify, code_of
from simgym.language_models._server_replies import error_inside, parse_json, read_likelihood, read_reply

KEY = "sk-do-not-show-me"
FIELDS = ("model", "messages", "temperature", "top_p", "max_tokens", "seed", "stop", "logprobs")
ASKED = Asked(host="host:1", model="m", secrets=(KEY,), fields=FIELDS)


def error(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


def pydantic_refusal(field: str) -> dict[str, Any]:
    return {"detail": [{"type": "extra_forbidden", "loc": ["body", field], "msg": "Extra inputs are not permitted"}]}


@pytest.mark.parametrize(
    ("status", "body", "scope"),
    [
        (401, error(f"Incorrect API key provided: {KEY}"), Scope.RUN),
        (403, error("Forbidden"), Scope.RUN),
        (403, error("Your chosen model requires moderation and your input was flagged"), Scope.REQUEST),
        (451, error("blocked"), Scope.REQUEST),
        (400, error("The response was filtered.", code="content_filter"), Scope.REQUEST),
        (400, error("roles must alternate: insufficient context in 'my seed money and stop signs'"), Scope.REQUEST),
        (402, error("Insufficient Balance"), Scope.RUN),
        (429, error("You exceeded your current quota", code="insufficient_quota"), Scope.RUN),
        (400, error("Your credit balance is too low to access the API"), Scope.RUN),
        (429, error("Rate limit reached for requests"), Scope.SERVER),
        (529, error("Overloaded"), Scope.SERVER),
        (404, error("The model `m` does not exist"), Scope.RUN),
        (400, error("Invalid model: m", type="invalid_model"), Scope.RUN),
        (400, error("The model `m` does not exist", code="model_not_found"), Scope.RUN),
        (308, "moved", Scope.RUN),
        # further providers, each in its own words
        (403, error("Your team has either used all available credits or reached its spending limit."), Scope.RUN),
        (429, error("Your account is suspended", type="exceeded_current_quota_error"), Scope.RUN),
        (400, error("Access denied, please make sure your account is in good standing.", code="Arrearage"), Scope.RUN),
        (400, error("You have reached your specified API usage limits."), Scope.RUN),
        (400, error("API key not valid. Please pass a valid API key.", status="INVALID_ARGUMENT"), Scope.RUN),
        (407, "Proxy Authentication Required", Scope.RUN),
        (400, error("m is not a valid model ID"), Scope.RUN),
        (400, error("The supported API model names are a or b, but you passed m."), Scope.RUN),
        (400, error("The model `m` has been decommissioned.", code="model_decommissioned"), Scope.RUN),
        (400, error("Content Exists Risk"), Scope.REQUEST),
        (403, error("Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_DATA"), Scope.REQUEST),
        (500, error("content_filter triggered"), Scope.REQUEST),
        (500, error("The content filter is out of order"), Scope.SERVER),
        (400, error("Engine is currently overloaded", type="engine_overloaded_error"), Scope.SERVER),
        (498, error("Flex tier capacity exceeded"), Scope.SERVER),
        (429, error("You exceeded your current quota. Please retry in 31 s."), Scope.SERVER),
    ],
)
def test_a_refusal_concerns_the_request_the_run_or_the_server(status: int, body: Any, scope: Scope) -> None:
    problem = classify(status, body, ASKED)
    assert problem.scope is scope
    assert KEY not in problem.text
    assert str(status) in problem.text


def test_a_403_after_an_answer_is_about_what_was_said() -> None:
    answered = Asked(host="host:1", model="m", secrets=(KEY,), fields=FIELDS, answered=True)
    problem = classify(403, error(f"Forbidden for {KEY}"), answered)
    assert problem.scope is Scope.REQUEST
    assert problem.text == "refused: host:1 answered 403: Forbidden for [key]."


@pytest.mark.parametrize(
    "said",
    [
        "Input length (700001 tokens) exceeds the maximum allowed length (536826 tokens).",  # SGLang
        "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000",  # Anthropic
        "prompt is too long: 208310 tokens > 200000 maximum",
        "max_tokens must be at least 1, got -88.",  # vLLM, older
        "max_tokens=5000 cannot be greater than max_model_len=2048. Please request fewer output tokens.",  # vLLM 0.32
        "Please reduce the length of the messages or completion.",  # Groq
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",  # Gemini
        "Prompt contains 50000 tokens, too large for model with 32768 maximum context length",  # Mistral
        "Input is too long for requested model.",  # Bedrock
        "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 and 200",  # TGI
        "`inputs` must have less than 1024 tokens. Given: 2000",
        "the request exceeds the available context size (4096 tokens)",  # llama.cpp
        "Trying to keep the first 5000 tokens when context the overflows.",  # LM Studio
        "Range of input length should be [1, 30720]",  # DashScope
        "This model's maximum prompt length is 131072 but the request contains 200000 tokens.",  # xAI
        "Your request exceeded model token limit: 8192 (requested: 10000)",  # Moonshot
        "Prompt exceeds max length",  # Zhipu
        "The sum of prompt length (5000), query length (0) should not exceed max_num_tokens (4096)",  # TensorRT-LLM
        "prompt token count of 140000 exceeds the limit of 128000",  # GitHub
        "Total tokens of image and text exceed max message tokens",  # Volcengine
        "too many tokens: total tokens 5000 is over the limit 4096",  # Cohere
    ],
)
def test_a_full_context_is_told_in_every_providers_words(said: str) -> None:
    problem = classify(400, error(said), ASKED)
    assert problem.scope is Scope.REQUEST
    assert Fault.parse(problem.text).kind is FaultKind.CONTEXT_OVERFLOW


@pytest.mark.parametrize(
    ("status", "body", "field"),
    [
        (400, error("Unsupported value: it does not support 0 with this model.", param="temperature"), "temperature"),
        (400, error("invalid temperature: only 1 is allowed for this model"), "temperature"),
        (400, error("`temperature` and `top_p` cannot both be specified for this model."), "top_p"),
        (422, pydantic_refusal("seed"), "seed"),
        (400, error("[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg': 'not permitted'}]"), "seed"),
        (400, error("Unknown field: seed"), "seed"),
        (400, error("'max_tokens' is not supported with this model. Use 'max_completion_tokens'."), "max_tokens"),
        (403, error("You are not allowed to request logprobs from this model"), "logprobs"),
        (400, error("Unsupported parameter: 'stop' is not supported with this model."), "stop"),
        (400, error("Argument not supported on this model: stop"), "stop"),
        (400, error('Invalid JSON payload received. Unknown name "seed": Cannot find field.'), "seed"),
        (400, error("Unrecognized request argument supplied: seed"), "seed"),
        (422, error("`temperature` has to be a strictly positive float"), "temperature"),
        (400, error("json: cannot unmarshal number into Go struct field .temperature of type int"), "temperature"),
    ],
)  # fmt: skip
def test_a_refused_field_is_found_in_every_providers_words(status: int, body: Any, field: str) -> None:
    problem = classify(status, body, ASKED)
    assert (problem.scope, problem.field) == (Scope.FIELD, field)
    own = Asked(host="host:1", model="m", fields=FIELDS, own_fields=[field])
    assert classify(400, body, own).scope is Scope.RUN


@pytest.mark.parametrize(
    "body",
    [
        error('The message "what temperature does a sourdough need, and for how long to stop?" is not allowed.'),
        {"detail": [{"loc": ["body", "messages", 0], "msg": "not permitted", "input": "the seed is unknown"}]},
    ],
)
def test_a_refusal_that_quotes_the_conversation_names_no_field(body: Any) -> None:
    assert classify(400, body, ASKED).scope is Scope.REQUEST


QUOTED = (
    "my bank says insufficient balance", "they wrote: your account is suspended", "it prints: incorrect API key",
    "why does it say model not found", "the server is overloaded, try again later", "a prompt exceeds the limit",
)  # fmt: skip


@pytest.mark.parametrize("status", [400, 403, 422])
@given(
    said=st.lists(st.sampled_from(QUOTED), min_size=1, max_size=3).map(", and ".join),
    frame=st.sampled_from(["Invalid input: {}", "{} was flagged by moderation", "The message {} cannot be answered"]),
    mark=st.sampled_from("\"'"),
    answered=st.booleans(),
)
def test_what_a_refusal_quotes_ends_no_run(status: int, said: str, frame: str, mark: str, answered: bool) -> None:
    asked = Asked(host="host:1", model="m", secrets=(KEY,), fields=FIELDS, answered=answered)
    problem = classify(status, error(frame.format(f"{mark}{said}{mark}")), asked)
    if status != 403 or answered or "flagged" in frame:
        assert problem.scope is Scope.REQUEST
        assert problem.text.startswith("refused: ")


def says(**choice: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop", **choice}]}


def test_parts_are_joined_and_thoughts_are_kept_apart() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
        {"type": "text", "text": "Hel"},
        {"type": "text", "text": "lo."},
    ]
    reply = read_reply(says(message={"content": parts}))
    assert (reply.text, reply.reasoning, reply.fault) == ("Hello.", "Hm.", None)
    reply = read_reply(says(message={"content": None, "reasoning_content": "Hm."}, finish_reason="length"))
    assert (reply.text, reply.reasoning, reply.cut) == ("", "Hm.", True)


@pytest.mark.parametrize(
    "thought",
    [
        {"type": "thinking", "thinking": "Hm."},
        {"type": "reasoning_text", "text": "Hm."},
        {"type": "text", "text": "Hm.", "thought": True},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
    ],
)
def test_a_thought_is_none_of_the_words_in_every_providers_parts(thought: dict[str, Any]) -> None:
    said: list[dict[str, Any]] = [{"type": "output_text", "text": "Hi"}, {"type": "reference", "reference_ids": [1]}]
    messages: list[dict[str, Any]] = [
        {"content": [thought, *said]}, {"content": said[0], "reasoning": None, "reasoning_details": [thought]},
    ]  # fmt: skip
    for message in messages:
        reply = read_reply(says(message=message))
        assert (reply.text, reply.reasoning, reply.fault) == ("Hi", "Hm.", None)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"choices": None, "error": {"code": 429, "message": "busy"}}, 429),
        ({"object": "error", "message": "busy", "code": 503}, 503),
        ({"detail": "busy"}, 502),
        (says(error={"message": "busy", "code": "500"}), 500),
        (says(), None),
        ({**says(), "message": "fine"}, None),
    ],
)
def test_an_error_inside_a_200_is_found(answer: dict[str, Any], status: int | None) -> None:
    error = error_inside(answer)
    assert (error and code_of(error)) == status


@pytest.mark.parametrize("ended", ["error", "abort", "ERROR", "network_error", "repetition", 7, {}])
def test_a_reply_that_was_broken_off_is_a_fault(ended: Any) -> None:
    fault = read_reply(says(finish_reason=ended)).fault
    assert fault is not None
    assert fault.startswith("server: ")


def test_numbers_are_read_from_text_and_nulls_are_a_fault() -> None:
    usage = {"usage": {"prompt_tokens": "12", "completion_tokens": None}}
    tokens = {"content": [{"logprob": "-0.5"}, {"logprob": -1}]}
    reply = read_reply({**says(logprobs=tokens), **usage}, logprobs=True)
    assert (reply.prompt_tokens, reply.completion_tokens, reply.logprobs) == (12, 0, (-0.5, -1.0))
    fault = read_reply(says(logprobs={"token_logprobs": [None, -1.0]}), logprobs=True).fault
    assert fault == "unparsable: a log-probability is not a number"


WORDS = st.sampled_from(
    "choices message content text finish_reason logprobs token_logprobs logprob usage prompt_tokens error code detail "  # noqa: SIM905
    "loc param type thinking reasoning_content refusal stop_reason status summary reasoning_details thought".split()
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=6), inner, max_size=6),
    max_leaves=24,
)
VALID = {
    "choices": [
        {
            "message": {"role": "assistant", "content": [{"type": "text", "text": "Hi"}], "reasoning_content": "Hm"},
            "finish_reason": "stop",
            "stop_reason": 5,
            "logprobs": {"content": [{"token": "Hi", "logprob": -0.5}], "token_logprobs": [-0.5]},
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    "error": None,
}


def mutated(value: Any, other: Any, chooser: random.Random) -> Any:
    """The value with one of its places, however deep, replaced or dropped."""
    value = copy.deepcopy(value)
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = chooser.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and chooser.random() < 0.8:
            place = place[key]
        elif chooser.random() < 0.2:
            del place[key]
            return value
        else:
            place[key] = other
            return value


def check_total(answer: Any) -> None:
    for logprobs in (False, True):
        reply = read_reply(answer, logprobs=logprobs)
        assert reply.fault is None or Fault.parse(reply.fault).kind in {
            FaultKind.SERVER, FaultKind.UNPARSABLE, FaultKind.REFUSED
        }  # fmt: skip
        json.dumps([reply.text, reply.reasoning, reply.fault], ensure_ascii=False).encode()
        assert all(math.isfinite(value) for value in reply.logprobs)
        assert min(reply.prompt_tokens, reply.completion_tokens) >= 0
    likelihood = read_likelihood(answer, 0, 1)
    assert likelihood is None or math.isfinite(likelihood)
    for status in (200, 308, 400, 401, 403, 429, 500):
        problem = classify(status, {"error": error_inside(answer)} if status == 200 else answer, ASKED)
        problem.text.encode()
        assert len(problem.text) < 1000
        assert KEY not in problem.text


@settings(max_examples=500, deadline=None)
@given(JSON)
def test_any_json_is_a_reply_or_a_typed_fault(answer: Any) -> None:
    check_total(answer)


TOKENS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=40).map("sk-{}".format)
QUOTES = st.sampled_from(
    ["{}", "Invalid header: {}", "  {} \n", "x" * 290 + "{}", "bad [{}], twice {}", "{{'k': '{}'}}"]
)


@settings(max_examples=200, deadline=None)
@given(TOKENS, TOKENS, QUOTES, JSON, st.integers(0, 2**32))
def test_no_secret_is_quoted_wherever_an_answer_has_it(key: str, token: str, quote: str, other: Any, seed: int) -> None:
    asked = Asked(host="host:1", model="m", secrets=(key, f"Bearer {token}", f"a {token} b"), answered=bool(seed % 2))
    chooser = random.Random(seed)
    written = chooser.choice([key, token, f"Bearer {token}", f"Bearer\n{token}", f"a  {token}\nb"])
    said = quote.replace("{}", written)
    body = chooser.choice([said, error(said), error("x", **{said: other}), {"detail": [other, {"msg": said}]},
                           {"error": {"message": [other, {said: [said]}]}}, mutated(VALID, said, chooser)])  # fmt: skip
    for status in (301, 400, 403, 404, 429, 500):
        text = classify(status, body, asked).text
        assert key not in text
        assert token not in text


@settings(max_examples=500, deadline=None)
@given(JSON, st.integers(0, 2**32))
def test_a_valid_answer_with_one_wrong_place_is_a_reply_or_a_typed_fault(other: Any, seed: int) -> None:
    check_total(mutated(VALID, other, random.Random(seed)))


@settings(max_examples=500, deadline=None)
@given(JSON | st.text(alphabet="<think>/|a \ud800", max_size=30), st.integers(0, 2**32))
def test_a_batch_survives_whatever_one_of_its_answers_holds(other: Any, seed: int) -> None:
    model = OpenAILM("m", base_url="http://localhost:1/v1", logprobs=True)
    call = model._compose(Request((Message("user", "hello"),)))
    generation = model._generation(call, read_reply(mutated(VALID, other, random.Random(seed)), logprobs=True))
    assert (generation.fault is None) == (generation.finish_reason != "fault")
    assert generation.fault is None or Fault.parse(generation.fault).kind is not FaultKind.OTHER
    json.dumps([generation.text, generation.reasoning, generation.fault], ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe{", b"[" * 100_000, b'{"choices": ' + b"9" * 5000 + b"}", b'{"a"', b"<html>busy</html>"]
)
def test_a_body_that_is_no_json_is_text(content: bytes) -> None:
    assert read_reply(parse_json(content)).fault is not None
    check_total(parse_json(content))
