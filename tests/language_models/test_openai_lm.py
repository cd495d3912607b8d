"""OpenAILM against servers that really listen: a small one with faults on demand, and `transformers serve`."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import pickle
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from real_servers import ServerProcess, free_port
from scripted_server import SCHEMA, SECRET, Answer, Connect, Serve, ask, echo, fails, says

from simgym.conversation import Message
from simgym.errors import ConfigurationError
from simgym.language_models import CountingLM, Counts, Generation, LanguageModel, OpenAILM, Request, SamplingParams

pytest.importorskip("openai")


def test_a_request_goes_out_whole_and_comes_back_with_usage(serve: Serve, connect: Connect) -> None:
    server = serve(lambda path, body: says("hello you END of it", finish_reason="length"))
    model = connect(server, extra_body={"top_k": 5, "top_p": None})
    request = Request(
        (Message("system", "be brief"), Message("user", "hi")),
        SamplingParams(temperature=0.5, top_p=0.9, max_new_tokens=7, stop=("END",)),
        seed=2**40 + 5,
        adapter="lora",
    )
    generation = model.generate([request])[0]
    assert server.bodies == [
        {
            "model": "lora",
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
            "temperature": 0.5,
            "max_tokens": 7,
            "stop": ["END"],
            "seed": 5,
            "top_k": 5,
        }
    ]
    assert generation == Generation(
        "hello you ",
        finish_reason="length",
        prompt=json.dumps(server.bodies[0]["messages"]),
        prompt_tokens=3,
        completion_tokens=2,
    )
    assert server.keys == {f"Bearer {SECRET}"}
    assert isinstance(model, LanguageModel)


def test_many_requests_keep_their_order_and_the_bound_on_concurrency(serve: Serve, connect: Connect) -> None:
    def slowly(path: str, body: dict[str, Any]) -> Answer:
        time.sleep(0.02 + 0.02 * (int(body["messages"][-1]["content"]) % 3))
        return echo(path, body)

    server = serve(slowly)
    texts = [str(number) for number in range(24)]
    generations = connect(server, max_concurrency=4).generate([ask(text) for text in texts])
    assert [generation.text for generation in generations] == texts
    assert server.most_in_flight == 4


def test_it_works_inside_a_running_event_loop(serve: Serve, connect: Connect) -> None:
    model = connect(serve(echo))

    async def notebook_cell() -> str:
        return model.generate([ask("in a loop")])[0].text

    assert asyncio.run(notebook_cell()) == "in a loop"


def test_too_many_requests_are_tried_again(serve: Serve, connect: Connect) -> None:
    answers = iter([fails(429, "slow down"), fails(429, "slow down")])
    server = serve(lambda path, body: next(answers, None) or echo(path, body))
    assert connect(server, max_retries=2).generate([ask()])[0].text == "hello"
    assert len(server.bodies) == 3


def test_a_server_that_keeps_failing_is_a_fault_of_its_request_alone(serve: Serve, connect: Connect) -> None:
    def flaky(path: str, body: dict[str, Any]) -> Answer:
        text = body["messages"][-1]["content"]
        return fails(500, f"out of memory, key {SECRET}") if text == "bad" else says(text)

    server = serve(flaky)
    good, bad = connect(server, max_retries=2).generate([ask("good"), ask("bad")])
    assert good.fault is None
    assert bad.finish_reason == "fault"
    assert bad.fault is not None
    assert bad.fault.startswith("server: 127.0.0.1")
    assert "out of memory" in bad.fault
    assert SECRET not in bad.fault
    assert len(server.bodies) == 4


def test_a_slow_server_is_a_timeout(serve: Serve, connect: Connect) -> None:
    def sleep(path: str, body: dict[str, Any]) -> Answer:
        time.sleep(0.6)
        return echo(path, body)

    fault = connect(serve(sleep), timeout=0.1).generate([ask()])[0].fault
    assert fault is not None
    assert fault.startswith("timeout: no answer from 127.0.0.1")


def test_a_server_that_is_down_is_named_with_what_to_do(connect: Connect) -> None:
    port = free_port()
    fault = connect(f"http://127.0.0.1:{port}/v1").generate([ask()])[0].fault
    assert fault is not None
    assert fault.startswith(f"server: no connection to 127.0.0.1:{port}")
    assert "Start the server" in fault


@pytest.mark.parametrize(
    "said",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
        "'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context length is 4096.",
        "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
        "the request exceeds the available context size (4096 tokens)",
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
    ],
)
def test_a_prompt_that_is_too_long_is_a_context_overflow(serve: Serve, connect: Connect, said: str) -> None:
    server = serve(lambda path, body: fails(400, said))
    fault = connect(server).generate([ask(json_schema=SCHEMA)])[0].fault
    assert fault is not None
    assert fault.startswith("context_overflow: ")
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "answer",
    [
        says(None, message={"refusal": "I will not."}),
        says("half a", finish_reason="content_filter"),
        fails(400, "The response was filtered.", code="content_filter"),
        fails(422, "roles must alternate"),
    ],
)
def test_a_refusal_is_a_fault(serve: Serve, connect: Connect, answer: Answer) -> None:
    fault = connect(serve(lambda path, body: answer)).generate([ask()])[0].fault
    assert fault is not None
    assert fault.startswith("refused: ")


@pytest.mark.parametrize("value", [b"{", b'"text"', {"error": "wrong"}, {"choices": []}, {"choices": None}, []])
def test_an_answer_that_cannot_be_read_is_a_fault(serve: Serve, connect: Connect, value: Any) -> None:
    fault = connect(serve(lambda path, body: (200, value, {}))).generate([ask()])[0].fault
    assert fault is not None
    assert fault.startswith("server: ")


@pytest.mark.parametrize(
    "message",
    [
        {"content": "<think>hm</think>\n\nHello"},
        {"content": "hm</think>\n\nHello"},  # the server's template opens the block
        {"content": "Hello", "reasoning_content": "hm"},  # vLLM and SGLang with a reasoning parser
        {"content": "Hello", "reasoning": "hm"},  # newer vLLM, OpenRouter
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": "Hello"},
            ]
        },
        {"content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}], "reasoning": "hm"},
    ],
)
def test_thoughts_are_told_from_what_is_said(serve: Serve, connect: Connect, message: dict[str, Any]) -> None:
    """Sources: vllm#13375, vllm#19839; lists of parts as Magistral and mistral-large-2512 send them."""
    (generation,) = connect(serve(lambda path, body: says(None, message=message))).generate([ask()])
    assert (generation.text, generation.reasoning, generation.fault) == ("Hello", "hm", None)


