"""A language model behind HTTP: any server that speaks the OpenAI protocol (vLLM, SGLang, llama.cpp, Ollama, OpenAI).

A batch of requests is sent at once, at most `max_concurrency` in flight, and comes back in order. The `openai` client
does the talking and retries 408, 409, 429, 5xx and lost connections with exponential back-off; what still fails
becomes a `fault` of that one generation. A wrong key or model name is a `ConfigurationError`: every request would fail.

Sent as they are: temperature, top_p, stop, and the bound as `max_tokens`, which all these servers know (OpenAI's
reasoning models want `max_completion_tokens`; when one says so, that is used from then on). The seed is sent modulo
2**31, because some servers read 32 bits; how well it is honoured is the server's affair. vLLM also applies top_k and
penalties from the model's generation_config.json unless started with `--generation-config vllm`. Ollama cuts long
prompts silently instead of refusing them.

Only the chat endpoint applies the server's chat template. User turns and likelihoods need raw prompts, so they go to
`/v1/completions` and need the model's `tokenizer` here.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from simgym.chat_template import render, without_control_tokens
from simgym.errors import ConfigurationError
from simgym.extras import require_extra
from simgym.language_models._server_answers import logprobs, storable, text_of, used
from simgym.language_models._server_check import check_server
from simgym.language_models._server_connection import ServerConnection
from simgym.language_models.base import Generation, Likelihood, Purpose, Request
from simgym.language_models.thoughts import without_reasoning
from simgym.tokenization import encode_around

_CHAT: Literal["/chat/completions"] = "/chat/completions"
_RAW: Literal["/completions"] = "/completions"
_SEEDS = 2**31
_SAID_LIMIT = 300  # characters of a server's own words kept in a fault
_OVERFLOW = re.compile(
    r"context[ _](length|size|window)|exceed_context|maximum model length|prompt is too long|max_new_tokens. must be",
    re.IGNORECASE,
)
_FILTERED = re.compile(r"content[ _](filter|policy|management)", re.IGNORECASE)
_MODES = ("json_schema", "json_object", "none")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Call:
    """A request as it goes over the wire."""

    request: Request
    """What was asked for."""
    path: Literal["/chat/completions", "/completions"]
    """Below base_url."""
    prompt: str
    """Raw prompt, or the messages as JSON."""
    body: Mapping[str, Any]
    """The JSON that is posted, without `response_format`."""


class OpenAILM:
    """Asks an OpenAI-compatible server; implements `LanguageModel`."""

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        max_concurrency: int = 32,
        timeout: float = 120.0,
        max_retries: int = 4,
        tokenizer: Any = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        logprobs: bool = False,
    ) -> None:
        """Describe the server; nothing is sent or started yet.

        Args:
            model: The name the server knows the model by; a request's `adapter` is sent in its place (as vLLM names
                LoRA modules).
            base_url: Root of the API, e.g. `http://localhost:8000/v1`; None: `$OPENAI_BASE_URL`, else OpenAI.
            api_key: None: the environment variable `api_key_env`, read on the first call; a server of your own needs
                none. A key given here is part of a pickle of this object, and of nothing else.
            api_key_env: Name of the environment variable that holds the key, for servers with different keys.
            max_concurrency: Requests in flight, in [1, 1000] (the client opens no more connections).
            timeout: Seconds one attempt may wait for the server, > 0; a dead server costs `max_retries + 1` of them.
            max_retries: Further attempts after the first, >= 0.
            tokenizer: The served model's tokenizer, or the name or folder to load it from; for user turns, likelihoods.
            chat_template_kwargs: Variables for the server's chat template, as models that reason have
                (`{"enable_thinking": False}`); vLLM, SGLang and llama.cpp know the field.
            extra_body: More JSON fields for every request; they win, and a value of None leaves a field out.
            logprobs: Also ask for log-probabilities. `token_ids` stay empty all the same: the protocol has none.
        """
        if not (1 <= max_concurrency <= 1000 and timeout > 0 and max_retries >= 0):
            raise ConfigurationError(
                f"max_concurrency, timeout and max_retries are {max_concurrency}, {timeout} and {max_retries}, "
                "expected a number in [1, 1000], seconds > 0, and a number >= 0."
            )
        self.name = model
        self.max_concurrency = max_concurrency
        self.timeout = timeout
        self.max_retries = max_retries
        self.tokenizer = tokenizer
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        self.extra_body = dict(extra_body or {})
        self.logprobs = logprobs
        address = base_url or os.environ.get("OPENAI_BASE_URL")
        self._needs_key = not address
        self._base_url = (address or "https://api.openai.com/v1").rstrip("/")
        self._host, self._address = _without_credentials(self._base_url)
        self._api_key = api_key
        self._api_key_env = api_key_env
        self._settled_mode: int | None = None
        self._limit_field = "max_tokens"
        self.__setstate__({})

    def __repr__(self) -> str:
        return f"OpenAILM({self.name!r}, base_url={self._address!r})"

    def __getstate__(self) -> dict[str, Any]:
        here = {"_lock", "_connection", "_process", "_loaded_tokenizer"}
        return {key: value for key, value in self.__dict__.items() if key not in here}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._connection: ServerConnection | None = None
        self._process = os.getpid()
        self._loaded_tokenizer: Any = None

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Answer N requests; see `LanguageModel.generate`.

        A server that refuses a JSON schema is asked once more for any JSON object, then for plain text; what worked
        is remembered. Read such replies with care: nothing forces them into the schema.

        Raises:
            ConfigurationError: the key or model name is not accepted, there is no key for OpenAI itself, or a user
                turn is asked for without a tokenizer.
        """
        if not requests:
            return []
        calls = [self._compose(request) for request in requests]
        connection = self._ready()
        return connection.run([self._answer(connection, call) for call in calls])

    def loglikelihood(
        self, prompts: Sequence[str], continuations: Sequence[str], *, adapter: str | None = None
    ) -> list[Likelihood]:
        """Log-likelihood of each continuation after its prompt; see `LanguageModel.loglikelihood`.

        Prompt and continuation are tokenized here, together, and sent as token ids with `echo`; a token that stands in
        both counts towards the continuation. vLLM and SGLang can do this, most others cannot. An empty prompt stands
        for the start token.

        Raises:
            ConfigurationError: as the protocol says; also when there is no tokenizer or the server does not answer,
                since a likelihood cannot carry a fault.
        """
        count = len(prompts)
        if count != len(continuations):
            raise ConfigurationError(f"Got {count} prompts and {len(continuations)} continuations, expected as many.")
        if not count:
            return []
        tokenizer = self._ready_tokenizer("Scoring texts")
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        encoded = [encode_around(tokenizer, *pair) for pair in zip(prompts, continuations, strict=True)]
        heads = [head or [start] for head, _ in encoded]
        tails = [tail for _, tail in encoded]
        if empty := [index for index, tail in enumerate(tails) if not tail]:
            raise ConfigurationError(f"Continuation {empty[0]} is empty. There is nothing to score.")
        connection = self._ready()
        model = adapter or self.name
        pairs = zip(heads, tails, strict=True)
        return connection.run([self._likelihood(connection, model, head, tail) for head, tail in pairs])

    def check(self, purpose: Purpose = "chat", *, adapter: str | None = None) -> None:
        """Ask the server whether it is there and knows the model; see `CheckableModel.check`."""
        if purpose != "chat":
            self._ready_tokenizer("A user turn" if purpose == "user_turns" else "Scoring texts")
        check_server(self, adapter or self.name, purpose)

    def fingerprint(self) -> dict[str, Any]:
        """Model name, address without scheme and credentials, and further fields; what the server runs is not known."""
        tokenizer = self.tokenizer if isinstance(self.tokenizer, str) else None
        more: dict[str, Any] = {
            "chat_template_kwargs": self.chat_template_kwargs,
            "extra_body": self.extra_body,
            "logprobs": self.logprobs,
            "tokenizer": tokenizer,
        }
        given = {key: value for key, value in more.items() if value}
        return {"kind": "openai", "model": self.name, "base_url": self._address, **given}

    def close(self) -> None:
        """Close connections and end the background thread; the next call opens them again."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _compose(self, request: Request) -> _Call:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": request.adapter or self.name,
            # always sent: a server's own defaults (vLLM reads them from the model) are not ours
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "seed": request.seed % _SEEDS,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if request.kept_tokens:
            body["skip_special_tokens"] = False  # vLLM and SGLang
        if request.next_role == "user":
            prompt = body["prompt"] = _raw_prompt(
                self._ready_tokenizer("A user turn"), request, self.chat_template_kwargs
            )
            if self.logprobs:
                body["logprobs"] = 1
            return _Call(request, _RAW, prompt, body)
        messages = body["messages"] = [message.to_json() for message in request.messages]
        if self.chat_template_kwargs:
            body["chat_template_kwargs"] = self.chat_template_kwargs
        if self.logprobs:
            body["logprobs"] = True
        return _Call(request, _CHAT, json.dumps(messages, ensure_ascii=False), body)

    async def _answer(self, connection: ServerConnection, call: _Call) -> Generation:
        async with connection.slots:
            first = self._settled_mode or 0
            modes = range(first, len(_MODES)) if call.request.json_schema is not None else [len(_MODES) - 1]
            for mode in modes:
                try:
                    answer = await self._post(connection, call.path, {**call.body, **_response_format(call, mode)})
                except _Unanswered as problem:
                    if problem.fatal:
                        raise ConfigurationError(str(problem)) from None
                    if problem.refused and mode != modes[-1]:
                        continue
                    return _failed(call, str(problem))
                if call.request.json_schema is not None and self._settled_mode is None:
                    self._settled_mode = mode
                    if mode > 0:
                        logger.warning("%s refuses JSON schemas; asking with %s instead.", self._host, _MODES[mode])
                return self._read(call, answer)
        raise AssertionError("unreachable: the last mode returns")

    async def _post(self, connection: ServerConnection, path: str, body: Mapping[str, Any]) -> Any:
        """The server's JSON answer; raises _Unanswered if there is none after all retries."""
        import openai

        fields = {key: value for key, value in {**body, **self.extra_body}.items() if value is not None}
        if "max_tokens" in fields:
            fields[self._limit_field] = fields.pop("max_tokens")
        attempts = f"tried {self.max_retries + 1} times" if self.max_retries else "tried once"
        try:
            return await connection.client.post(path, body=fields, cast_to=object)
        except openai.APITimeoutError:
            raise _Unanswered(
                f"timeout: no answer from {self._host} within {self.timeout:g} s, {attempts}. "
                "Lower max_concurrency or raise timeout if the server is busy."
            ) from None
        except openai.APIConnectionError as error:
            # the class name alone: texts of transport errors can quote headers
            raise _Unanswered(
                f"server: no connection to {self._host} ({type(error.__cause__ or error).__name__}, {attempts}). "
                "Start the server, or check base_url."
            ) from None
        except json.JSONDecodeError:
            raise _Unanswered(f"server: {self._host} answered with broken JSON.") from None
        except openai.APIStatusError as error:
            if "max_tokens" in fields and re.search("not supported.*max_completion_tokens", str(error.body)):
                self._limit_field = "max_completion_tokens"
                return await self._post(connection, path, body)
            raise self._status_problem(error) from None

    def _status_problem(self, error: Any) -> _Unanswered:
        status, said = int(error.status_code), self._said(error)
        answered = f"{self._host} answered {status}: {said}"
        if status in (401, 403):  # the server's own words are left out: they may quote the key
            why = f"the API key is not accepted for model {self.name!r}. Set {self._api_key_env}, or pass api_key=."
            return _Unanswered(f"{self._host} answered {status}: {why}", fatal=True)
        if status in (404, 405):
            advice = f"Check the model name {self.name!r}, names of adapters, and base_url, which usually ends in /v1."
            return _Unanswered(f"{answered} {advice}", fatal=True, refused=True)
        if status in (408, 409, 429) or (status >= 500 and status != 501):
            return _Unanswered(f"server: {answered} See the server's log, or lower max_concurrency.")
        if "skip_special_tokens" in said:
            advice = "This server cannot keep special tokens in a reply. Use vLLM, SGLang, or a local model."
            return _Unanswered(f"{answered} {advice}", fatal=True)
        about = f"{error.code} {error.type} {said}"
        if _OVERFLOW.search(about):
            return _Unanswered(f"context_overflow: {answered}")
        return _Unanswered(f"refused: {answered}", refused=not _FILTERED.search(about))

    def _said(self, error: Any) -> str:
        body = error.body
        if isinstance(body, Mapping):
            body = body.get("message") or body.get("detail") or dict(body)
        text = " ".join(str(body or "no reason given").split())
        key = self._key()
        if key != "none":
            text = text.replace(key, "[key]")
        return text[:_SAID_LIMIT].rstrip(".") + "."

    def _read(self, call: _Call, answer: Any) -> Generation:
        try:
            choice = answer["choices"][0]
            message = choice["message"] if call.path == _CHAT else {"content": choice["text"]}
            text, reasoning = text_of(message)
        except (KeyError, IndexError, TypeError, AttributeError):
            return _failed(call, f"server: {self._host} answered with something that is not a completion.")
        ended = choice.get("finish_reason")
        if message.get("refusal") or ended == "content_filter":
            said = message.get("refusal") or "the content filter stopped the reply"
            return _failed(call, f"refused: {said}", answer)
        if call.request.kept_tokens:
            text = self._with_stop_token(text, choice, call.request.kept_tokens)
        for stop in call.request.sampling.stop:  # some servers leave it in
            text = text.partition(stop)[0]
        generation = Generation(
            text=storable(text),
            reasoning=storable(reasoning),
            logprobs=logprobs(choice) if self.logprobs else (),
            finish_reason="length" if ended == "length" else "stop",
            prompt=call.prompt,
            prompt_tokens=used(answer, "prompt_tokens"),
            completion_tokens=used(answer, "completion_tokens"),
        )
        return without_reasoning(generation)

    def _with_stop_token(self, text: str, choice: Mapping[str, Any], kept: tuple[str, ...]) -> str:
        """Put back the token that ended the reply (vLLM and SGLang give its id alone); drop special ones not `kept`."""
        if self.tokenizer is None:
            return text
        token, tokenizer = choice.get("stop_reason", choice.get("matched_stop")), self._ready_tokenizer("A user turn")
        mark = str(tokenizer.decode([token])) if isinstance(token, int) else ""
        return without_control_tokens(tokenizer, text if text.endswith(mark) else text + mark, kept)

    async def _likelihood(
        self, connection: ServerConnection, model: str, head: list[int], tail: list[int]
    ) -> Likelihood:
        body = {
            "model": model,
            "prompt": [*head, *tail],
            "echo": True,
            "logprobs": 1,
            "max_tokens": 1,  # 0 means "no bound" to some servers; the one new token is dropped below
            "temperature": 0,
        }
        advice = "This server cannot score texts; use a local model for the relevance judge."
        async with connection.slots:
            try:
                answer = await self._post(connection, _RAW, body)
            except _Unanswered as problem:
                raise ConfigurationError(f"{problem} {advice}" if problem.refused else str(problem)) from None
        try:
            values = answer["choices"][0]["logprobs"]["token_logprobs"][len(head) : len(head) + len(tail)]
            total = sum(float(value) for value in values)
        except (KeyError, IndexError, TypeError, ValueError):
            values, total = [], 0.0
        if len(values) != len(tail):
            raise ConfigurationError(f"{self._host} returned no log-probabilities of the prompt. {advice}")
        return Likelihood(total, len(tail), len(head))

    def _ready_tokenizer(self, what: str) -> Any:
        if self.tokenizer is None:
            raise ConfigurationError(
                f"{what} needs the model's tokenizer, and a server does not give it. "
                f"Pass tokenizer=, the name or folder of the model that {self._host} serves."
            )
        with self._lock:
            if self._loaded_tokenizer is None and isinstance(self.tokenizer, str):
                require_extra("local", f"The tokenizer {self.tokenizer!r}")
                from transformers import AutoTokenizer

                from simgym.language_models.weights import resolve_weights

                weights = resolve_weights(self.tokenizer)
                self._loaded_tokenizer = AutoTokenizer.from_pretrained(weights.path, revision=weights.revision)
            return self._loaded_tokenizer if isinstance(self.tokenizer, str) else self.tokenizer

    def _key(self) -> str:
        key = (self._api_key or os.environ.get(self._api_key_env) or "").strip()
        if not key and self._needs_key:
            raise ConfigurationError(
                f"There is no API key for OpenAI. Set {self._api_key_env}, pass api_key=, "
                "or pass base_url= for a server of your own."
            )
        if not (key.isascii() and key.isprintable()):
            raise ConfigurationError("The API key has characters that no key has. Copy it again, without line breaks.")
        return key or "none"

    def _ready(self) -> ServerConnection:
        if self._process != os.getpid():  # forked: the thread is not here, and a lock held then is held for ever
            self.__setstate__({})
        with self._lock:
            if self._connection is None:
                import openai

                client = openai.AsyncOpenAI(
                    api_key=self._key(), base_url=self._base_url, timeout=self.timeout, max_retries=self.max_retries
                )
                self._connection = ServerConnection(client, self.max_concurrency)
                weakref.finalize(self, self._connection.stop).atexit = False
            return self._connection


