"""The user seat as an OpenAI-compatible server: an assistant's words in, the simulated user's out.

    POST /v1/chat/completions   one user turn, plain or as server-sent events; see `openai_requests` for the roles
    GET  /v1/models             the simulators, as `simgym/NAME`

What cannot be answered is a status and a sentence in the protocol's error object, and no turn is ever made up: a
request that is wrong is a 4xx, a simulator that fails after its attempts a 502, a model's server that is away a 503.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.requests import ClientDisconnect

from simgym.conversation import Scenario
from simgym.errors import ConfigurationError, InvalidAction, ServerUnavailable, SimgymError
from simgym.faults import Fault, FaultKind
from simgym.serving.conversation_log import ConversationLog
from simgym.serving.openai_requests import Rejection, UserRequest, read_request, scenario_of
from simgym.serving.seats import Seat
from simgym.simulation import Dialogue
from simgym.transcripts import tokens_by_role

MAX_BYTES = 4 * 2**20
"""Of a request's body."""
MAX_WAITING = 1024
"""Requests of a simulator that may wait for an answer."""
STOP = "###STOP###"
"""What a user who leaves says, unless server, request or system message ask for something else."""
_STATUS_OF = {FaultKind.CONTEXT_OVERFLOW: 400, FaultKind.REFUSED: 422}
"""Status of faults that concern the request; of the others 502, or 503 for an outage."""
_logger = logging.getLogger(__name__)


