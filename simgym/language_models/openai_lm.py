"""A language model behind HTTP: any server that speaks the OpenAI protocol (vLLM, SGLang, llama.cpp, Ollama, OpenAI).

A batch of requests is sent at once, at most `max_concurrency` in flight, and comes back in order. 408, 409, 429, 5xx
and lost connections are repeated with exponential back-off, or after the time that the server asks for; what still
fails is a `fault` of that one generation. A wrong key, no credit, or an unknown model is a `ConfigurationError`: every
request would fail (`_server_problems` says whom a refusal concerns).

Sent as they are: temperature, top_p, stop, and the bound as `max_tokens`, which all these servers know (OpenAI's
reasoning models want `max_completion_tokens`). A field that a server refuses is left out from then on, with one warning
that says what follows. The seed is sent modulo 2**31, because some servers read 32 bits; how well it is honoured is the
server's affair. vLLM also applies top_k and penalties from the model's generation_config.json unless started with
`--generation-config vllm`. Ollama cuts long prompts silently instead of refusing them; vLLM and llama.cpp cut a reply
(`length`) where the prompt fits the context and the reply's bound does not, which in process is a `context_overflow`.

Only the chat endpoint applies the server's chat template. User turns and likelihoods need raw prompts, so they go to
`/v1/completions` and need the model's `tokenizer` here.
"""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from simgym._forks import renew_in_children
from simgym.chat_template import render, without_control_tokens
from simgym.errors import ConfigurationError, ServerUnavailable
from simgym.extras import require_extra
from simgym.language_models._server_address import address_from_environment, credentials_of, without_credentials
from simgym.language_models._server_check import check_server
from simgym.language_models._server_connection import ServerConnection
from simgym.language_models._server_exchange import ServerClient
from simgym.language_models._server_problems import Scope, without_secrets
from simgym.language_models._server_replies import Reply, read_likelihood, read_reply
from simgym.language_models._server_requests import ServerRequests, Unanswered
from simgym.language_models.base import Generation, Likelihood, Purpose, Request, check_pairs
from simgym.language_models.secret import Secret
from simgym.language_models.server_headers import read_headers, reveal_headers
from simgym.language_models.thoughts import without_reasoning
from simgym.language_models.weights import local_chat_template, resolve_weights
from simgym.tokenization import encode_around
from simgym.transcripts import text_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHAT: Literal["/chat/completions"] = "/chat/completions"
_RAW: Literal["/completions"] = "/completions"
_SEEDS = 2**31


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

    is_client = True
    """Holds no weights, so `load_language_model` may make it again."""

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        max_concurrency: int = 32,
        timeout: float = 120.0,
        max_retries: int = 4,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template_kwargs: Mapping[str, object] | None = None,
        extra_body: Mapping[str, object] | None = None,
        headers: Mapping[str, object] | None = None,
        logprobs: bool = False,
    ) -> None:
        """Describe the server; nothing is sent or started yet.

        Args:
            model: The name the server knows the model by; a request's `adapter` is sent in its place (as vLLM names
                LoRA modules).
            base_url: Root of the API, e.g. `http://localhost:8000/v1`; None: `$OPENAI_BASE_URL`, else OpenAI.
            api_key: None: the environment variable `api_key_env`, read on the first call; a server of your own needs
                none. A key given here stays in this process: a pickle holds the name of the variable alone.
            api_key_env: Name of the environment variable that holds the key, for servers with different keys.
            max_concurrency: Requests in flight, in [1, 1000] (the client opens no more connections). A GPU server of
                your own takes 256; on a slow one, replies that queue run into `timeout`.
            timeout: Seconds within which the whole answer of one attempt has to be there, > 0; a dead server costs
                `max_retries + 1` of them.
            max_retries: Further attempts after the first, >= 0.
            tokenizer: The served model's tokenizer, or the name or folder to load it from; for user turns, likelihoods.
            chat_template_kwargs: Variables for the server's chat template, as models that reason have
                (`{"enable_thinking": False}`); vLLM, SGLang and llama.cpp know the field.
            extra_body: More JSON fields for every request; they win, and a value of None leaves a field out.
            headers: More HTTP headers, as gateways and trainers want (`{"X-Session-Id": "7"}`); they say nothing about
                the model, so they are no part of its fingerprint. A value that is secret is `{"env": "VARIABLE"}`.
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
        self._headers = read_headers(headers or {})
        address = base_url or os.environ.get("OPENAI_BASE_URL")
        self._needs_key = not address
        self._base_url = (address or "https://api.openai.com/v1").rstrip("/")
        self._host, self._address = without_credentials(self._base_url)
        self._secret = api_key if isinstance(api_key, Secret) else Secret(api_key_env, api_key)
        self._requests = ServerRequests(
            host=self._host,
            secret=self._secret,
            timeout=timeout,
            max_retries=max_retries,
            extra_body=self.extra_body,
            headers=self._headers,
        )
        self.__setstate__({})

    def __repr__(self) -> str:
        return f"OpenAILM({self.name!r}, base_url={self._address!r})"

    def __getstate__(self) -> dict[str, object]:
        here = {"_lock", "_connection", "_loaded_tokenizer"}
        if credentials_of(self._base_url):  # as a key, they stay in this process
            here.add("_base_url")
        return {key: value for key, value in self.__dict__.items() if key not in here}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        if "_base_url" not in self.__dict__:
            self._base_url = address_from_environment(self._address)
        self._requests.credentials = credentials_of(self._base_url)
        self._loaded_tokenizer: PreTrainedTokenizerBase | None = None
        self.renew_after_fork()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """In a forked child: the connection's thread is not there, and a lock that was held is held for ever."""
        self._lock = threading.Lock()
        self._connection: ServerConnection | None = None

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Answer N requests; see `LanguageModel.generate`.

        A server that refuses a JSON schema is asked once more for any JSON object, then for plain text; what worked
        is remembered. Read such replies with care: nothing forces them into the schema.

        Raises:
            ConfigurationError: the key or model name is not accepted, there is no credit, no key for OpenAI itself,
                or a user turn is asked for without a tokenizer.
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
            ConfigurationError: as the protocol says; also when there is no tokenizer.
            ServerUnavailable: the server does not answer, since a likelihood cannot carry a fault.
        """
        check_pairs(prompts, continuations)
        if not prompts:
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
        connection = self._ready()
        connection.run([check_server(self._requests, connection, adapter or self.name, purpose)])

    def fingerprint(self) -> dict[str, object]:
        """Model name, address without scheme and credentials, and further fields; what the server runs is not known."""
        tokenizer = self.tokenizer if isinstance(self.tokenizer, str) else None
        template = local_chat_template(tokenizer) if tokenizer else None
        more: dict[str, Any] = {
            "chat_template_kwargs": self.chat_template_kwargs,
            "extra_body": self.extra_body,
            "logprobs": self.logprobs,
            "tokenizer": tokenizer,
            "chat_template": text_hash(template) if template else None,
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
        schema = call.request.json_schema
        async with connection.slots:
            try:
                if schema is None:
                    answer = await self._requests.ask(connection, call.path, call.body)
                else:
                    answer = await self._requests.ask_for_json(connection, call.path, call.body, schema)
            except Unanswered as reason:
                if reason.problem.scope is Scope.RUN:
                    raise ConfigurationError(reason.problem.text) from None
                return _fault(call, reason.problem.text)
        return self._generation(call, read_reply(answer, logprobs=self.logprobs))

    def _generation(self, call: _Call, reply: Reply) -> Generation:
        secrets = self._requests.secrets()
        if reply.fault is not None:
            fault = without_secrets(reply.fault, secrets)
            return replace(
                _fault(call, fault), prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens
            )
        text = reply.text
        if call.request.kept_tokens:
            text = self._with_stop_token(text, reply.stop_token, call.request.kept_tokens)
        for stop in call.request.sampling.stop:  # some servers leave it in
            text = text.partition(stop)[0]
        generation = Generation(
            text=without_secrets(text, secrets),
            reasoning=without_secrets(reply.reasoning, secrets),
            logprobs=reply.logprobs,
            finish_reason="length" if reply.cut else "stop",
            prompt=call.prompt,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
        )
        return without_reasoning(generation, prompt_known=call.path == _RAW)

    def _with_stop_token(self, text: str, token: int | None, kept: tuple[str, ...]) -> str:
        """Put back the token that ended the reply (vLLM and SGLang give its id alone); drop special ones not `kept`."""
        if self.tokenizer is None:
            return text
        tokenizer = self._ready_tokenizer("A user turn")
        known = token is not None and token < len(tokenizer)
        mark = str(tokenizer.decode([token])) if known else ""
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
                answer = await self._requests.ask(connection, _RAW, body, all_fields=True)
            except Unanswered as reason:
                if reason.problem.scope is Scope.SERVER:
                    raise ServerUnavailable(reason.problem.text) from None
                refused = reason.problem.status not in (401, 402, 403)
                raise ConfigurationError(f"{reason} {advice}" if refused else str(reason)) from None
        total = read_likelihood(answer, len(head), len(tail))
        if total is None:
            raise ConfigurationError(f"{self._host} returned no log-probabilities of the prompt. {advice}")
        return Likelihood(total, len(tail), len(head))

    def _ready_tokenizer(self, what: str) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise ConfigurationError(
                f"{what} needs the model's tokenizer, and a server does not give it. "
                f"Pass tokenizer=, the name or folder of the model that {self._host} serves."
            )
        with self._lock:
            if self._loaded_tokenizer is None and isinstance(self.tokenizer, str):
                require_extra("local", f"The tokenizer {self.tokenizer!r}")
                from transformers import AutoTokenizer

                weights = resolve_weights(self.tokenizer)
                self._loaded_tokenizer = AutoTokenizer.from_pretrained(weights.path, revision=weights.revision)
            return self._loaded_tokenizer if isinstance(self.tokenizer, str) else self.tokenizer

    def _key(self) -> str:
        key = self._secret.reveal()
        if not key and self._needs_key:
            raise ConfigurationError(
                f"There is no API key for OpenAI. Set {self._secret.variable}, pass api_key=, "
                "or pass base_url= for a server of your own."
            )
        return key or "none"

    def _ready(self) -> ServerConnection:
        with self._lock:
            if self._connection is None:
                client = ServerClient(self._base_url, self._key(), reveal_headers(self._headers))
                self._connection = ServerConnection(client, self.max_concurrency)
                weakref.finalize(self, self._connection.stop).atexit = False
            return self._connection


def _fault(call: _Call, fault: str) -> Generation:
    return Generation("", finish_reason="fault", prompt=call.prompt, fault=fault)


def _raw_prompt(tokenizer: PreTrainedTokenizerBase, request: Request, variables: Mapping[str, object]) -> str:
    """The open user turn, without the start token if the server's tokenizer is going to add one itself."""
    prompt = render(tokenizer, request.messages, request.next_role, variables=variables)
    start = tokenizer.bos_token
    if start and prompt.startswith(start) and list(tokenizer(prompt)["input_ids"][:2]) == [tokenizer.bos_token_id] * 2:
        return prompt.removeprefix(start)
    return prompt
