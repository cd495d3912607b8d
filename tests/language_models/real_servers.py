"""Real servers as processes: what the tests of vLLM and of llama.cpp have in common."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from simgym.conversation import Message
from simgym.language_models import Request, SamplingParams

CONTEXT = 1024
SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 10}},
    "required": ["score"],
    "additionalProperties": False,
}


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass
class ServerProcess:
    """A server that can be killed and started again."""

    command: Sequence[str]
    """Without host and port."""
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside that of the tests."""
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [*self.command, "--host", "127.0.0.1", "--port", str(self.port)]
        os.environ["NO_PROXY"] = "127.0.0.1"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, **self.environment}, stdout=log, stderr=log, start_new_session=True
            )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), opener.open(f"http://127.0.0.1:{self.port}/health", timeout=5):
                return
            time.sleep(0.5)
        self.kill()
        pytest.fail(f"{self.command[0]} did not come up:\n{self.log.read_text(errors='replace')[-3000:]}")

    def kill(self) -> None:
        """SIGKILL to it and the processes of its engine."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def ask(
    text: str, *, temperature: float = 0.0, max_new_tokens: int = 24, stop: tuple[str, ...] = (), **more: object
) -> Request:
    sampling = SamplingParams(temperature=temperature, max_new_tokens=max_new_tokens, stop=stop)
    return replace(Request((Message("user", text),), sampling), **more)
