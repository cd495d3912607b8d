"""OpenAILM against the real server of llama.cpp with the default model, in float32.

Runs where `SIMGYM_LLAMA_SERVER` names the program `llama-server`; `make llama` builds one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
from gguf_writer import write_gguf
from real_servers import CONTEXT, SCHEMA, ServerProcess, ask

from simgym.errors import SimgymError
from simgym.faults import Fault, FaultKind
from simgym.language_models import OpenAILM, TransformersLM, resolve_weights

PROGRAM = os.environ.get("SIMGYM_LLAMA_SERVER", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not PROGRAM, reason="SIMGYM_LLAMA_SERVER names no llama-server ; `make llama` builds it"),
]
SLOTS = 4
QUESTIONS = ["What is the capital of France?", "Name a colour.", "Say hello.", "What is two plus two?"]


@pytest.fixture(scope="module")
def llama(smollm: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("llama")
    file = write_gguf(resolve_weights(smollm).path, folder / "smol.gguf", name="smol")
    command = [PROGRAM, "--model", str(file), "--alias", "smol"]
    command += ["--ctx-size", str(SLOTS * CONTEXT), "--parallel", str(SLOTS), "--no-kv-unified"]
    command += ["--cache-type-k", "f32", "--cache-type-v", "f32"]
    server = ServerProcess(command, folder / "server.log")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def served(llama: ServerProcess, smollm: str) -> Iterator[OpenAILM]:
    folder = str(resolve_weights(smollm).path)
    model = OpenAILM("smol", base_url=llama.url, tokenizer=folder, max_concurrency=8, timeout=300, max_retries=0)
    model.check()
    yield model
    model.close()


@pytest.fixture(scope="module")
def engine(smollm: str) -> TransformersLM:
    return TransformersLM(smollm, dtype="float32", device="cpu")


def test_greedy_texts_and_user_turns_are_the_engines(served: OpenAILM, engine: TransformersLM) -> None:
    requests = [ask(text) for text in QUESTIONS] + [ask(text, next_role="user") for text in QUESTIONS]
    ours, theirs = engine.generate(requests), served.generate(requests)
    assert [reply.fault for reply in theirs] == [None] * len(requests)
    assert [reply.text for reply in theirs] == [reply.text for reply in ours]
    assert [reply.prompt_tokens for reply in theirs] == [reply.prompt_tokens for reply in ours]


def test_the_same_seed_draws_the_same_reply_and_another_one_another(served: OpenAILM) -> None:
    request = ask("Say something.", temperature=1.0, seed=2**40 + 3)
    assert served.generate([request])[0].text == served.generate([request])[0].text
    assert len({served.generate([replace(request, seed=seed)])[0].text for seed in range(4)}) > 1


def test_a_schema_is_kept_and_a_stop_text_ends_a_reply(served: OpenAILM) -> None:
    requests = [ask(text, temperature=1.0, max_new_tokens=48, seed=3, json_schema=SCHEMA) for text in QUESTIONS]
    for reply in served.generate(requests):
        assert 0 <= json.loads(reply.text)["score"] <= 10
    whole = served.generate([ask("Count from one to ten.")])[0].text
    word = whole.split()[3]
    cut = served.generate([ask("Count from one to ten.", stop=(word,))])[0].text
    assert cut == whole.partition(word)[0]


def test_what_does_not_fit_is_an_overflow_in_its_own_words(served: OpenAILM) -> None:
    fitting, overflow = served.generate([ask("hi"), ask("word " * 2 * CONTEXT)])
    assert fitting.fault is None
    assert overflow.fault is not None
    assert Fault.parse(overflow.fault).kind is FaultKind.CONTEXT_OVERFLOW


def test_likelihoods_which_it_does_not_tell_are_refused_in_a_sentence(served: OpenAILM) -> None:
    with pytest.raises(SimgymError, match="vLLM"):
        served.loglikelihood(["The capital of France is"], [" Paris"])


def test_32_requests_at_once_have_no_fault(served: OpenAILM) -> None:
    replies = served.generate([ask(QUESTIONS[number % 4], temperature=1.0, seed=number) for number in range(32)])
    assert [reply.fault for reply in replies] == [None] * 32


def test_a_server_that_was_killed_is_an_outage_and_answers_when_it_is_back(
    llama: ServerProcess, served: OpenAILM
) -> None:
    before = served.generate([ask("Say hello.")])[0].text
    llama.kill()
    (lost,) = served.generate([ask("Say hello.")])
    assert lost.fault is not None
    assert Fault.parse(lost.fault).is_outage
    llama.start()
    assert served.generate([ask("Say hello.")])[0].text == before
