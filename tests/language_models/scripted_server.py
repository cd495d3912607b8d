"""A small server that speaks the OpenAI protocol as a test tells it, and what its answers look like."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from simgym.conversation import Message
from simgym.language_models import OpenAILM, Request

SECRET = "sk-do-not-show-me"
SOON = {"retry-after-ms": "10"}
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}

Answer = tuple[int, Any, dict[str, str]]
"""Status, JSON value (bytes go out as they are), and headers."""
Reply = Callable[[str, dict[str, Any]], Answer]
"""Path and body to answer."""


class Server(ThreadingHTTPServer):
    """Speaks the OpenAI protocol as `reply(path, body)` tells it."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, reply: Reply) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply = reply
        self.listed: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # clients that leave are part of the tests
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.keys.add(self.headers["Authorization"])
            self.server.in_flight += 1
            self.server.most_in_flight = max(self.server.most_in_flight, self.server.in_flight)
        status, value, headers = self.server.reply(self.path, body)
        with self.server.lock:
            self.server.in_flight -= 1
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        try:
            self.send_response(status)
            for name, text in {"Content-Type": "application/json", "Content-Length": len(data), **headers}.items():
                self.send_header(name, str(text))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True  # the client has given up waiting

    def do_GET(self) -> None:
        data = json.dumps({"data": [{"id": name} for name in self.server.listed]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        return


Serve = Callable[[Reply], Server]
Connect = Callable[..., OpenAILM]


def says(text: Any, **choice: Any) -> Answer:
    message = {"role": "assistant", "content": text, **choice.pop("message", {})}
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    return 200, {"choices": [{"message": message, "finish_reason": "stop", **choice}], "usage": usage}, {}


def echo(path: str, body: dict[str, Any]) -> Answer:
    return says(body["messages"][-1]["content"])


def fails(status: int, message: str, **fields: Any) -> Answer:
    return status, {"error": {"message": message, **fields}}, SOON


def ask(text: str = "hello", **options: Any) -> Request:
    return Request((Message("user", text),), **options)
