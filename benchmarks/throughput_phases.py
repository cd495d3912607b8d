"""Tokens a second of reading and of writing, for `throughput.py`: the same token ids and numbers of tokens everywhere.

Sixteen prompts of 256 random token ids (in process thirty-two as well), which share nothing, are asked for one token
(reading) and then others for 65 (reading and 64 steps of writing); a model's end token does not end them. Writing is
what the second takes longer than the first. Right after each of three rounds the machine's limit is measured with
torch: products of the shapes of the model's layers in float32, at the numbers of tokens that a step has. A phase is
compared with the limit of its own round, for the machine's speed changes from minute to minute; the medians of the
rounds are given. How fast memory is read, and a square product, are measured apart.

Reads a job as JSON from standard input, writes its result as JSON to standard output.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

LENGTH, WRITTEN, ROUNDS = 256, 64, 3
SHAPES = ((576, 960), (576, 576), (576, 3072), (1536, 576))
"""Inputs and outputs of the products of one layer of the default model."""
LAYERS, VOCABULARY = 30, 49152


def main() -> None:
    """One job."""
    job = json.load(sys.stdin)
    print(json.dumps({"phases": phases, "limits": limits}[job.pop("kind")](**job)))


def phases(
    system: str, address: str = "", model: str = "", length: int = LENGTH, written: int = WRITTEN
) -> dict[str, Any]:
    """Seconds of reading, and of reading and writing."""
    ask = _over_http(address, model) if address else _in_process(system)
    return timed(ask, length, written, (16,) if address else (16, 32))


def timed(
    ask: Callable[[list[list[int]], int], None], length: int, written: int, counts: tuple[int, ...] = (16,)
) -> dict[str, Any]:
    """The same for whatever answers prompts of token ids with a number of tokens each."""
    products = Products()
    ask(_prompts(0, counts[-1], 16), 4)
    rounds = []
    for number in range(ROUNDS):
        rates = {}
        for count in counts:
            reading = _seconds(ask, _prompts(2 * number + 1, count, length), 1)
            duration = _seconds(ask, _prompts(2 * number + 2, count, length), written + 1)
            rates[f"read_a_second_{count}"] = count * length / reading
            rates[f"written_a_second_{count}"] = count * written / max(duration - reading, 1e-9)
            rates[f"reading_over_products_{count}"] = count * length / reading / products.a_second(256)
            rates[f"writing_over_products_{count}"] = rates[f"written_a_second_{count}"] / products.a_second(count)
        rounds.append(rates)
    return {name: statistics.median(rates[name] for rates in rounds) for name in rounds[0]} | {"rounds": rounds}


def _seconds(ask: Callable[[list[list[int]], int], None], prompts: list[list[int]], tokens: int) -> float:
    started = time.perf_counter()
    ask(prompts, tokens)
    return time.perf_counter() - started


def _prompts(seed: int, count: int, length: int) -> list[list[int]]:
    drawn: list[list[int]] = np.random.default_rng([seed, count]).integers(1000, 40000, (count, length)).tolist()
    return drawn


def _in_process(system: str) -> Callable[[list[list[int]], int], None]:
    from throughput_systems import numerics

    from simgym.engine import Sequence
    from simgym.language_models import DEFAULT_MODEL, TransformersLM

    own = TransformersLM(DEFAULT_MODEL, dtype=numerics(system))._ready().engine

    def ask(prompts: list[list[int]], tokens: int) -> None:
        own.generate([Sequence(prompt=prompt, temperature=0.0, max_new_tokens=tokens) for prompt in prompts])

    return ask


def _over_http(address: str, model: str) -> Callable[[list[list[int]], int], None]:
    import openai

    async def ask_all(prompts: list[list[int]], tokens: int) -> None:
        async with openai.AsyncOpenAI(base_url=address, api_key="none", timeout=3600) as client:
            extra = {"ignore_eos": True}
            asked = [
                client.completions.create(
                    model=model, prompt=prompt, max_tokens=tokens, temperature=0.0, extra_body=extra
                )
                for prompt in prompts
            ]
            for answer in await asyncio.gather(*asked):
                if answer.usage is not None and answer.usage.completion_tokens != tokens:
                    raise SystemExit(f"Asked for {tokens} tokens, got {answer.usage.completion_tokens}.")

    def ask(prompts: list[list[int]], tokens: int) -> None:
        asyncio.run(ask_all(prompts, tokens))

    return ask


def limits(small: bool = False) -> dict[str, float]:
    """What this machine can do in float32: tokens a second by tokens in a product, and GB of memory read a second."""
    import torch

    flat = torch.rand(10_000_000 if small else 100_000_000)
    square = torch.rand(256 if small else 2048, 256 if small else 2048)
    result = {
        "memory_gb_a_second": 4e-9 * len(flat) / _fastest(flat.sum),
        "gemm_gflop_a_second": 2e-9 * len(square) ** 3 / _fastest(lambda: square @ square),
    }
    products = Products()
    return result | {f"tokens_a_second_at_{tokens}": products.a_second(tokens) for tokens in (1, 16, 32, 256)}


class Products:
    """All matrix products of a step of the default model, by the faster of torch's two libraries."""

    def __init__(self) -> None:
        import torch

        self._plain = [torch.rand(outputs, inputs) for inputs, outputs in SHAPES * LAYERS]
        self._plain.append(torch.rand(VOCABULARY, 576))
        self._packed = [torch.ops.mkldnn._reorder_linear_weight(weight, 16) for weight in self._plain]

    def a_second(self, tokens: int) -> float:
        """Tokens a second, where a step has so many."""
        import torch

        inputs = {width: torch.rand(tokens, width) for width in (576, 1536)}
        pointwise = torch.ops.mkldnn._linear_pointwise

        def as_they_are() -> None:
            for weight in self._plain:
                torch.nn.functional.linear(inputs[weight.shape[1]], weight)

        def arranged() -> None:
            for weight, shape in zip(self._packed, self._plain, strict=True):
                pointwise(inputs[shape.shape[1]], weight, None, "none", [], "")

        with torch.inference_mode():
            return tokens / min(_fastest(as_they_are), _fastest(arranged))


def _fastest(action: Callable[[], Any], repeats: int = 5) -> float:
    times = []
    action()
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    main()
