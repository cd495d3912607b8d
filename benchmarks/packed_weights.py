"""One pass of the default model on a CPU: by transformers' layers, and from packed weights (`engine.cpu_decoder`).

    python benchmarks/packed_weights.py

A pass over N sequences that know 350 tokens each, of which each gets one more (decoding) or thirty (the next turn's
prompt), by two engines of one model that take turns; the ratio is that of two passes that follow each other, given as
median and range. `--cpu_time` counts the processor time of one thread instead of seconds, which other processes on the
machine disturb less. Predictions before it was written, for 16 sequences in float32: packed weights 20 % of a step's
time, fewer operations (one product for queries, keys and values, norms and rotary positions in few, no repeated keys,
one mask) 10 %, drawing greedily 3 %; for prompts the same operations on more tokens, so less.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from simgym.engine import EngineConfig, KVCache, ModelRunner
from simgym.engine.numerics import convert
from simgym.language_models import DEFAULT_MODEL, resolve_weights
from simgym.machine import describe_machine
from simgym.transcripts import write_json

RESULTS = Path(__file__).with_name("results") / "packed_weights.json"
KNOWN = 350
PASSES = ((1, 1), (4, 1), (16, 1), (32, 1), (16, 30))
"""Sequences, and new tokens of each."""
KINDS = ("float32", "int8", "bfloat16-mixed")


def main() -> None:
    """Measure, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--cpu_time", action="store_true", help="of one thread, instead of seconds with all")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.cpu_time:
        torch.set_num_threads(1)
    clock = time.thread_time if given.cpu_time else time.perf_counter
    rows = []
    for kind in given.kinds:
        model = AutoModelForCausalLM.from_pretrained(resolve_weights(DEFAULT_MODEL).path, dtype=torch.float32)
        convert(model.eval().requires_grad_(False), kind)
        runners = [_runner(model, max_bytes) for max_bytes in (0, 2**40)]
        for sequences, tokens in PASSES:
            rows.append({"kind": kind, **measure(model, runners, sequences, tokens, given.repeats, clock)})
            print(rows[-1], flush=True)
    machine = {**describe_machine(), "clock": "thread's processor time" if given.cpu_time else "seconds"}
    write_json(given.output, {"known_tokens": KNOWN, "passes": rows, "environment": machine})


def _runner(model: Any, max_packed_bytes: int) -> ModelRunner:
    config = EngineConfig(max_packed_bytes=max_packed_bytes).resolved(gpu_paths=False)
    return ModelRunner(model, config, threading.RLock())


def measure(
    model: Any, runners: list[ModelRunner], sequences: int, tokens: int, repeats: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """Milliseconds of both kinds of passes, and how many times as long the first takes."""
    cache = KVCache(model.device, max_bytes=2**40, token_bytes=1)
    cache.reserve(sequences, KNOWN + tokens)
    inputs = torch.randint(1000, 40000, (sequences, tokens), generator=torch.Generator().manual_seed(0))
    taken: list[list[float]] = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            pair = []
            for runner in runners:
                cache.lengths = [KNOWN] * sequences
                began = clock()
                runner.forward(inputs, cache, 0, [tokens] * sequences, [None] * sequences)
                pair.append(1000 * (clock() - began))
            taken.append(pair)
    ratios = [layers / packed for layers, packed in taken[1:]]  # the first packs and compares
    return {
        "sequences": sequences,
        "new_tokens": tokens,
        "ms_transformers_layers": round(statistics.median(pair[0] for pair in taken[1:]), 1),
        "ms_packed": round(statistics.median(pair[1] for pair in taken[1:]), 1),
        "ratio": {
            "median": round(statistics.median(ratios), 2),
            "lowest": round(min(ratios), 2),
            "highest": round(max(ratios), 2),
        },
    }


if __name__ == "__main__":
    main()
