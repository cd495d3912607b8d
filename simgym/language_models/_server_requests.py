"""Asks a server one thing until there is an answer or a reason: repeats, leaves out what is refused, simplifies.

What a server has taught (a field it does not know, the form of JSON it takes) holds for all later requests of the same
model. All of this runs in the one event loop of the model's `ServerConnection`, so nothing here needs a lock.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from typing import Any

from simgym.language_models._server_connection import ServerConnection
from simgym.language_models._server_exchange import NoAnswer
from simgym.language_models._server_problems import Asked, Problem, Scope, classify, code_of
from simgym.language_models._server_replies import error_inside, parse_json, read_reply
from simgym.language_models.secret import Secret

_FORMS = ("json_schema", "json_object", "none")
_LONGEST_WAIT = 60.0  # seconds that a server can make us wait before a request is repeated
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # seconds, if it does not say how long
_CONSEQUENCES = {
    "seed": "Its replies are not seeded: the same command will give other ones.",
    "temperature": "Replies are drawn at its own temperature, so they differ from run to run.",
    "top_p": "Its own top_p applies.",
    "max_tokens": "Only its own bound ends a reply.",
    "max_completion_tokens": "Only its own bound ends a reply.",
    "stop": "Replies are cut at stop texts here, after they were paid for in full.",
    "logprobs": "Replies come without log-probabilities.",
    "chat_template_kwargs": "The defaults of its chat template apply.",
}
"""What follows when a field is left out."""
_jitter = random.Random()  # noqa: S311 - spreads repeated requests in time, and decides nothing else

logger = logging.getLogger(__name__)


class Unanswered(Exception):
    """There is no answer; `problem` says why and whom it concerns."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem


