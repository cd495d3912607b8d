"""The README's promises: its Python blocks run as written, its commands exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from simulated_server import Latency, ServerConfig, simulated_server

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_python_block_runs_as_written(block, smollm, tmp_path):
    with simulated_server(ServerConfig(dict.fromkeys(("assistant", "user", "judge"), Latency(0.01, 0.0)))) as (url, _):
        program = block.replace("http://localhost:8000/v1", url)
        environment = {**os.environ, "NO_PROXY": "127.0.0.1", "OPENAI_API_KEY": "none"}
        outcome = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment
        )
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    assert outcome.stdout.strip()


def test_the_make_targets_it_names_exist():
    makefile = (Path(__file__).resolve().parents[1] / "Makefile").read_text()
    named = set(re.findall(r"^make (\w+)", README, re.MULTILINE))
    assert named >= {"demo", "test"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)


def test_the_verbs_it_names_exist():
    script = Path(sys.executable).with_name("simgym")
    outcome = subprocess.run([str(script), "--help"], capture_output=True, text=True, check=True)
    for verb in set(re.findall(r"^simgym (\w+)", README, re.MULTILINE)):
        assert verb in outcome.stdout
