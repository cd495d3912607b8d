"""The server that `throughput.py` measures clients of: `transformers serve` with the embedded weights."""

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


@dataclass(frozen=True)
class Serving:
    """A server that runs."""

    address: str
    process: int

    def peak_mb(self) -> int:
        """Most memory since it was warm, MB."""
        return peak_mb(self.process)


@contextlib.contextmanager
def server(options: Sequence[str]) -> Iterator[Serving]:
    """Start it, load and warm the model; stop it at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(resolve_weights(DEFAULT_MODEL).path)]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--dtype", "float32", "--port", str(port), "--log-level", "error", *options],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}", process)
        reset_peak(process.pid)
        yield Serving(f"http://127.0.0.1:{port}/v1", process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    """Until the server has answered once, so that its model is loaded and warm."""
    body = {"model": str(resolve_weights(DEFAULT_MODEL).path), "messages": [{"role": "user", "content": "hello"}]}
    request = urllib.request.Request(  # an address of our own
        f"{address}/v1/chat/completions",
        json.dumps({**body, "max_tokens": NEW_TOKENS, "temperature": 0.0}).encode(),
        {"Content-Type": "application/json"},
    )
    for _ in range(120):
        if process.poll() is not None:
            raise SystemExit(f"transformers serve ended with code {process.returncode}. Install transformers[serving].")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(request, timeout=120).read()
            return
        time.sleep(1)
    raise SystemExit("transformers serve did not answer within two minutes.")
