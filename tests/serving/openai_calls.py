"""A user's seat, and how the tests of its server ask it: over a port, or in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time

import openai
import uvicorn

from simgym.language_models import ScriptedLM
from simgym.serving.seats import Seat, SeatSettings
from simgym.study.serving import free_port

GREETING = {"role": "user", "content": "Hello! How can I help you today?"}


def seat(rule="seed", **options):
    return Seat("role_play", SeatSettings(model=ScriptedLM(rule), options=options))


@contextlib.contextmanager
def listening(app):
    """The base URL of a server on a free port."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join(10)


def client(url, **options):
    return openai.OpenAI(base_url=url, api_key=options.pop("api_key", "none"), max_retries=0, **options)


def ask(app, body, headers=None, path="/v1/chat/completions", incoming=None):
    """Status and decoded answer of a request in this process, without a socket."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": path, "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "scheme": "http", "server": ("test", 80), "client": ("test", 1),
        "headers": [
            (name.encode(), value.encode())
            for name, value in {"content-type": "application/json", **(headers or {})}.items()
        ],
    }  # fmt: skip
    sent = []
    incoming = incoming or iter([{"type": "http.request", "body": data, "more_body": False}])

    async def receive():
        return next(incoming, None) or await asyncio.sleep(3600)

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    payload = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], json.loads(payload)


def said(answer):
    return answer["choices"][0]["message"]["content"]