def test_a_bound_that_went_on_thoughts_is_named(serve: Serve, connect: Connect) -> None:
    """`content` is null, with `reasoning_content` beside it."""
    message = {"content": None, "reasoning_content": "hm"}
    cut = says(None, message=message, finish_reason="length")
    (generation,) = connect(serve(lambda path, body: cut)).generate([ask()])
    assert generation.fault is not None
    assert generation.fault.startswith("cut_while_thinking: ")
    assert generation.reasoning == "hm"


def test_variables_of_the_chat_template_are_sent(serve: Serve, connect: Connect) -> None:
    server = serve(echo)
    connect(server, chat_template_kwargs={"enable_thinking": False}).generate([ask()])
    assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_reply_can_always_be_written_to_a_file(serve: Serve, connect: Connect) -> None:
    assert connect(serve(lambda path, body: says("a\ud800b"))).generate([ask()])[0].text.encode()


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_says_what_to_do_without_showing_the_key(
    serve: Serve, connect: Connect, status: int
) -> None:
    server = serve(lambda path, body: fails(status, f"Incorrect API key provided: {SECRET}"))
    with pytest.raises(ConfigurationError, match=r"OPENAI_API_KEY|model name 'm'") as caught:
        connect(server).generate([ask()] * 8)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


def test_a_server_that_answers_with_whatever_it_has_is_told_of(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(echo)
    server.listed = ["m", "base.gguf\x1b[31m"]
    model = connect(server)
    model.check()
    assert not caplog.records
    for _ in range(2):
        model.check(adapter="lora")
    assert [record.getMessage()[:70] for record in caplog.records] == [
        f"127.0.0.1:{server.server_port} lists 'base.gguf\\x1b[31m', 'm' and not 'lora', and answers"[:70]
    ]


@pytest.mark.parametrize("status", [200, 400, 404, 500])
def test_secret_headers_that_a_server_quotes_are_in_no_fault_message_or_reply(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    gateway, token = "gateway-key-of-ours", "token-of-ours-1234"
    monkeypatch.setenv("GATEWAY_KEY", gateway)
    monkeypatch.setenv("TOKEN", f"Bearer {token}")
    quoted = f"no {gateway} and no {token}, not even 'Bearer {token}'"
    server = serve(lambda path, body: says(quoted) if status == 200 else fails(status, quoted))
    model = connect(server, headers={"X-Api-Key": {"env": "GATEWAY_KEY"}, "Authorization": {"env": "TOKEN"}})
    written = caplog.text
    try:
        reply = model.generate([ask()])[0]
        written += reply.text + str(reply.fault)
    except ConfigurationError as problem:
        written += str(problem)
    assert server.keys == {f"Bearer {token}"}
    assert "no [key] and no [key], not even" in written
    assert gateway not in written
    assert token not in written


def test_openai_itself_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigurationError, match="Set OPENAI_API_KEY"):
        OpenAILM("gpt").generate([ask()])


def test_secrets_are_in_neither_fingerprint_nor_repr() -> None:
    model = OpenAILM("m", base_url=f"https://me:{SECRET}@example.org:8000/v1/?token={SECRET}", api_key=SECRET)
    assert model.fingerprint() == {"kind": "openai", "model": "m", "base_url": "example.org:8000/v1/"}
    assert SECRET not in repr(model)


@pytest.mark.parametrize("options", [{"base_url": "localhost:8000"}, {"max_concurrency": 0}, {"timeout": 0}])
def test_settings_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        OpenAILM("m", **options)


def test_log_probabilities_come_when_asked_for(serve: Serve, connect: Connect) -> None:
    content = [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]
    server = serve(lambda path, body: says("ab", logprobs={"content": content} if body.get("logprobs") else None))
    assert connect(server).generate([ask()])[0].logprobs == ()
    assert connect(server, logprobs=True).generate([ask()])[0].logprobs == (-0.5, -1.5)


def test_a_user_turn_is_a_raw_prompt_and_keeps_the_end_mark(serve: Serve, connect: Connect, tiny_model: str) -> None:
    from transformers import AutoTokenizer

    from simgym.chat_template import render

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|endconversation|>"]})
    mark = tokenizer.convert_tokens_to_ids("<|endconversation|>")
    choice = {"text": "thanks, bye", "finish_reason": "stop", "stop_reason": mark}
    server = serve(lambda path, body: (200, {"choices": [choice]}, {}))
    messages = (Message("system", "an intent"), Message("user", "hi"), Message("assistant", "hello"))
    request = Request(messages, next_role="user", kept_tokens=("<|endconversation|>",))
    with pytest.raises(ConfigurationError, match="Pass tokenizer="):
        connect(server).generate([request])
    generation = connect(server, tokenizer=tokenizer).generate([request])[0]
    assert generation.text == "thanks, bye<|endconversation|>"
    assert generation.prompt == server.bodies[0]["prompt"]
    assert generation.prompt in render(tokenizer, messages, "user")
    assert server.bodies[0]["skip_special_tokens"] is False


def test_scores_are_the_log_probabilities_of_the_continuation(serve: Serve, connect: Connect, tiny_model: str) -> None:
    def vllm(path: str, body: dict[str, Any]) -> Answer:
        assert path == "/v1/completions"
        assert body["echo"]
        values = [None, *(-float(token) for token in body["prompt"][1:]), -1000.0]
        return 200, {"choices": [{"text": "", "logprobs": {"token_logprobs": values}}]}, {}

    from transformers import AutoTokenizer

    model = connect(serve(vllm), tokenizer=tiny_model)
    encode = AutoTokenizer.from_pretrained(tiny_model)
    likelihoods = model.loglikelihood(["a prompt", ""], [" and more", "x"])
    for likelihood, text in zip(likelihoods, [" and more", "x"], strict=True):
        tokens = encode(text, add_special_tokens=False)["input_ids"]
        assert likelihood.logprob == -sum(tokens)
        assert likelihood.token_count == len(tokens)
    assert model.loglikelihood([], []) == []
    with pytest.raises(ConfigurationError, match="is empty"):
        model.loglikelihood(["a"], [""])


@pytest.mark.parametrize(
    "answer", [fails(400, "prompt must be a string."), fails(404, "Not Found"), says("a chat reply")]
)
def test_a_server_that_cannot_score_says_so(serve: Serve, connect: Connect, tiny_model: str, answer: Answer) -> None:
    with pytest.raises(ConfigurationError, match="This server cannot score"):
        connect(serve(lambda path, body: answer), tokenizer=tiny_model).loglikelihood(["a"], ["b"])


def test_a_closed_or_pickled_model_connects_again(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = connect(serve(echo))
    assert model.generate([ask("one")])[0].text == "one"
    model.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "simgym-openai"]
    assert model.generate([ask("two")])[0].text == "two"
    pickled = pickle.dumps(model)
    assert SECRET.encode() not in pickled
    copy = pickle.loads(pickled)
    with pytest.raises(ConfigurationError, match="Set OPENAI_API_KEY there"):
        copy.generate([ask("three")])
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert copy.generate([ask("three")])[0].text == "three"
    copy.close()


def test_a_dropped_model_takes_its_thread_along(serve: Serve) -> None:
    model = OpenAILM("m", base_url=serve(echo).url)
    model.generate([ask()])
    thread = next(thread for thread in threading.enumerate() if thread.name == "simgym-openai")
    del model
    thread.join(timeout=5)
    assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_connects_again(serve: Serve, connect: Connect) -> None:
    model = connect(serve(echo))
    model.generate([ask()])
    context = multiprocessing.get_context("fork")
    texts = context.Queue()
    child = context.Process(target=lambda: texts.put(model.generate([ask("from the child")])[0].text))
    child.start()
    assert texts.get(timeout=30) == "from the child"
    child.join(timeout=30)
    assert model.generate([ask("from the parent")])[0].text == "from the parent"


def test_counting_adds_up_requests_tokens_and_faults(serve: Serve, connect: Connect) -> None:
    server = serve(lambda path, body: fails(400, "no") if body["messages"][-1]["content"] == "bad" else says("ok"))
    model = CountingLM(connect(server))
    model.generate([ask(), ask("bad")])
    model.generate([ask()])
    assert model.counts == Counts(requests=3, prompt_tokens=6, completion_tokens=4, faults=1)
    assert isinstance(model, LanguageModel)
    assert model.fingerprint() == model.model.fingerprint()


@pytest.mark.slow
def test_a_real_server_answers_the_same_at_temperature_zero(smollm: str, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    from simgym.language_models import resolve_weights

    folder = resolve_weights(smollm).path
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--device", "cpu"]
    server = ServerProcess(command, tmp_path / "server.log", {"HF_HUB_OFFLINE": "1"})
    server.start()
    try:
        model = OpenAILM(folder, base_url=server.url, tokenizer=folder)
        questions = ["What is the capital of France?", "Name a colour.", "Say hello.", "What is two plus two?"]
        requests = [ask(text, sampling=SamplingParams(temperature=0, max_new_tokens=16)) for text in questions]
        first, second = model.generate(requests), model.generate(requests)
        assert [generation.fault for generation in first] == [None] * 4
        assert "Paris" in first[0].text
        assert all(generation.text and 0 < generation.completion_tokens <= 16 for generation in first)
        assert all(generation.prompt_tokens > 10 for generation in first)
        assert [generation.text for generation in first] == [generation.text for generation in second]
        user_turn = model.generate([ask(sampling=SamplingParams(temperature=0, max_new_tokens=8), next_role="user")])[0]
        assert user_turn.fault is None
        assert user_turn.prompt.endswith("<|im_start|>user\n")
        with pytest.raises(ConfigurationError, match="cannot score"):
            model.loglikelihood(["a"], ["b"])
        model.close()
    finally:
        server.kill()


def test_the_password_of_an_address_is_sent_and_pickled_nowhere(monkeypatch):
    address = f"http://somebody:{SECRET}@127.0.0.1:9/v1"
    given = pickle.dumps(OpenAILM("m", base_url=address))
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    written = pickle.dumps(OpenAILM("m"))
    assert SECRET.encode() not in given + written
    assert pickle.loads(written)._base_url == address
    monkeypatch.delenv("OPENAI_BASE_URL")
    with pytest.raises(ConfigurationError, match="Set OPENAI_BASE_URL there"):
        pickle.loads(given)
