"""OpenAILM against a real vLLM with the default model: the same texts, likelihoods and user turns as the engine.

Runs where `SIMGYM_VLLM_PYTHON` names the interpreter of an environment with vLLM; `make vllm` makes one for CPUs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_servers import CONTEXT, SCHEMA, ServerProcess, ask

from simgym.errors import ConfigurationError
from simgym.faults import FaultKind, parse_fault
from simgym.language_models import OpenAILM, TransformersLM, resolve_weights
from simgym.transcripts import read_transcripts

PYTHON = os.environ.get("SIMGYM_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not PYTHON, reason="SIMGYM_VLLM_PYTHON names no interpreter with vLLM; `make vllm` makes one"),
]
QUESTIONS = [
    "What is the capital of France?", "Name a colour.", "Say hello.", "What is two plus two?",
    "Name an animal.", "Why is the sky blue?", "Give me a word that rhymes with cat.", "Who wrote Hamlet?",
]  # fmt: skip


@pytest.fixture(scope="module")
def vllm(smollm: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(resolve_weights(smollm).path)]
    command += ["--served-model-name", "smol", "--generation-config", "vllm", "--max-num-seqs", "16"]
    command += ["--dtype", "float32", "--max-model-len", str(CONTEXT), "--enforce-eager"]
    defaults = {"VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment = {**defaults, **os.environ, "HF_HUB_OFFLINE": "1"}
    server = ServerProcess(command, tmp_path_factory.mktemp("vllm") / "server.log", environment)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def served(vllm: ServerProcess, smollm: str) -> Iterator[OpenAILM]:
    folder = str(resolve_weights(smollm).path)
    model = OpenAILM("smol", base_url=vllm.url, tokenizer=folder, max_concurrency=16, timeout=300)
    model.check()
    yield model
    model.close()


@pytest.fixture(scope="module")
def engine(smollm: str) -> TransformersLM:
    return TransformersLM(smollm, dtype="float32", device="cpu")


def test_greedy_texts_and_user_turns_are_the_engines(served: OpenAILM, engine: TransformersLM) -> None:
    requests = [ask(text) for text in QUESTIONS] + [ask(text, next_role="user") for text in QUESTIONS[:4]]
    ours, theirs = engine.generate(requests), served.generate(requests)
    assert [reply.fault for reply in theirs] == [None] * len(requests)
    assert [reply.text for reply in theirs] == [reply.text for reply in ours]
    assert [reply.prompt_tokens for reply in theirs] == [reply.prompt_tokens for reply in ours]


def test_likelihoods_are_the_engines(served: OpenAILM, engine: TransformersLM) -> None:
    prompts = ["The capital of France is", "", "Two plus two is"]
    continuations = [" Paris, of course.", "Once upon a time", " four"]
    ours = engine.loglikelihood(prompts, continuations)
    theirs = served.loglikelihood(prompts, continuations)
    assert [likelihood.token_count for likelihood in theirs] == [likelihood.token_count for likelihood in ours]
    assert [likelihood.logprob for likelihood in theirs] == pytest.approx(
        [likelihood.logprob for likelihood in ours], abs=1e-4
    )


def test_seeds_decide_alone_together_and_reversed(served: OpenAILM) -> None:
    requests = [ask(text, temperature=1.0, seed=2**40 + number) for number, text in enumerate(QUESTIONS)]
    together = [reply.text for reply in served.generate(requests)]
    assert [served.generate([request])[0].text for request in requests] == together
    assert [reply.text for reply in served.generate(requests[::-1])][::-1] == together
    assert len({served.generate([ask("Say something.", temperature=1.0, seed=seed)])[0].text for seed in range(4)}) > 1


def test_a_schema_is_kept_and_a_stop_text_ends_a_reply(served: OpenAILM) -> None:
    requests = [ask(text, temperature=1.0, max_new_tokens=48, seed=3, json_schema=SCHEMA) for text in QUESTIONS]
    for reply in served.generate(requests):
        assert 0 <= json.loads(reply.text)["score"] <= 10
    whole = served.generate([ask("Count from one to ten.")])[0].text
    word = whole.split()[3]
    cut = served.generate([ask("Count from one to ten.", stop=(word,))])[0].text
    assert cut == whole.partition(word)[0]


def test_what_does_not_fit_is_an_overflow_in_vllms_own_words(served: OpenAILM) -> None:
    too_much = [
        ask("word " * 2 * CONTEXT),
        ask("hi", max_new_tokens=5 * CONTEXT),
        ask("hi", json_schema=SCHEMA, max_new_tokens=5 * CONTEXT),
    ]
    fitting, *overflows = served.generate([ask("hi"), *too_much])
    assert fitting.fault is None
    for reply in overflows:
        fault = parse_fault(reply.fault)
        assert fault is not None
        assert fault.kind is FaultKind.CONTEXT_OVERFLOW


def test_an_unknown_model_ends_the_run(vllm: ServerProcess) -> None:
    model = OpenAILM("other", base_url=vllm.url)
    with pytest.raises(ConfigurationError, match="Check the model name 'other'"):
        model.check()
    with pytest.raises(ConfigurationError, match="Check the model name 'other'"):
        model.generate([ask("hi")])
    model.close()


def test_32_requests_at_once_have_no_fault(served: OpenAILM) -> None:
    replies = served.generate([ask(QUESTIONS[number % 8], temperature=1.0, seed=number) for number in range(32)])
    assert [reply.fault for reply in replies] == [None] * 32


def test_a_matrix_goes_on_after_its_server_was_killed(vllm: ServerProcess, tmp_path: Path) -> None:
    model = f"openai:smol@{vllm.url}"
    command = [sys.executable, "-c", "from simgym.cli.main import main; main()", "matrix"]
    command += ["--assistant", f"plain={model}"]
    command += ["--env", "UserSim-RolePlayOpening-v0", "--model", model, "--judge", "rubric", "--judge-model", model]
    command += [
        "--scenarios",
        "everyday",
        "-n",
        "6",
        "--user-max-new-tokens",
        "112",
        "--max-turns",
        "2",
        "--max-new-tokens",
        "24",
        "--async",
    ]
    command += ["--batch-size", "2", "--seed", "3", "--no-show-conversation", "-o", str(tmp_path / "run")]
    environment = {**os.environ, "SIMGYM_OUTAGE_WAITS": "1"}
    run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    transcripts = tmp_path / "run" / "transcripts"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and run.poll() is None and not any(map(_lines, transcripts.rglob("*.jsonl"))):
        time.sleep(0.1)
    vllm.kill()
    output = run.communicate(timeout=300)[0].decode()
    stored = [row for path in transcripts.rglob("*.jsonl") for row in read_transcripts(path)]
    assert run.returncode != 0, output
    assert "when the server is back" in output
    assert 1 <= len(stored) < 6
    assert not any(row.fault is not None and row.fault.is_outage for row in stored)
    vllm.start()
    again = subprocess.run(command, env=environment, capture_output=True, timeout=600, check=False)
    assert again.returncode == 0, again.stderr.decode()
    stored = [row for path in transcripts.rglob("*.jsonl") for row in read_transcripts(path)]
    assert len(stored) == 6
    assert not any(row.fault is not None and row.fault.is_outage for row in stored)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")
