"""The policy in training behind a vLLM server: token ids in, sampled token ids with their log-probabilities out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from simgym.errors import ConfigurationError, ServerUnavailable
from simgym.language_models._server_connection import ServerConnection
from simgym.language_models._server_exchange import ServerClient
from simgym.language_models._server_problems import Scope
from simgym.language_models._server_requests import ServerRequests, Unanswered
from simgym.language_models.secret import Secret


@dataclass(frozen=True, slots=True)
class PolicyReply:
    """What the policy wrote."""

    ids: list[int]
    """Tokens as sampled, the end token included."""
    logprobs: list[float]
    """One a token, under the policy that sampled it."""
    fault: str | None = None
    """Why there is none: `context_overflow: ...`, `refused: ...`."""


class PolicyServer:
    """Asks `/v1/completions` with the sampling of an `AsyncGRPOConfig`; the key, if any, is in `VLLM_API_KEY`."""

    def __init__(self, args: Any) -> None:
        """Nothing is sent yet."""
        self._args = args
        self._address = str(args.vllm_server_base_url).rstrip("/") + "/v1"
        secret = Secret("VLLM_API_KEY", None)
        self._requests = ServerRequests(
            host=self._address, secret=secret, timeout=args.request_timeout, max_retries=4, extra_body={}
        )
        client = ServerClient(self._address, secret.reveal() or "none")
        self._connection = ServerConnection(client, max(1, args.max_inflight_tasks))

    def write(self, model: str, prompt_ids: list[int], seed: int) -> PolicyReply:
        """One turn.

        Raises:
            ServerUnavailable: the server does not answer.
            ConfigurationError: it does not take such requests, or tells no token ids.
        """
        args = self._args
        body = {
            "model": model,
            "prompt": prompt_ids,
            "max_tokens": args.max_completion_length,
            "temperature": args.temperature,
            "top_p": args.top_p,
            "top_k": args.top_k,
            "min_p": args.min_p,
            "repetition_penalty": args.repetition_penalty,
            "seed": seed % 2**31,
            "n": 1,
            "logprobs": 0,  # of the sampled token alone
            "return_token_ids": True,
        }
        asked = self._requests.ask(self._connection, "/completions", body, all_fields=True)
        try:
            answer = self._connection.run([asked])[0]
        except Unanswered as reason:
            if reason.problem.scope is Scope.SERVER:
                raise ServerUnavailable(reason.problem.text) from None
            if reason.problem.scope is Scope.REQUEST:
                return PolicyReply([], [], reason.problem.text)
            raise ConfigurationError(f"The policy's server refuses its requests: {reason.problem.text}") from None
        choice = answer["choices"][0]
        ids, logprobs = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs")
        if not ids or not logprobs or len(ids) != len(logprobs):
            raise ConfigurationError(
                f"{self._address} gives no token ids with a log-probability each. Serve the policy with vLLM."
            )
        return PolicyReply([int(token) for token in ids], [float(logprob) for logprob in logprobs])

    def interrupt(self) -> None:
        """End the requests in flight."""
        self._connection.interrupt()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()
