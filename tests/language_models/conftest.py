from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from scripted_server import SECRET, Connect, Reply, Serve, Server

from simgym.language_models import OpenAILM


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    servers: list[Server] = []

    def start(reply: Reply) -> Server:
        servers.append(Server(reply))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def connect() -> Iterator[Connect]:
    models: list[OpenAILM] = []

    def make(server: Server | str, **options: Any) -> OpenAILM:
        url = server if isinstance(server, str) else server.url
        models.append(OpenAILM("m", **{"base_url": url, "api_key": SECRET, "max_retries": 0, "timeout": 5, **options}))
        return models[-1]

    yield make
    for model in models:
        model.close()