def create_openai_app(
    seats: Mapping[str, Seat],
    *,
    stop: str = STOP,
    token: str | None = None,
    log: ConversationLog | None = None,
) -> FastAPI:
    """The application.

    Args:
        seats: Simulators by name; the first one answers to the plain name `simgym`, too.
        stop: What a user who leaves says.
        token: What callers must send as their API key; None: anything.
        log: Where conversations are written; closed with the application.

    Returns:
        An ASGI application.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        for seat in seats.values():
            seat.close()
        if log is not None:
            log.close()

    app = FastAPI(title="simgym", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.middleware("http")(_guarded(token))
    app.add_exception_handler(Rejection, _rejected)
    app.add_exception_handler(404, _not_found)
    app.add_exception_handler(405, _not_found)
    service = _Service(seats, stop, log)
    app.get("/health")(_health)
    app.get("/v1/models")(service.models)
    app.post("/v1/chat/completions", response_model=None)(service.complete)
    return app


class _Service:
    """The two routes."""

    def __init__(self, seats: Mapping[str, Seat], stop: str, log: ConversationLog | None) -> None:
        self._seats = seats
        self._stop = stop
        self._log = log
        self._started = int(time.time())

    async def models(self) -> dict[str, Any]:
        model = {"object": "model", "created": self._started, "owned_by": "simgym"}
        return {"object": "list", "data": [{"id": f"simgym/{name}", **model} for name in self._seats]}

    async def complete(self, request: Request) -> Response:
        body = await _body(request)
        session = request.headers.get("x-session-id") or body.get("user") if isinstance(body, Mapping) else ""
        asked = read_request(body, request.headers.get("x-simgym-seed"), str(session or "")[:200])
        seat = self._seat(asked.model)
        before = _dialogue(seat, asked)
        try:
            dialogue = await seat.ask(before, asked.answer)
        except (ConfigurationError, InvalidAction) as error:
            raise Rejection(400, str(error)) from error
        except ServerUnavailable as error:
            raise Rejection(503, str(error), "model_unavailable") from error
        except SimgymError as error:
            raise Rejection(502, str(error), "simulator_failed") from error
        if self._log is not None:
            await asyncio.to_thread(self._log.add, seat.name, asked.conversation, dialogue)  # waits for the disk
        if dialogue.fault is not None:
            raise _as_rejection(dialogue.fault)
        completion = _completion(asked, dialogue, asked.stop or self._stop)
        if not asked.stream:
            return JSONResponse(completion)
        return StreamingResponse(_events(completion, asked.usage_in_stream), media_type="text/event-stream")

    def _seat(self, model: str) -> Seat:
        name = model.removeprefix("simgym/")
        name = next(iter(self._seats)) if name == "simgym" else name
        if name not in self._seats:
            known = ", ".join(f"simgym/{each}" for each in self._seats)
            raise Rejection(404, f"There is no model {model[:80]!r}, expected one of {known}.", "model_not_found")
        seat = self._seats[name]
        if seat.waiting >= MAX_WAITING:
            raise Rejection(429, f"{seat.waiting} requests are waiting. Ask again in a moment.", "busy")
        return seat


def _dialogue(seat: Seat, asked: UserRequest) -> Dialogue:
    """What was said so far, with the scenario looked up."""
    scenario = asked.scenario
    if not isinstance(scenario, Scenario):
        try:
            known = scenario is None or scenario in seat.simulation.scenarios
            scenario = seat.simulation.scenario(asked.seed, scenario) if known else scenario_of(str(scenario))
        except ConfigurationError as error:
            raise Rejection(400, str(error)) from error
    dialogue = Dialogue.from_conversation(scenario, asked.seed, asked.conversation)
    if asked.answer is not None and not asked.conversation.messages:
        raise Rejection(400, "The assistant has answered a user who has said nothing.")
    return dialogue


def _as_rejection(fault: Fault) -> Rejection:
    status = _STATUS_OF.get(fault.kind, 503 if fault.is_outage else 502)
    code = "context_length_exceeded" if fault.kind is FaultKind.CONTEXT_OVERFLOW else "simulator_failed"
    return Rejection(status, f"The simulated user has no turn here: {fault}.", code)


def _completion(asked: UserRequest, dialogue: Dialogue, stop: str) -> dict[str, object]:
    tokens = tokens_by_role(dialogue.calls).get("user", {"prompt": 0, "completion": 0})
    left = dialogue.ended or stop in dialogue.user_reply
    said = dialogue.user_reply
    if left:  # with the last words before the mark, as a language model in this seat would say it
        said = f"{said.replace(stop, '').strip()} {stop}".strip()
    message = {"role": "assistant", "content": said}
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": asked.model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": {
            "prompt_tokens": tokens["prompt"],
            "completion_tokens": tokens["completion"],
            "total_tokens": tokens["prompt"] + tokens["completion"],
        },
        "simgym": {
            "scenario": dialogue.scenario.id,
            "seed": dialogue.seed,
            "convention": asked.convention,
            "ended": left,
            "parting_word": dialogue.user_reply if left else None,
        },
    }


async def _events(completion: Mapping[str, Any], with_usage: bool) -> AsyncIterator[str]:
    """A turn as server-sent events: it is whole before the first one, for its faults are told by the status."""
    shared = {key: completion[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    choice = completion["choices"][0]
    deltas = [({"role": "assistant", "content": ""}, None), ({"content": choice["message"]["content"]}, None)]
    for delta, reason in [*deltas, ({}, choice["finish_reason"])]:
        yield _event({**shared, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
    if with_usage:
        yield _event({**shared, "choices": [], "usage": completion["usage"]})
    yield "data: [DONE]\n\n"


def _event(value: Mapping[str, object]) -> str:
    return f"data: {json.dumps(value)}\n\n"


async def _body(request: Request) -> object:
    """The decoded body, bounded."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Rejection(415, "The content type is not application/json.")
    received = bytearray()
    try:
        async for chunk in request.stream():
            received += chunk
            if len(received) > MAX_BYTES:
                raise Rejection(413, f"The body is larger than {MAX_BYTES} bytes.")
    except ClientDisconnect as error:
        raise Rejection(400, "The caller hung up before the request was whole.") from error
    try:
        return json.loads(received)
    except (ValueError, RecursionError) as error:
        raise Rejection(400, f"The body is not JSON: {str(error)[:200]}.") from error


def _guarded(token: str | None) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    """Middleware that asks for the token, and turns what nobody foresaw into a sentence."""

    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if token is not None and not hmac.compare_digest(given.encode(), token.encode()):
            return _error(Rejection(401, "The API key is missing or wrong.", "invalid_api_key"))
        try:
            return await call_next(request)
        except Exception:
            _logger.exception("A request could not be answered.")
            return _error(Rejection(500, "Something went wrong; the server's log has it.", "internal_error"))

    return guard


async def _rejected(_: Request, error: Exception) -> Response:
    rejection = error if isinstance(error, Rejection) else Rejection(500, "Something went wrong.")
    return _error(rejection)


async def _not_found(request: Request, _: Exception) -> Response:
    known = "POST /v1/chat/completions, GET /v1/models, GET /health"
    return _error(Rejection(404, f"There is no {request.method} {request.url.path[:80]}, expected {known}."))


async def _health() -> dict[str, str]:
    return {"status": "ok"}


def _error(rejection: Rejection) -> Response:
    kind = "invalid_request_error" if rejection.status < 500 else "server_error"
    sentence = rejection.sentence.encode("utf-8", "backslashreplace").decode()  # it may quote a lone surrogate
    error = {"message": sentence, "type": kind, "param": None, "code": rejection.code}
    return JSONResponse({"error": error}, status_code=rejection.status)
