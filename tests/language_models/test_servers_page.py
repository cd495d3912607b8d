"""What docs/servers.md tells to type is typed, against a simulated server."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest
from simulated_server import Latency, ServerConfig, simulated_server
from warm_python import run_warm

from simgym.transcripts import read_transcripts

PAGE = (Path(__file__).parents[2] / "docs" / "servers.md").read_text(encoding="utf-8")
ADDRESS = "http://localhost:8000/v1"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a command with the simulated server at the page's address."""
    quick = dict.fromkeys(("assistant", "user", "judge"), Latency(0.01, 0.1))
    environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
    with simulated_server(ServerConfig(quick)) as (url, _):

        def run(*command):
            words = [word.replace(ADDRESS, url) for word in command]
            return run_warm(words, cwd=tmp_path, env=environment)

        yield run


@pytest.mark.slow
def test_every_block_of_python_runs(run, tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert blocks
    for block in blocks:
        outcome = run("-c", block)
        assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout == "['turn_limit', 'turn_limit', 'turn_limit', 'turn_limit']\n"


@pytest.mark.slow
def test_every_simgym_command_runs_and_goes_on_where_it_stopped(run, tmp_path):
    texts = re.findall(r"^\$ (simgym .*?[^\\])$", PAGE, re.M | re.S)
    assert len(texts) == 2
    for text in texts:
        words = shlex.split(text.replace("\\\n", " "))
        for _ in range(2):  # the second time there is nothing to do
            outcome = run("-c", "from simgym.cli.main import main; main()", *words[1:])
            assert outcome.returncode == 0, outcome.stderr
    stored = [list(read_transcripts(path)) for path in tmp_path.rglob("*.jsonl") if '"end_reason"' in path.read_text()]
    assert sorted(len(rows) for rows in stored) == [4, 4]
    assert not any(transcript.fault for rows in stored for transcript in rows)


def test_what_the_page_says_is_sent_is_sent():
    """Names of fields in its table are those of a request."""
    from simgym.conversation import Message
    from simgym.language_models import OpenAILM, Request, SamplingParams

    lm = OpenAILM("m", base_url=ADDRESS, logprobs=True, chat_template_kwargs={"enable_thinking": False})
    body = lm._compose(Request((Message("user", "Hi"),), SamplingParams(stop=("x",)))).body
    table = PAGE.partition("## What is sent")[2].partition("\n## ")[0]
    assert set(body) <= set(re.findall(r"`(\w+)`", table)), json.dumps(sorted(body))
