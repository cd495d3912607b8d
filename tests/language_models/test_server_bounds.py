"""Servers that drip, never end, unpack to hundreds of megabytes, lead elsewhere or hang: bounded in time and size."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import resource
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator

import pytest

from simgym.conversation import Message
from simgym.errors import ConfigurationError
from simgym.language_models import OpenAILM, Request

pytest.importorskip("openai")

REQUEST = Request((Message("user", "hello"),))
SAYS = json.dumps({"choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}]}).encode()
Serve = Callable[[Callable[[socket.socket], None]], str]
"""From what is written to a connection, after the request was read, to the address."""


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers: list[_Server] = []

    def start(write: Callable[[socket.socket], None]) -> str:
        class Handler(socketserver.StreamRequestHandler):
            timeout = 10

            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    length = 0
                    while line := self.rfile.readline().strip():
                        name, _, value = line.partition(b":")
                        length = int(value) if name.lower() == b"content-length" else length
                    self.rfile.read(length)  # what is closed with something unread is reset, and the answer lost
                    write(self.request)

        servers.append(_Server(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "Connection: close", "", ""]).encode()


def drip(connection: socket.socket) -> None:
    connection.sendall(head(f"Content-Length: {len(SAYS)}"))
    for byte in SAYS[:50]:
        connection.sendall(bytes([byte]))
        time.sleep(0.1)


def drip_an_error(connection: socket.socket) -> None:
    connection.sendall(head("Content-Length: 100000", status="400 Bad Request"))
    for _ in range(50):
        connection.sendall(b"x")
        time.sleep(0.1)


def endless(connection: socket.socket) -> None:
    connection.sendall(head())
    for _ in range(500):  # 500 MB at most; the reader leaves at 32
        connection.sendall(b" " * 1_000_000)


def bomb() -> bytes:
    """600 MB of blanks in 0.6 MB: one block, which can stand any number of times after the first."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    start, block = [packer.compress(b" " * 1_000_000) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
    data = start + block * 599
    assert len(data) < 1_000_000
    return data


def packed(connection: socket.socket) -> None:
    data = bomb()
    connection.sendall(head(f"Content-Length: {len(data)}", "Content-Encoding: gzip") + data)


def codec(connection: socket.socket) -> None:
    connection.sendall(head("Content-Type: application/json; charset=zip", status="400 Bad Request") + b"{")


@pytest.mark.parametrize(
    ("write", "fault"),
    [
        (drip, "timeout: "),
        (drip_an_error, "timeout: "),
        (endless, "unparsable: "),
        (packed, "unparsable: "),
        (codec, "refused: "),
    ],
)
def test_an_answer_is_bounded_in_time_and_size(
    serve: Serve, write: Callable[[socket.socket], None], fault: str
) -> None:
    timeout = 1.0 if fault == "timeout: " else 30.0
    model = OpenAILM("m", base_url=serve(write), timeout=timeout, max_retries=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    reply = model.generate([REQUEST])[0]
    seconds, grown = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    model.close()
    assert str(reply.fault).startswith(fault)
    assert seconds < (2.5 if timeout == 1.0 else 20)
    assert grown < 200_000  # KiB


def test_a_packed_answer_is_read(serve: Serve) -> None:
    body = gzip.compress(SAYS)

    def write(connection: socket.socket) -> None:
        connection.sendall(head(f"Content-Length: {len(body)}", "Content-Encoding: gzip") + body)

    model = OpenAILM("m", base_url=serve(write))
    assert model.generate([REQUEST])[0].text == "fine"
    model.close()


def test_a_redirect_is_followed_at_home_and_nowhere_else(serve: Serve) -> None:
    reached: list[bytes] = []

    def elsewhere(connection: socket.socket) -> None:
        reached.append(b"x")
        connection.sendall(head(f"Content-Length: {len(SAYS)}") + SAYS)

    target = serve(elsewhere)
    away = f"Location: {target}/chat/completions"

    def leads_away(connection: socket.socket) -> None:
        connection.sendall(head(away, "Content-Length: 0", status="307 Temporary Redirect"))

    with pytest.raises(ConfigurationError, match="give its address as base_url"):
        OpenAILM("m", base_url=serve(leads_away)).generate([REQUEST])
    assert not reached
    visits: list[int] = []

    def slash(connection: socket.socket) -> None:
        visits.append(1)
        moved = head("Location: /v1/chat/completions/", "Content-Length: 0", status="307 Temporary Redirect")
        connection.sendall(moved if len(visits) == 1 else head(f"Content-Length: {len(SAYS)}") + SAYS)

    assert OpenAILM("m", base_url=serve(slash)).generate([REQUEST])[0].text == "fine"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_interrupt_ends_a_run_whose_server_hangs(serve: Serve, asynchronous: bool) -> None:
    asked = threading.Event()

    def hang(connection: socket.socket) -> None:
        asked.set()
        time.sleep(8)

    url = serve(hang)
    program = f"""
import gymnasium
from simgym import LanguageModelAssistant, collect
from simgym.language_models import OpenAILM
env = gymnasium.make("UserSim-RolePlay-v0", model="scripted:hello", judge="rubric", judge_model="scripted:x")
model = OpenAILM("m", base_url={url!r})
collect(LanguageModelAssistant(model), env, n=2, asynchronous={asynchronous})
"""
    environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, env=environment)
    try:
        assert asked.wait(60), process.stderr.read().decode() if process.stderr and process.poll() else "no request"
        time.sleep(0.3)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert time.monotonic() - started < 2
        assert b"KeyboardInterrupt" in errors
    finally:
        process.kill()
        process.wait()
