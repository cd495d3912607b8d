"""A server that speaks the OpenAI protocol and whose replies take as long as those of a busy model, without a model.

It plays all roles: what asks for JSON with a `score` is a judge's request, what asks for a `current_answer` a simulated
user's, a prompt of token ids is the policy's in training, and the rest the assistant's. The text of a reply depends on
the request alone. Its latency is lognormal and depends on the seed, the conversation (`conversation NUMBER` stands in
the prompt) and how many requests that conversation has sent before, so that every schedule meets the same latencies;
the policy's depends on prompt and seed. A share of the requests ends, after its latency, with 503. It runs in a process
of its own and says at the end what it did, request by request.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import multiprocessing
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_NUMBER = re.compile(r"conversation (\d+)")
_WORDS = ["early", "small", "quiet", "open", "paper", "river", "garden", "window", "bread", "music", "letter", "road"]


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from a request to its reply, lognormal."""

    median: float
    """Seconds, > 0."""
    sigma: float
    """Standard deviation of the logarithm, >= 0."""
    longest: float = math.inf
    """Seconds that none exceeds: replies have a bound of tokens."""

    def draw(self, *of: object) -> float:
        """Seconds, drawn by what is given."""
        return min(self.longest, self.median * math.exp(self.sigma * random.Random(repr(of)).gauss(0, 1)))


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How the server answers."""

    latencies: Mapping[str, Latency]
    """By role: `assistant`, `user`, `judge`, `policy`."""
    failures: float = 0.0
    """Share of requests that are answered with 503, in [0, 1)."""
    seed: int = 0
    """Decides latencies and failures."""
    policy_reply: tuple[int, ...] = ()
    """Token ids that the policy writes, whatever it is asked."""


@dataclass(frozen=True, slots=True)
class Served:
    """One request that was answered."""

    role: str
    """Who was played."""
    conversation: int
    """Its number."""
    began: float
    """Seconds since the server began."""
    seconds: float
    """Latency as drawn."""
    status: int
    """200 or 503."""


@dataclass(slots=True)
class Log:
    """What the server did; filled when it has ended."""

    served: list[Served] = field(default_factory=list)
    """All requests in the order of their ends."""


@contextmanager
def simulated_server(config: ServerConfig) -> Iterator[tuple[str, Log]]:
    """Its base URL, and a log that is filled at the end."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_run, args=(config, there), daemon=True)
    process.start()
    log = Log()
    try:
        yield f"http://127.0.0.1:{here.recv()}/v1", log
        here.send("stop")
        log.served += here.recv()
    finally:
        process.terminate()
        process.join()


def _run(config: ServerConfig, pipe: Any) -> None:
    asyncio.run(_Server(config).serve(pipe))


class _Server:
    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.served: list[Served] = []
        self.asked: Counter[int] = Counter()
        self.began = time.monotonic()

    async def serve(self, pipe: Any) -> None:
        """Answer until something comes through the pipe."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=2048, limit=2**22)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        server.close()
        pipe.send(self.served)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1])) if length else b""
                status, answer = await self._answer(json.loads(body)) if body else (200, {"data": []})  # its models
                content = json.dumps(answer).encode()
                line = (
                    f"HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
                )
                writer.write(line.encode() + content)
                await writer.drain()
        writer.close()

    async def _answer(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        if isinstance(body.get("prompt"), list):
            return await self._write(body)
        text = body["prompt"] if "prompt" in body else "\n".join(message["content"] for message in body["messages"])
        number = _NUMBER.search(text)
        conversation, role = int(number[1]) if number else -1, _role(body, text)
        nth = self.asked[conversation]
        self.asked[conversation] += 1
        began, drawn = time.monotonic() - self.began, (self.config.seed, conversation, nth)
        seconds = self.config.latencies[role].draw(*drawn)
        status = 503 if random.Random(repr(("failure", *drawn))).random() < self.config.failures else 200
        await asyncio.sleep(seconds)
        self.served.append(Served(role, conversation, began, seconds, status))
        if status != 200:
            return status, {"error": {"message": "overloaded"}}
        return status, _completion(_reply(role, conversation, body))

    async def _write(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        """The policy's turn: token ids with a log-probability each."""
        began = time.monotonic() - self.began
        seconds = self.config.latencies["policy"].draw(self.config.seed, body["prompt"], body["seed"])
        await asyncio.sleep(seconds)
        self.served.append(Served("policy", -1, began, seconds, 200))
        ids = list(self.config.policy_reply)
        logprobs = {"token_logprobs": [-1.0] * len(ids)}
        return 200, {"choices": [{"token_ids": ids, "logprobs": logprobs, "text": "", "finish_reason": "stop"}]}


def _role(body: Mapping[str, Any], text: str) -> str:
    if '"score"' in json.dumps(body.get("response_format", {})):
        return "judge"
    return "user" if "current_answer" in text else "assistant"


def _reply(role: str, conversation: int, body: Mapping[str, Any]) -> str:
    draw = random.Random(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest())
    words = " ".join(draw.choices(_WORDS, k=12))
    if role == "judge":
        return json.dumps({"thought": words, "score": draw.randint(0, 10)})
    said = f"In conversation {conversation}: {words}."
    return said if role == "assistant" else json.dumps({"current_answer": "", "thought": "", "response": said})


def _completion(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "choices": [{"index": 0, "message": message, "text": text, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 12},
    }