class _Unanswered(Exception):
    """Why a request has no answer; the text is what a fault or a ConfigurationError says."""

    def __init__(self, text: str, *, fatal: bool = False, refused: bool = False) -> None:
        super().__init__(text)
        self.fatal = fatal  # every other request would fail the same way
        self.refused = refused  # the server understood, and might take the request in another form


def _response_format(call: _Call, mode: int) -> dict[str, Any]:
    if _MODES[mode] == "none":
        return {}
    form: dict[str, Any] = {"type": _MODES[mode]}
    if _MODES[mode] == "json_schema":
        form["json_schema"] = {"name": "reply", "schema": dict(call.request.json_schema or {}), "strict": True}
    return {"response_format": form}


def _failed(call: _Call, fault: str, answer: Any = None) -> Generation:
    return Generation(
        text="",
        finish_reason="fault",
        prompt=call.prompt,
        prompt_tokens=used(answer, "prompt_tokens"),
        completion_tokens=used(answer, "completion_tokens"),
        fault=fault,
    )


def _raw_prompt(tokenizer: Any, request: Request, variables: Mapping[str, Any]) -> str:
    """The open user turn, without the start token if the server's tokenizer is going to add one itself."""
    prompt = render(tokenizer, request.messages, request.next_role, variables=variables)
    start = tokenizer.bos_token
    if start and prompt.startswith(start) and list(tokenizer(prompt)["input_ids"][:2]) == [tokenizer.bos_token_id] * 2:
        return prompt.removeprefix(start)
    return prompt


def _without_credentials(base_url: str) -> tuple[str, str]:
    """Host with port, and host with path."""
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError("base_url is not a web address. Expected something like http://localhost:8000/v1.")
    host = parts.netloc.rpartition("@")[2]
    return host, host + parts.path
