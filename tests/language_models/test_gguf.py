"""A GGUF file, as llama.cpp and Ollama have them, is a model like its folder: the same prompts, tokens and words."""

from __future__ import annotations

import json
import shutil

import pytest

pytest.importorskip("torch", reason="the extra simgym[local] is not installed")
pytest.importorskip("gguf", reason="the extra simgym[local] is not installed")

from gguf_writer import write_tiny_gguf

from simgym.cli.main import app
from simgym.conversation import Message
from simgym.language_models import Request, SamplingParams, TransformersLM

TEXTS = ("hi there", "cab\né 你", "ab" * 20)


@pytest.fixture
def tiny_gguf(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("SIMGYM_CACHE", str(tmp_path / "cache"))
    return write_tiny_gguf(tiny_model, tmp_path)


def replies(model):
    requests = [
        Request((Message("user", text),), SamplingParams(temperature=temperature, max_new_tokens=8), seed, role)
        for seed, text in enumerate(TEXTS)
        for temperature in (0.0, 1.0)
        for role in ("assistant", "user")
    ]
    return [(reply.prompt, reply.token_ids, reply.text) for reply in TransformersLM(str(model)).generate(requests)]


def test_a_gguf_file_says_what_the_folder_says_that_it_was_made_of(tiny_gguf):
    folder, file = tiny_gguf
    assert replies(file) == replies(folder)
    tokenizer = TransformersLM(str(file)).tokenizer
    assert len(tokenizer) == len(
        TransformersLM(str(folder)).tokenizer
    )  # transformers adds one for which no row is there
    assert tokenizer.eos_token == "<|end|>"
    known = TransformersLM(str(file)).fingerprint()["weights"]
    other = shutil.copy(file, file.with_name("other.gguf"))
    assert TransformersLM(str(other)).fingerprint()["weights"] == known
    other.write_bytes(other.read_bytes()[:-4] + b"\0\0\0\0")
    assert TransformersLM(str(other)).fingerprint()["weights"] != known


def test_a_gguf_file_plays_the_user_on_the_command_line(tiny_gguf, tmp_path):
    from typer.testing import CliRunner

    _, file = tiny_gguf
    command = ["rollout", "--env", "UserSim-RolePlayOpening-v0", "--model", str(file), "--assistant", "scripted:echo"]
    command += ["--judge", "relevance", "--judge-model", "scripted:echo", "--scenarios", "everyday", "-n", "1"]
    command += ["--max-turns", "1", "-o", str(tmp_path / "t.jsonl")]
    outcome = CliRunner().invoke(app, command)
    assert outcome.exit_code == 0, outcome.output
    assert json.loads((tmp_path / "t.jsonl").read_text())["fingerprints"]["simulator"]
