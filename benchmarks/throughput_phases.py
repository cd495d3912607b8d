"""Tokens a second of reading and of writing, for `throughput.py`: the same token ids and numbers of tokens everywhere.

Sixteen prompts of 256 random token ids, which share nothing, are asked for one token (reading) and then others for 65
(reading and 64 steps of writing); a model's end token does not end them. Writing is what the second takes longer than
the first. The machine's limits are measured in between with torch: products of the shapes of the model's layers in
float32, at the numbers of tokens that a step has, and how fast memory is read. What a phase reaches of them says how
much is left to win on this machine.

Reads a job as JSON from standard input, writes its result as JSON to standard output.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

PROMPTS, LENGTH, WRITTEN = 16, 256, 64
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
    return timed(_over_http(address, model) if address else _in_process(system), length, written)


def timed(ask: Callable[[list[list[int]], int], None], length: int, written: int) -> dict[str, Any]:
    """The same for whatever answers prompts of token ids with a number of tokens each."""
    ask(_prompts(0, 16), 4)
    seconds = []
    for number, tokens in enumerate((1, written + 1), 1):
        prompts = _prompts(number, length)
        started = time.perf_counter()
        ask(prompts, tokens)
        seconds.append(time.perf_counter() - started)
    reading, reading_and_writing = seconds
    return {
        "seconds": seconds,
        "read_a_second": PROMPTS * length / reading,
        "written_a_second": PROMPTS * written / max(reading_and_writing - reading, 1e-9),
    }


def _prompts(seed: int, length: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    drawn: list[list[int]] = rng.integers(1000, 40000, (PROMPTS, length)).tolist()
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

    layers = 2 if small else LAYERS
    weights = [[torch.rand(outputs, inputs) for inputs, outputs in SHAPES] for _ in range(layers)]
    last = torch.rand(VOCABULARY // (8 if small else 1), 576)
    flat = torch.rand(10_000_000 if small else 100_000_000)
    result = {"memory_gb_a_second": 4e-9 * len(flat) / _fastest(flat.sum)}
    square = torch.rand(256 if small else 2048, 256 if small else 2048)
    result["gemm_gflop_a_second"] = 2e-9 * len(square) ** 3 / _fastest(lambda: square @ square)
    with torch.inference_mode():
        plain = [weight for layer in weights for weight in layer] + [last]
        packed = [torch.ops.mkldnn._reorder_linear_weight(weight, 16) for weight in plain]
        for tokens in (1, 16, 32, 256):
            seconds = _fastest_products(plain, packed, {width: torch.rand(tokens, width) for width in (576, 1536)})
            result[f"tokens_a_second_at_{tokens}"] = tokens / seconds
    return result


def _fastest_products(plain: list[Any], packed: list[Any], inputs: dict[int, Any]) -> float:
    """Seconds of all products of a step, by the faster of torch's two libraries."""
    import torch

    pointwise = torch.ops.mkldnn._linear_pointwise

    def as_they_are() -> None:
        for weight in plain:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)

    def arranged() -> None:
        for weight, shape in zip(packed, plain, strict=True):
            pointwise(inputs[shape.shape[1]], weight, None, "none", [], "")

    return min(_fastest(as_they_are), _fastest(arranged))


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
