"""Who may ask a server: its guard, and the token that it has beyond this machine."""

from __future__ import annotations

import pytest

from simgym.errors import ConfigurationError

pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")
pytest.importorskip("uvicorn")
from openai_calls import GREETING, ask, client, listening, seat  # noqa: E402

from simgym.serving.openai_app import create_openai_app  # noqa: E402
from simgym.serving.running import Guard, ListenSettings  # noqa: E402


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:8000"}, 200),
        ({"host": "[::1]:8000", "origin": "http://localhost:3000"}, 200),
        ({"host": "evil.example:8000"}, 403),  # a name of theirs that leads here
        ({"host": "127.0.0.1:8000", "origin": "https://evil.example"}, 403),
        ({"host": "127.0.0.1:8000", "origin": "null"}, 403),
        ({"host": "[evil"}, 403),
        ({"host": "127.0.0.1:8000", "origin": "http://[evil"}, 403),
        ({}, 403),
    ],
)
def test_pages_of_others_do_not_reach_a_server_without_a_token(headers, status):
    body = {"model": "simgym", "messages": [{"role": "system", "content": "Bake."}, GREETING]}
    assert ask(Guard(create_openai_app({"role_play": seat("Fine.")}), None), body, headers)[0] == status


@pytest.mark.parametrize(("key", "status"), [("x" * 16, 200), ("y" * 16, 401), ("", 401)])
def test_with_a_token_a_guard_asks_for_it_from_wherever_one_comes(key, status):
    body = {"model": "simgym", "messages": [{"role": "system", "content": "Bake."}, GREETING]}
    guarded = Guard(create_openai_app({"role_play": seat("Fine.")}), "x" * 16)
    headers = {"host": "evil.example", "authorization": f"Bearer {key}"}
    assert ask(guarded, body, headers)[0] == status


def test_off_loopback_there_is_a_token_and_it_is_asked_for():
    with pytest.raises(ConfigurationError, match="SIMGYM_SERVE_TOKEN"):
        ListenSettings(host="0.0.0.0")
    with pytest.raises(ConfigurationError, match="16 or more"):
        ListenSettings(token="short")
    token = ListenSettings(host="0.0.0.0", token="x" * 16).token
    with listening(create_openai_app({"role_play": seat()}, token=token)) as url:
        with pytest.raises(openai.AuthenticationError):
            client(url).models.list()
        assert client(url, api_key=token).models.list().data
