"""The servers that `throughput.py` measures clients of, with the weights of the default model.

`transformers serve` comes with simgym's own extras; vLLM has an interpreter of its own (`make vllm` makes one for
CPUs); llama.cpp is a program, and its weights are files that its own script writes from the default model's folder
(the one in float16 is for `throughput_openvino.py`):

    python convert_hf_to_gguf.py FOLDER --outtype f32 --outfile smollm2-f32.gguf
    python convert_hf_to_gguf.py FOLDER --outtype f16 --outfile smollm2-f16.gguf
    python convert_hf_to_gguf.py FOLDER --outtype q8_0 --outfile smollm2-q8_0.gguf
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from throughput_systems import NEW_TOKENS, peak_mb, reset_peak

from simgym.language_models import DEFAULT_MODEL, resolve_weights

MODEL = "smollm2"
"""What vLLM and llama.cpp call the model."""
SLOTS = 16
"""Sequences that a server runs at a time."""
CONTEXT = 2048
"""Tokens of each."""
MOST_MINUTES = 30
"""Until it answers; vLLM's compiler takes many."""


@dataclass(frozen=True)
class Programs:
    """What the user has installed; None: systems that need it are left out."""

    vllm: str | None = None
    """Interpreter of an environment with vLLM."""
    llama: str | None = None
    """llama.cpp's `llama-server`."""
    openvino: str | None = None
    """Interpreter of an environment with OpenVINO GenAI and simgym."""
    gguf: Path | None = None
    """Folder with the weights in GGUF."""


@dataclass(frozen=True)
class Serving:
    """A server that runs."""

    address: str
    """Of its API, ending in /v1."""
    model: str
    """What it calls the model."""
    process: int

    def peak_mb(self) -> int:
        """Most memory since it was warm, of all its processes, MB."""
        return sum(peak_mb(process) for process in _session(self.process))


@contextlib.contextmanager
def transformers_server(options: Sequence[str]) -> Iterator[Serving]:
    """`transformers serve` with the embedded weights in float32."""
    folder = str(resolve_weights(DEFAULT_MODEL).path)
    command = [str(Path(sys.executable).with_name("transformers")), "serve", folder, "--device", "cpu"]
    with _running([*command, "--dtype", "float32", "--log-level", "error", *options], folder) as serving:
        yield serving


@contextlib.contextmanager
def vllm_server(python: str, *, compiled: bool) -> Iterator[Serving]:
    """vLLM with the embedded weights in float32, as it starts by itself or without its compiler."""
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(resolve_weights(DEFAULT_MODEL).path)]
    command += ["--served-model-name", MODEL, "--dtype", "float32", "--max-model-len", str(CONTEXT), "--max-num-seqs"]
    command += [str(SLOTS), "--enable-prefix-caching", "--generation-config", "vllm"]
    command += [] if compiled else ["--enforce-eager"]  # starts in a minute instead of many
    own = {"VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1"}
    own["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"  # by itself it keeps a core free for its server, of two
    with _running(command, MODEL, own) as serving:
        yield serving


@contextlib.contextmanager
def llama_server(program: str, gguf: Path) -> Iterator[Serving]:
    """llama.cpp with one of the files."""
    command = [program, "--model", str(gguf), "--alias", MODEL, "--parallel", str(SLOTS), "--jinja"]
    command += ["--ctx-size", str(SLOTS * CONTEXT), "--threads", str(len(os.sched_getaffinity(0)))]
    with _running(command, MODEL) as serving:
        yield serving


@contextlib.contextmanager
def _running(command: Sequence[str], model: str, own: dict[str, str] | None = None) -> Iterator[Serving]:
    """Start it, load and warm the model; stop it at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(own or {}), "HF_HUB_OFFLINE": "1"},
    )
    serving = Serving(f"http://127.0.0.1:{port}/v1", model, process.pid)
    try:
        _wait_for(serving, process)
        for each in _session(process.pid):
            reset_peak(each)
        yield serving
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(serving: Serving, process: subprocess.Popen[bytes]) -> None:
    """Until the server has answered once, so that its model is loaded and warm."""
    body = {"model": serving.model, "messages": [{"role": "user", "content": "hello"}]}
    request = urllib.request.Request(  # an address of our own
        f"{serving.address}/chat/completions",
        json.dumps({**body, "max_tokens": NEW_TOKENS, "temperature": 0.0}).encode(),
        {"Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + MOST_MINUTES * 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{process.args} ended with code {process.returncode}. Start it by hand to see why.")
        with contextlib.suppress(OSError):
            opener.open(request, timeout=120).read()
            return
        time.sleep(1)
    raise SystemExit(f"{process.args} did not answer within {MOST_MINUTES} minutes.")


def _session(leader: int) -> list[int]:
    """Processes that a server has started, itself included."""
    processes = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":  # session, state
                processes.append(int(folder.name))
    return processes
