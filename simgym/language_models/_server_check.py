"""Whether an OpenAI-compatible server can answer now: its list of models, or else a reply of one token."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from simgym.errors import ConfigurationError, ServerUnavailable
from simgym.language_models._server_connection import ServerConnection
from simgym.language_models._server_exchange import Exchange, NoAnswer
from simgym.language_models._server_problems import Scope, classify, quote, without_secrets
from simgym.language_models._server_replies import parse_json
from simgym.language_models._server_requests import ServerRequests
from simgym.language_models.base import Purpose

_TIMEOUT = 30.0
"""Seconds a server may take to say that it is there."""
logger = logging.getLogger(__name__)

_ADVICE = "Start the server, or check its address."


async def check_server(requests: ServerRequests, connection: ServerConnection, name: str, purpose: Purpose) -> None:
    """Ask the server for a sign of life of the model (or adapter) called `name`.

    A server that lists the name is believed. Otherwise (some list nothing, some serve any name) one token is asked
    for; a refusal of that token is a sign of life, too. A reply from a server that lists other names only may be one of
    another model (llama.cpp answers with what it has loaded, whatever is asked for), which is said once.

    Raises:
        ServerUnavailable: no connection, no answer in time, or an error of the server.
        ConfigurationError: the key or the model's name is not accepted.
    """
    listed = await _exchange(requests, connection, "/models", None)
    if listed.status == 401:  # with a 403, the list alone may be closed to this key
        raise ConfigurationError(classify(401, parse_json(listed.content), requests.asked({"model": name})).text)
    names = _names(parse_json(listed.content)) if listed.status < 300 else set()
    if name in names:
        return
    chat = purpose == "chat"
    said: dict[str, object] = {"messages": [{"role": "user", "content": "Hello"}]} if chat else {"prompt": "Hello"}
    body = {"model": name, **said, "max_tokens": 1, **requests.extra_body}
    fields = {key: value for key, value in body.items() if value is not None}
    reply = await _exchange(requests, connection, "/chat/completions" if chat else "/completions", fields)
    if reply.status < 300:
        requests.answered = True
        if names and name not in requests.unlisted:
            requests.unlisted.add(name)
            shown = [without_secrets(each, requests.secrets())[:100] for each in sorted(names)[:5]]
            listing = ", ".join(map(repr, shown))
            logger.warning(
                "%s lists %s and not %r, and answers all the same. If it is a server that answers with the model it "
                "has loaded, whatever the name says (llama.cpp), the replies are not those of %r.",
                requests.host, listing, name, name,
            )  # fmt: skip
        return
    answer = parse_json(reply.content)
    problem = classify(reply.status, answer, requests.asked(fields))
    if problem.scope is Scope.RUN:
        raise ConfigurationError(problem.text)
    if problem.scope is Scope.SERVER and reply.status >= 500:
        said_why = quote(answer, requests.secrets())
        raise ServerUnavailable(f"{requests.host} answered {reply.status}: {said_why} {_ADVICE}")


async def _exchange(
    requests: ServerRequests, connection: ServerConnection, path: str, body: Mapping[str, Any] | None
) -> Exchange:
    timeout = min(requests.timeout, _TIMEOUT)
    for attempt in range(2):
        try:
            answer: Exchange = await connection.client.exchange(path, body, timeout=timeout)
            return answer
        except NoAnswer as reason:
            if reason.kind == "connection" and attempt == 0:
                await asyncio.sleep(0.5)
                continue
            if reason.kind == "timeout":
                raise ServerUnavailable(f"{requests.host} did not answer within {timeout:g} s. {_ADVICE}") from None
            if reason.kind == "connection":
                raise ServerUnavailable(f"No connection to {requests.host} ({reason}). {_ADVICE}") from None
            if reason.kind == "redirect":
                raise ConfigurationError(requests.silence(reason).text) from None
            return Exchange(200, b"")  # there is a server; what it lists cannot be read
    raise AssertionError("unreachable: the second attempt returns or raises")


def _names(listed: object) -> set[str]:
    rows = listed.get("data") if isinstance(listed, Mapping) else None
    return {str(row.get("id"))[:1000] for row in rows if isinstance(row, Mapping)} if isinstance(rows, list) else set()
