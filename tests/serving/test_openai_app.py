"""The user seat as a server, asked by the real `openai` client over a real port and by hostile bodies in process."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simgym.conversation import INTENT_PREFIX, Scenario
from simgym.language_models import ScriptedLM
from simgym.simulation import Dialogue
from simgym.transcripts import read_transcripts

pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")
pytest.importorskip("uvicorn")
from openai_calls import GREETING, ask, client, listening, said, seat  # noqa: E402

sys.path.append(str(Path(__file__).resolve().parents[2] / "docs" / "tools"))
from integration_pages import block_of  # noqa: E402

from simgym.serving.conversation_log import ConversationLog  # noqa: E402
from simgym.serving.openai_app import create_openai_app  # noqa: E402
from simgym.serving.seats import Seat, SeatSettings  # noqa: E402

TAU2 = """# User simulation
You are a customer who calls a service line. Write one message at a time.
When the goal is met, write '###STOP###'. For another department write '###TRANSFER###'.
If the scenario does not tell, write '###OUT-OF-SCOPE###'.
<scenario>
Change the flight HX12 to the evening; you are in a hurry.
</scenario>"""


def test_the_openai_client_gets_a_user_turn_plain_and_streamed():
    messages = [{"role": "system", "content": "You want to bake bread."}, GREETING]
    with listening(create_openai_app({"role_play": seat()})) as url:
        talk = client(url)
        assert [model.id for model in talk.models.list()] == ["simgym/role_play"]
        plain = talk.chat.completions.create(model="simgym/role_play", messages=messages, seed=7, temperature=1.5)
        chunks = list(
            talk.chat.completions.create(
                model="simgym/role_play", messages=messages, seed=7, stream=True, stream_options={"include_usage": True}
            )
        )
    text = plain.choices[0].message.content
    assert text.startswith("number ")
    assert plain.usage.total_tokens > 0
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage == plain.usage


def test_the_documented_block_runs(capsys):
    with listening(create_openai_app({"role_play": seat()})) as url:
        block = block_of("A simulated user behind").replace("http://127.0.0.1:8000/v1", url)
        exec(compile(block, "docs/integrations.md", "exec"), {})
    assert capsys.readouterr().out.startswith("number ")


def test_both_conventions_ask_for_the_same_turn():
    app = create_openai_app({"role_play": seat()})
    extra = {"scenario": "bake bread", "seed": 3}
    flipped = [GREETING, {"role": "assistant", "content": "Bread!"}, {"role": "user", "content": "Which?"}]
    plain = [{"role": "user", "content": "Bread!"}, {"role": "assistant", "content": "Which?"}]
    answers = [ask(app, {"model": "simgym", "messages": each, "simgym": extra})[1] for each in (flipped, plain)]
    assert [answer["simgym"]["convention"] for answer in answers] == ["flipped", "plain"]
    assert said(answers[0]) == said(answers[1])


def test_the_seat_says_what_the_simulator_says_in_an_environment():
    other = seat()
    scenario = Scenario("a", INTENT_PREFIX + "bake bread")
    status, answer = ask(
        create_openai_app({"role_play": seat()}),
        {"model": "simgym/role_play", "messages": [GREETING], "simgym": {"scenario": scenario.to_json(), "seed": 5}},
    )
    assert (status, said(answer)) == (200, other.simulation.open([5], [scenario])[0].user_reply)


def test_without_a_seed_scenarios_and_callers_sessions_differ_and_repeated_requests_do_not():
    app = create_openai_app({"role_play": seat()})

    def turn(wish, **headers):
        messages = [{"role": "system", "content": wish}, GREETING]
        return said(ask(app, {"model": "simgym", "messages": messages}, headers)[1])

    assert turn("Bake.") == turn("Bake.")
    assert len({turn("Bake."), turn("Sew."), turn("Bake.", **{"x-session-id": "2"})}) == 3
    assert turn("Bake.", **{"x-simgym-seed": "4"}) != turn("Bake.", **{"x-simgym-seed": "5"})


def test_a_tau2_request_is_understood_and_its_stop_mark_is_said():
    leaving = seat(lambda request: "Thanks, bye!<|endconversation|>")
    messages = [
        {"role": "system", "content": TAU2},
        {"role": "user", "content": "Hi! How can I help you today?"},
        {"role": "assistant", "content": "Move my flight please."},
        {"role": "user", "content": "Done: you leave at 19:00."},
    ]
    body = {"model": "simgym/role_play", "messages": messages, "tools": None, "temperature": 0.0, "seed": 300}
    status, answer = ask(create_openai_app({"role_play": leaving}, stop="OVER"), body)
    assert (status, said(answer)) == (200, "Thanks, bye! ###STOP###")
    assert answer["simgym"]["parting_word"] == "Thanks, bye!"
    body["simgym"] = {"stop": "<END>"}
    assert said(ask(create_openai_app({"role_play": leaving}), body)[1]) == "Thanks, bye! <END>"
    silent = create_openai_app({"role_play": seat(lambda request: "<|endconversation|>")})
    assert said(ask(silent, body)[1]) == "<END>"


def test_a_wish_is_what_stands_between_the_scenario_marks():
    heard = []
    listening_seat = seat(lambda request: heard.append(request.messages[-1].content) or "Fine.")
    ask(
        create_openai_app({"role_play": listening_seat}),
        {"model": "simgym", "messages": [{"role": "system", "content": TAU2}, GREETING]},
    )
    assert "Change the flight HX12" in heard[0]
    assert "OUT-OF-SCOPE" not in heard[0]


@pytest.mark.parametrize(("rule", "status"), [("", 502), ("You are a user", 200)])
def test_a_fault_is_an_error_after_bounded_attempts_and_never_an_empty_reply(rule, status):
    calls = Counter()

    def answer(request):
        calls[request.seed] += 1
        return rule

    got, value = ask(
        create_openai_app({"role_play": seat(answer, max_attempts=2)}),
        {"model": "simgym", "messages": [{"role": "system", "content": "Bake."}, GREETING]},
    )
    assert got == status
    if status == 502:
        assert "empty" in value["error"]["message"]
        assert len(calls) == sum(calls.values()) == 4


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"model": "simgym/nobody"}, 404, "simgym/role_play"),
        ({"model": None}, 400, "model"),
        ({"messages": []}, 400, "empty"),
        ({"messages": [GREETING] * 1000}, 400, "1000 messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400, "text"),
        (
            {"messages": [GREETING, {"role": "assistant", "content": "I"}], "simgym": {"convention": "flipped"}},
            400,
            "own",
        ),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "surrogate"),
        ({"messages": [{"role": "user", "content": "x" * 500_000}]}, 413, "characters"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"n": 2}, 400, "n is not 1"),
        ({"seed": "7"}, 400, "seed"),
        ({"simgym": {"sceanrio": "x"}}, 400, "sceanrio"),
        ({"simgym": {"\udc00": "x"}}, 400, "unknown"),
        ({"model": "\udc00"}, 404, "no model"),
        ({"simgym": {"scenario": {"id": "x", "intent": f"{INTENT_PREFIX}\ud800"}}}, 400, "surrogate"),
        ({"simgym": {"scenario": "\ud800"}}, 400, "no text"),
        ({"simgym": {"scenario": "x" * 500_000}}, 413, "characters"),
        ({"simgym": {"convention": ["plain"]}}, 400, "flipped or plain"),
        ({"simgym": {"convention": {"a": "x"}}}, 400, "flipped or plain"),
        ({"simgym": {"stop": "\ud800"}}, 400, "stop"),
        ({"messages": [{"role": "assistant", "content": "I"}, GREETING, {"role": "user", "content": " "}]}, 200, ""),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}]}, 400, "expected a text"),
        ({"messages": [{"role": "system", "content": "Bake."}] * 3}, 200, ""),
        ({"simgym": {"scenario": {"id": "x"}}}, 400, "scenario"),
    ],
)
def test_a_bad_request_is_a_sentence(change, status, word):
    body = {"model": "simgym/role_play", "messages": [{"role": "system", "content": "Bake."}, GREETING], **change}
    got, value = ask(create_openai_app({"role_play": seat()}), body)
    assert (got, word in value.get("error", {}).get("message", "")) == (status, True), value


def test_a_body_that_is_no_json_too_large_or_of_another_type_is_a_sentence():
    app = create_openai_app({"role_play": seat()})
    assert ask(app, b"{")[0] == 400
    assert ask(app, b"[" * 100_000)[0] == 400
    assert ask(app, b"\xff\xfe")[0] == 400
    assert ask(app, b" " * (4 * 2**20 + 1))[0] == 413
    assert ask(app, b"{}", {"content-type": "text/plain"})[0] == 415
    assert ask(app, b"{}", path="/v1/elsewhere")[0] == 404


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
ANYTHING = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner))
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "developer"]) | ANYTHING,
     "content": st.text(max_size=20) | ANYTHING}
)  # fmt: skip
OPTIONS = st.dictionaries(st.sampled_from(["scenario", "seed", "stop", "convention", "x"]), ANYTHING, max_size=3)
BODY = st.dictionaries(
    st.sampled_from(["stream", "seed", "n", "tools", "user", "stream_options", "max_tokens"]), ANYTHING, max_size=3
).flatmap(
    lambda rest: st.fixed_dictionaries(
        {"model": st.just("simgym") | ANYTHING, "messages": st.lists(MESSAGE, max_size=5) | ANYTHING},
        optional={"simgym": OPTIONS | ANYTHING},
    ).map(lambda body: {**rest, **body})
)


@given(BODY | ANYTHING)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_body_is_a_500(body):
    if isinstance(body, dict):
        body.pop("stream", None)
    status, value = ask(create_openai_app({"role_play": seat("Fine.")}), body)
    assert status == 200 or (400 <= status < 500 and value["error"]["message"]) or status == 502


def test_requests_that_come_together_are_one_simulator_call_and_a_bad_one_fails_alone():
    sizes = []

    class Counting(ScriptedLM):
        def generate(self, requests):
            sizes.append(len(requests))
            return super().generate(requests)

    together = Seat("role_play", SeatSettings(model=Counting("seed")))
    scenario = Scenario("a", INTENT_PREFIX + "bake")

    async def run():
        opened = [together.ask(Dialogue(scenario=scenario, seed=seed), None) for seed in range(64)]
        return await asyncio.gather(*opened)

    dialogues = asyncio.run(run())
    assert [dialogue.user_reply for dialogue in dialogues] == [
        seat().simulation.open([seed], [scenario])[0].user_reply for seed in range(64)
    ]
    assert sizes == [64]


def test_a_caller_who_hangs_up_takes_nothing_with_it():
    slow = threading.Event()
    entered = threading.Event()

    def rule(request):
        entered.set()
        slow.wait(10)
        return f"number {request.seed}"

    shared = seat(rule)
    with listening(create_openai_app({"role_play": shared})) as url:
        messages = [{"role": "system", "content": "Bake."}, GREETING]
        answers = []
        staying = threading.Thread(
            target=lambda: answers.append(
                client(url).chat.completions.create(model="simgym/role_play", messages=messages, seed=1)
            )
        )
        staying.start()
        host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
        body = json.dumps({"model": "simgym", "messages": messages, "stream": True}).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        leaving = socket.create_connection((host, int(port)))
        leaving.sendall(head.encode() + body)
        assert entered.wait(10)
        leaving.close()
        slow.set()
        staying.join(10)
        again = client(url).chat.completions.create(model="simgym/role_play", messages=messages, seed=1)
    assert answers[0].choices[0].message.content == again.choices[0].message.content
    assert shared.waiting == 0


def test_a_caller_who_hangs_up_before_the_request_is_whole_is_no_error_of_the_servers(caplog):
    shared = seat()
    app = create_openai_app({"role_play": shared})
    parts = iter([{"type": "http.request", "body": b'{"mo', "more_body": True}, {"type": "http.disconnect"}])
    status, value = ask(app, b"", incoming=parts)
    assert (status, "hung up" in value["error"]["message"]) == (400, True)
    assert shared.waiting == 0
    assert "Traceback" not in caplog.text


def test_callers_who_hang_up_in_the_middle_of_a_stream_leave_nothing_behind(caplog):
    shared = seat(lambda request: "Bread! " * 4_000)
    messages = [{"role": "system", "content": "Bake."}, GREETING]
    body = json.dumps({"model": "simgym", "messages": messages, "stream": True}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    with listening(create_openai_app({"role_play": shared})) as url:
        host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
        for _ in range(8):
            with socket.create_connection((host, int(port))) as leaving:
                leaving.sendall(head.encode() + body)
                assert leaving.recv(1024).startswith(b"HTTP/1.1 200")  # the rest is unread: a reset
        stream = client(url).chat.completions.create(model="simgym", messages=messages, stream=True)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert said.count("Bread!") == 4_000
    assert shared.waiting == 0
    assert "Traceback" not in caplog.text


def test_requests_are_logged_as_transcripts_one_a_conversation(tmp_path):
    path = tmp_path / "log.jsonl"
    shared = seat(lambda r: "Bye.<|endconversation|>" if "Done" in r.messages[-1].content else f"number {r.seed}")
    log = ConversationLog(path, {"role_play": shared.simulation.simulator.fingerprint()})
    app = create_openai_app({"role_play": shared}, log=log)
    for answers in (["Sure.", "Done"], ["Sure."], ["Sure.", "Done"]):
        messages = [{"role": "system", "content": "Bake."}, GREETING]
        for answer in [None, *answers]:
            if answer is not None:
                messages.append({"role": "user", "content": answer})
            reply = said(ask(app, {"model": "simgym", "messages": messages})[1])
            messages.append({"role": "assistant", "content": reply})
    log.close()
    logged = list(read_transcripts(path))
    assert sorted(each.end_reason for each in logged) == ["turn_limit", "user_end", "user_end"]
    assert sorted(len(each.calls) for each in logged) == [2, 3, 3]
    assert all(each.reward is None for each in logged)


def test_no_more_requests_than_can_wait_are_taken_while_a_slow_model_plays(monkeypatch):
    monkeypatch.setattr("simgym.serving.openai_app.MAX_WAITING", 2)
    slow, entered = threading.Event(), threading.Event()

    def rule(request):
        entered.set()
        slow.wait(10)
        return "Fine."

    shared = seat(rule)
    body = {"model": "simgym", "messages": [{"role": "system", "content": "Bake."}, GREETING]}
    with listening(create_openai_app({"role_play": shared})) as url, ThreadPoolExecutor(2) as pool:
        talk = client(url)
        asked = [pool.submit(talk.chat.completions.create, **body, seed=seed) for seed in range(2)]
        assert entered.wait(10)
        while shared.waiting < 2:
            time.sleep(0.01)
        with pytest.raises(openai.RateLimitError, match="2 requests are waiting"):
            talk.chat.completions.create(**body)
        slow.set()
        assert [future.result().choices[0].message.content for future in asked] == ["Fine."] * 2
    assert shared.waiting == 0


@pytest.mark.slow
def test_64_requests_at_once_take_a_quarter_of_the_model_passes_of_64_in_turn(tiny_model, capsys):
    from simgym.language_models import load_language_model

    model = load_language_model(tiny_model)
    scenario = Scenario("a", INTENT_PREFIX + "bake")
    settings_of_seat = SeatSettings(model=tiny_model, options={"adapter": None, "max_new_tokens": 24}, attempts=1)
    shared = Seat("fine_tuned", settings_of_seat)
    app = create_openai_app({"fine_tuned": shared})

    def body(seed):
        return {"scenario": scenario.to_json(), "seed": seed}

    def passes(function):
        before = model.stats.forward_passes
        replies = function()
        return replies, model.stats.forward_passes - before

    with listening(app) as url:
        talk = client(url)

        def turn(seed):
            try:
                answer = talk.chat.completions.create(
                    model="simgym/fine_tuned", messages=[GREETING], extra_body={"simgym": body(seed)}
                )
                return answer.choices[0].message.content
            except openai.APIStatusError as error:
                return error.code

        def at_once():
            with ThreadPoolExecutor(64) as threads:
                return list(threads.map(turn, range(64)))

        together, passes_together = passes(at_once)
        alone, passes_alone = passes(lambda: [turn(seed) for seed in range(64)])
    with capsys.disabled():
        print(
            f"\n64 requests: {passes_together} model passes at once, {passes_alone} in turn, "
            f"{passes_together / passes_alone:.3f} of them"
        )
    assert together == alone
    assert passes_together <= passes_alone / 4
