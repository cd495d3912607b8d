"""Headers of a policy's server, and clients that are not kept for ever."""

from __future__ import annotations

import gc
import json
import pickle
import weakref

import pytest

from simgym.errors import ConfigurationError
from simgym.language_models import OpenAILM, ScriptedLM, load_language_model
from simgym.language_models.loading import MAX_CLIENTS, clear_language_models
from simgym.language_models.model_spec import ModelSpec
from simgym.language_models.server_headers import read_headers, reveal_headers

SECRET = "do-not-show-me"


def test_a_secret_header_is_sent_and_is_in_no_file_pickle_or_fingerprint(monkeypatch):
    monkeypatch.setenv("GATEWAY_KEY", SECRET)
    headers = {"X-Session-Id": 7, "X-Api-Key": {"env": "GATEWAY_KEY"}, "Authorization": {"env": "GATEWAY_KEY"}}
    spec = ModelSpec.parse({"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", "headers": headers})
    model = OpenAILM(**spec.arguments)
    revealed = reveal_headers(model._headers)
    assert revealed == {"X-Session-Id": "7", "X-Api-Key": SECRET, "Authorization": SECRET}
    assert reveal_headers(pickle.loads(pickle.dumps(model))._headers) == revealed
    for written in (json.dumps(spec.to_json()), repr(model), str(model.fingerprint()), str(pickle.dumps(model))):
        assert SECRET not in written
    assert "7" not in str(model.fingerprint().get("headers", ""))


@pytest.mark.parametrize("name", ["X-Api-Key", "Authorization", "Cookie", "x-auth-token"])
def test_a_secret_that_is_given_as_text_is_refused_and_not_repeated(name):
    with pytest.raises(ConfigurationError, match='"env": "VARIABLE"') as caught:
        ModelSpec.parse({"kind": "openai", "model": "m", "headers": {name: SECRET}})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    [
        {"a b": "x"},
        {"X-A": "x\r\ny: z"},
        {"X-A": ""},
        {"X-A": "ä"},
        {"Content-Length": "1"},
        {"X-A": {"file": "x"}},
        [],
    ],
)
def test_what_no_header_can_be_is_refused(headers):
    with pytest.raises(ConfigurationError, match="header"):
        read_headers(headers)


def test_a_variable_that_is_not_set_is_named(monkeypatch):
    monkeypatch.delenv("GATEWAY_KEY", raising=False)
    with pytest.raises(ConfigurationError, match=r"X-Api-Key has no value\. Set GATEWAY_KEY"):
        reveal_headers(read_headers({"X-Api-Key": {"env": "GATEWAY_KEY"}}))


def client(number):
    return load_language_model({"kind": "openai", "model": "m", "base_url": f"http://127.0.0.1:9/{number}/v1"})


def test_clients_of_many_urls_are_let_go_and_models_with_weights_and_recent_clients_are_kept():
    clear_language_models()
    weights = load_language_model("scripted:echo")
    assert isinstance(weights, ScriptedLM)
    first, second = weakref.ref(client(0)), client(1)
    for number in range(2, MAX_CLIENTS + 1):
        assert client(1) is second  # used all the time
        client(number)
    client(MAX_CLIENTS + 1)
    gc.collect()
    assert first() is None
    assert client(1) is second
    assert load_language_model("scripted:echo") is weights
