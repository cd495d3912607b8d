"""Whether an OpenAI-compatible server can answer now: its list of models, or else a reply of one token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from simgym.errors import ConfigurationError, ServerUnavailable
from simgym.extras import optional_import
from simgym.language_models.base import Purpose

if TYPE_CHECKING:
    from simgym.language_models.openai_lm import OpenAILM

_TIMEOUT = 30.0
"""Seconds a server may take to say that it is there."""


def check_server(model: OpenAILM, name: str, purpose: Purpose) -> None:
    """Ask the server of `model` for a sign of life of the model (or adapter) called `name`.

    A server that lists the name is believed. Otherwise (some list nothing, some serve any name) one token is asked
    for; a refusal of that token is a sign of life, too.

    Raises:
        ServerUnavailable: no connection, no answer in time, or an error of the server.
        ConfigurationError: the key or the model's name is not accepted.
    """
    openai = optional_import("openai", "openai")
    client = openai.OpenAI(
        api_key=model._key(), base_url=model._base_url, timeout=min(model.timeout, _TIMEOUT), max_retries=1
    )
    with client:
        listed = _asked(model, lambda: client.get("/models", cast_to=object), about_name=False)
        if name in _names(listed):
            return
        chat = purpose == "chat"
        said: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]} if chat else {"prompt": "Hello"}
        body = {"model": name, **said, "max_tokens": 1, **model.extra_body}
        fields = {key: value for key, value in body.items() if value is not None}
        path = "/chat/completions" if chat else "/completions"
        _asked(model, lambda: client.post(path, body=fields, cast_to=object), about_name=True)


def _asked(model: OpenAILM, ask: Any, *, about_name: bool) -> Any:
    """The answer; None for a refusal that says nothing about key and name."""
    openai = optional_import("openai", "openai")
    advice = "Start the server, or check its address."
    try:
        return ask()
    except openai.APITimeoutError:
        raise ServerUnavailable(
            f"{model._host} did not answer within {min(model.timeout, _TIMEOUT):g} s. {advice}"
        ) from None
    except openai.APIConnectionError as error:
        # the class name alone: texts of transport errors can quote headers
        reason = type(error.__cause__ or error).__name__
        raise ServerUnavailable(f"No connection to {model._host} ({reason}). {advice}") from None
    except ValueError:  # no JSON
        return None
    except openai.APIStatusError as error:
        if error.status_code in (401, 403) or (about_name and error.status_code in (404, 405)):
            raise ConfigurationError(str(model._status_problem(error))) from None
        if about_name and error.status_code >= 500 and error.status_code != 501:
            raise ServerUnavailable(
                f"{model._host} answered {error.status_code}: {model._said(error)} {advice}"
            ) from None
        return None


def _names(listed: Any) -> set[str]:
    rows = listed.get("data") if isinstance(listed, Mapping) else None
    return {str(row.get("id")) for row in rows if isinstance(row, Mapping)} if isinstance(rows, list) else set()