class ServerRequests:
    """How one model's server is asked, and what it has taught; can be pickled."""

    def __init__(
        self,
        *,
        host: str,
        secret: Secret,
        timeout: float,
        max_retries: int,
        extra_body: Mapping[str, Any],
        headers: Mapping[str, str | Secret] | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            host: Host and port, for messages.
            secret: The API key. It and the secret headers are removed from everything that is quoted.
            timeout: Seconds within which a whole answer has to be there, > 0.
            max_retries: Further attempts after the first, >= 0.
            extra_body: More fields of every request; they win, and None leaves a field out.
            headers: More headers of every request.
        """
        self.host = host
        self.secret = secret
        self.timeout = timeout
        self.max_retries = max_retries
        self.extra_body = dict(extra_body)
        self._secrets = [secret, *(value for value in (headers or {}).values() if isinstance(value, Secret))]
        self.credentials: tuple[str, ...] = ()  # of the address; not pickled
        self.answered = False
        self.unlisted: set[str] = set()  # names that the server answers to and does not list; said once each
        self._form: int | None = None
        self._limit_field = "max_tokens"
        self._left_out: set[str] = set()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "credentials": ()}

    async def ask(
        self, connection: ServerConnection, path: str, body: Mapping[str, object], *, all_fields: bool = False
    ) -> Any:
        """The JSON answer to `body`.

        Args:
            connection: Where to ask.
            path: Below base_url.
            body: The fields; one that the server refuses is left out, now and later.
            all_fields: The request is worth nothing without all of them.

        Raises:
            Unanswered: after all attempts.
        """
        while True:
            fields = self._fields(body)
            answer = await self._try(connection, path, fields)
            if not isinstance(answer, Problem):
                self.answered = True
                return answer
            if answer.scope is not Scope.FIELD or answer.field is None or all_fields:
                raise Unanswered(answer)
            self._leave_out(answer.field, str(body.get("model")), answer.text)

    async def ask_for_json(
        self, connection: ServerConnection, path: str, body: Mapping[str, object], schema: Mapping[str, object]
    ) -> object:
        """The answer to a request whose reply is to follow a JSON schema, in the strictest form that the server takes.

        Raises:
            Unanswered: after all attempts.
        """
        for form in range(self._form or 0, len(_FORMS)):
            try:
                answer = await self.ask(connection, path, {**body, **_response_format(schema, form)})
            except Unanswered as reason:
                if reason.problem.scope is Scope.FORM and form < len(_FORMS) - 1:
                    continue
                raise
            if self._form is None:  # a later refusal is one of that schema, not of schemas
                self._form = form
                if form > 0:
                    logger.warning("%s refuses JSON schemas; asking with %s instead.", self.host, _FORMS[form])
            return answer
        raise AssertionError("unreachable: the last form returns or raises")

    def secrets(self) -> tuple[str, ...]:
        """The API key, the values of secret headers and an address's credentials: no text has them that is quoted or
        read.
        """
        return (*(secret.reveal() for secret in self._secrets), *self.credentials)

    def asked(self, fields: Mapping[str, object]) -> Asked:
        """What a refusal of these fields is judged by."""
        return Asked(
            host=self.host,
            model=str(fields.get("model")),
            secrets=self.secrets(),
            key_variable=self.secret.variable,
            fields=tuple(fields),
            own_fields=tuple(self.extra_body),
            answered=self.answered,
        )

    def _fields(self, body: Mapping[str, object]) -> dict[str, object]:
        ours = {key: value for key, value in body.items() if key not in self._left_out}
        fields = {key: value for key, value in {**ours, **self.extra_body}.items() if value is not None}
        if "max_tokens" in fields and "max_tokens" not in self.extra_body and self._limit_field != "max_tokens":
            limit = fields.pop("max_tokens")
            if self._limit_field not in self._left_out:
                fields.setdefault(self._limit_field, limit)
        return fields

    def _leave_out(self, name: str, model: str, why: str) -> None:
        if name == "max_tokens" and "max_completion_tokens" not in self._left_out:
            self._limit_field = "max_completion_tokens"  # the newer name; if that is refused, too, neither is sent
            return
        if name not in self._left_out:
            self._left_out.add(name)
            follows = _CONSEQUENCES.get(name, "")
            logger.warning(
                "%s does not take %r for %s and is asked without. %s (%s)", self.host, name, model, follows, why
            )

    async def _try(self, connection: ServerConnection, path: str, fields: Mapping[str, object]) -> object:
        """The answer, or the `Problem` that is left after all attempts."""
        for attempt in range(self.max_retries + 1):
            asked_to_wait = None
            try:
                exchange = await connection.client.exchange(path, fields, timeout=self.timeout)
            except NoAnswer as reason:
                problem = self.silence(reason)
            else:
                answer, asked_to_wait = parse_json(exchange.content), exchange.retry_after
                if exchange.status >= 300:
                    problem = classify(exchange.status, answer, self.asked(fields))
                elif (inside := self._problem_inside(answer, fields)) is None:
                    return answer
                else:
                    problem = inside
            if problem.scope is not Scope.SERVER or attempt == self.max_retries:
                return problem
            pause = min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE) * _jitter.uniform(0.75, 1.0)
            await asyncio.sleep(pause if asked_to_wait is None else min(asked_to_wait, _LONGEST_WAIT))
        raise AssertionError("unreachable: the last attempt returns")

    def silence(self, reason: NoAnswer) -> Problem:
        """What it means that there is no answer that could be read."""
        attempts = f"tried {self.max_retries + 1} times" if self.max_retries else "tried once"
        if reason.kind == "timeout":
            return Problem(
                Scope.SERVER,
                f"timeout: no answer from {self.host} within {self.timeout:g} s, {attempts}. "
                "Lower max_concurrency or raise timeout if the server is busy.",
            )
        if reason.kind == "connection":
            return Problem(
                Scope.SERVER,
                f"server: no connection to {self.host} ({reason}, {attempts}). Start the server, or check base_url.",
            )
        if reason.kind == "redirect":
            why = f"{self.host} redirects to {reason}, and requests do not follow to another host."
            return Problem(Scope.RUN, f"{why} If that is right, give its address as base_url.")
        return Problem(Scope.REQUEST, f"unparsable: {self.host}: {reason}.")

    def _problem_inside(self, answer: object, fields: Mapping[str, object]) -> Problem | None:
        """Why an answer with status 200 is none: an error in it, or not a completion."""
        if (error := error_inside(answer)) is not None:
            return classify(code_of(error), {"error": error}, self.asked(fields))
        fault = read_reply(answer).fault
        if fault is not None and fault.startswith("server: "):
            return Problem(Scope.SERVER, f"server: {self.host} sent {fault.removeprefix('server: ')}.")
        return None


def _response_format(schema: Mapping[str, object], form: int) -> dict[str, object]:
    if _FORMS[form] == "none":
        return {}
    described: dict[str, object] = {"type": _FORMS[form]}
    if _FORMS[form] == "json_schema":
        described["json_schema"] = {"name": "reply", "schema": dict(schema), "strict": True}
    return {"response_format": described}
