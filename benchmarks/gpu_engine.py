"""The measurements of `gpu.py` that concern the engine: same tokens, seeds, speed, memory, the next turn, judging."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from simgym.conversation import Message
from simgym.engine import Engine, EngineConfig, Sequence
from simgym.language_models import Generation, Request, SamplingParams, TransformersLM

SHAPES = {
    "qwen2.5-1.5b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
    "qwen2.5-7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
"""Of random models."""
GIB = 2**30
WORDS = ("quick", "brown", "fox", "jumps", "over", "lazy", "dog", "while", "rain", "falls", "on", "seven", "hills")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is measured, and on what."""

    weights: str
    """Folder of the small model."""
    device: str
    """As torch calls it."""
    dtype: str
    """Of the weights where speed is measured."""
    small: bool
    """Tiny sizes, to try the measurements on a CPU."""
    sizes: tuple[int, ...]
    """Numbers of sequences in a batch."""
    shape: str
    """Which of `SHAPES` the random model has."""
    deadline: float
    """When to stop, by `time.monotonic`."""
    root: Path
    """Of the repository."""

    def pick(self, full: int, small: int) -> int:
        """A number by the size of the run."""
        return small if self.small else full

    @property
    def is_over(self) -> bool:
        """Whether the budget is used up."""
        return time.monotonic() > self.deadline


def describe_device(setup: Setup) -> dict[str, Any]:
    """The card, its memory and its bandwidth."""
    cuda = setup.device == "cuda"
    return {
        "name": torch.cuda.get_device_name() if cuda else "cpu",
        "memory_gib": round(torch.cuda.mem_get_info()[1] / GIB, 1) if cuda else None,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "copy_tb_per_s": round(copy_bandwidth(setup) / 1e12, 3),
    }


def compare_with_cpu(setup: Setup) -> dict[str, Any]:
    """Greedy replies on the device beside those of the CPU in float32."""
    sampling = SamplingParams(temperature=0.0, max_new_tokens=setup.pick(48, 6))
    requests = make_requests(setup.pick(16, 3), sampling, words=12)
    expected = language_model(setup, "float32", device="cpu").generate(requests)
    results = {}
    for dtype in ("float32", "bfloat16"):
        actual = language_model(setup, dtype).generate(requests)
        difference = max(abs(a.logprobs[0] - b.logprobs[0]) for a, b in zip(expected, actual, strict=True))
        results[dtype] = {**agreement(expected, actual), "largest_difference_of_first_logprob": round(difference, 5)}
    return results


def compare_ways(setup: Setup) -> dict[str, Any]:
    """The same requests alone, together, among others, from threads, and from the prefix cache."""
    sampling = SamplingParams(temperature=0.7, top_p=0.9, max_new_tokens=setup.pick(40, 6))
    requests = make_requests(8, sampling, words=40)
    others = make_requests(setup.pick(56, 8), sampling, words=90, first=100)
    results = {}
    for dtype in ("float32", "bfloat16"):
        model = language_model(setup, dtype)
        alone = [model.generate([request])[0] for request in requests]
        ways = {"from the prefix cache": model.generate(requests)}
        model.clear_cache()
        ways["together"] = model.generate(requests)
        model.clear_cache()
        ways["among others"] = model.generate([*others, *requests])[len(others) :]
        model.clear_cache()
        with ThreadPoolExecutor(len(requests)) as pool:
            ways["from threads"] = list(pool.map(lambda request, lm=model: lm.generate([request])[0], requests))
        results[dtype] = {name: agreement(alone, generations) for name, generations in ways.items()}
    return results


def measure_default_model(setup: Setup) -> dict[str, Any]:
    """Speed with the small model's weights."""
    return measure_speed(setup, setup.weights)


def measure_random_model(setup: Setup) -> dict[str, Any]:
    """Speed with random weights of a larger shape and vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        return measure_speed(setup, save_random_model(setup, Path(folder)))


def profile_decoding(setup: Setup) -> dict[str, Any]:
    """What the decoding steps of a batch of the small model consist of, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    size, steps = setup.sizes[-2:][0], setup.pick(16, 6)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] * (setup.device == "cuda"))]
    results = {}
    for way, graphs in (("recorded", True), ("unrecorded", False)):
        engine = make_engine(setup, setup.weights, cuda_graphs=graphs)
        for kind, settings in KINDS.items():
            engine.generate(make_sequences(setup, engine, size, max_new_tokens=steps, **settings))
            with profile(activities=activities) as trace:
                engine.generate(make_sequences(setup, engine, size, max_new_tokens=steps, **settings))
            results[f"{kind}, {way}"] = {"sequences": size, "steps": steps, **summary(trace, steps)}
    return results


def measure_next_turn(setup: Setup) -> dict[str, Any]:
    """A conversation's second turn, by how much of the first is kept."""
    results = {}
    for kept_gib in (8.0, 2.0, 0.0):
        engine = make_engine(setup, setup.weights, max_prefix_bytes=int(kept_gib * GIB))
        first = make_sequences(setup, engine, setup.sizes[-1], max_new_tokens=setup.pick(32, 4))
        completions = engine.generate(first)
        second = [
            Sequence(prompt=[*before.prompt, *completion.token_ids, 1, 2, 3], max_new_tokens=setup.pick(32, 4))
            for before, completion in zip(first, completions, strict=True)
        ]
        cached = engine.stats.cached_tokens
        with watched(engine) as stages:
            seconds, _ = timed(lambda engine=engine, second=second: engine.generate(second))
        results[f"{kept_gib:g} GiB"] = {
            "seconds": round(seconds, 3),
            "cached_tokens": engine.stats.cached_tokens - cached,
            **{f"s_{name}": round(stage.seconds, 3) for name, stage in stages.items()},
        }
    return results


def measure_judging(setup: Setup) -> dict[str, Any]:
    """Hidden states and likelihoods of texts of about a thousand tokens; the first time, and once warm."""
    count = setup.pick(64, 3)
    model = language_model(setup, setup.dtype)
    sampling = SamplingParams(max_new_tokens=1)
    texts = [model.prompt_text(request) for request in make_requests(count, sampling, words=setup.pick(1000, 20))]
    depth = model.model.config.num_hidden_layers
    layers = [max(1, round(depth * share)) for share in (2 / 3, 0.4)]
    results: dict[str, Any] = {"texts": count, "tokens": sum(len(model.tokenizer(text)["input_ids"]) for text in texts)}
    for time_of in ("first", "warm"):
        results[f"s_hidden_states_{time_of}"] = round(timed(lambda: model.hidden_states(texts, layers=layers))[0], 3)
        results[f"s_likelihoods_{time_of}"] = round(
            timed(lambda: model.loglikelihood(texts, [" and so on."] * count))[0], 3
        )
    return results


KINDS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0},
    "drawn": {"temperature": 1.0, "top_p": 0.9},
}
"""How tokens are picked."""


def measure_speed(setup: Setup, folder: str) -> dict[str, Any]:
    """Tokens a second of the engine and of `generate` by batch size, beside what memory bandwidth allows."""
    engine, bandwidth = make_engine(setup, folder), copy_bandwidth(setup)
    model = engine.runner.lora_bank.model
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    engine.generate(make_sequences(setup, engine, 2, max_new_tokens=4, prompt_tokens=8))  # warm up
    rows, left_out = [], []
    for size in setup.sizes:
        if setup.is_over:
            left_out.append(size)
            continue
        row: dict[str, Any] = {"sequences": size}
        for kind, settings in KINDS.items():
            row[kind] = measure_batch(setup, engine, size, settings)
        prompts = [sequence.prompt for sequence in make_sequences(setup, engine, size)]
        new_tokens = setup.pick(96, 6)
        kept = size * (len(prompts[0]) + new_tokens / 2) * engine.kv_cache.token_bytes
        row["bandwidth_limit_decode_tokens_per_s"] = round(size * bandwidth / (weights + kept))
        engine.clear()
        row["generate_tokens_per_s"] = round(plain_generate(model, prompts, new_tokens), 1)
        rows.append(row)
        print(row, flush=True)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "weights_gib": round(weights / GIB, 2),
        "kv_bytes_per_token": engine.kv_cache.token_bytes,
        "prompt_tokens": setup.pick(512, 24),
        "rows": rows,
        "left_out": left_out,
    }


def measure_batch(setup: Setup, engine: Engine, size: int, settings: dict[str, float]) -> dict[str, Any]:
    """One kind of batch: all of it without looking closer, then its stages, waiting for the device after each."""
    engine.clear()
    engine.generate(make_sequences(setup, engine, size, max_new_tokens=8, first=20_000, **settings))  # warm up, record
    sequences = make_sequences(setup, engine, size, max_new_tokens=setup.pick(96, 6), **settings)
    seconds, completions = timed(lambda: engine.generate(sequences))
    tokens = sum(len(completion.token_ids) for completion in completions)
    slots = engine.kv_cache.num_slots * engine.kv_cache.num_columns * engine.kv_cache.token_bytes
    row = {"tokens_per_s": round(tokens / seconds, 1), "seconds": round(seconds, 3), "kv_gib": round(slots / GIB, 2)}
    row["prefix_gib"] = round(engine.prefix_cache.size / GIB, 2)
    short = setup.pick(24, 5)
    with watched(engine) as stages:
        engine.generate(make_sequences(setup, engine, size, max_new_tokens=short, first=10_000, **settings))
    row |= {f"ms_per_{name}": round(stages[name].last_mean * 1e3, 2) for name in ("decode", "sample")}
    row |= {f"s_{name}": round(stages[name].seconds, 3) for name in ("prefill", "retire")}
    recorded, engine.runner.recorded = engine.runner.recorded, None
    row["recordings"], row["refusal"] = (len(recorded.recordings), recorded.refusal) if recorded else (0, None)
    with watched(engine) as stages:
        engine.generate(make_sequences(setup, engine, size, max_new_tokens=short // 2, first=10_000, **settings))
    engine.runner.recorded = recorded
    row["ms_per_decode_unrecorded"] = round(stages["decode"].mean * 1e3, 2)
    fused, engine.runner.fused = engine.runner.fused, None
    engine.runner.clear()
    with watched(engine) as stages:  # the last passes are of recordings
        engine.generate(make_sequences(setup, engine, size, max_new_tokens=short, first=10_000, **settings))
    engine.runner.fused = fused
    engine.runner.clear()
    row["ms_per_decode_unfused"] = round(stages["decode"].last_mean * 1e3, 2)
    return row


def plain_generate(model: Any, prompts: list[list[int]], new_tokens: int) -> float:
    """Tokens a second of transformers' own batched, greedy `generate` on prompts of the same length."""
    inputs = torch.tensor(prompts, device=model.device)
    with torch.inference_mode():
        seconds, _ = timed(
            lambda: model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                do_sample=False,
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                pad_token_id=0,
            )
        )
    return len(prompts) * new_tokens / seconds


@dataclass(slots=True)
class Stage:
    """Time that a part of the engine takes."""

    seconds: float = 0.0
    """Of all calls."""
    calls: int = 0
    """How often."""
    last: list[float] = field(default_factory=list)
    """Seconds of each call."""

    @property
    def mean(self) -> float:
        """Seconds of a call."""
        return self.seconds / self.calls if self.calls else 0.0

    @property
    def last_mean(self) -> float:
        """Mean of the later half, when everything has been prepared."""
        later = self.last[len(self.last) // 2 :]
        return sum(later) / len(later) if later else 0.0


@dataclass(slots=True)
class Clock:
    """Measures calls of a method, the device's work included."""

    method: Callable[..., Any]
    """What is measured."""
    stage: Stage = field(default_factory=Stage)
    """Where it is added up."""

    def __call__(self, *args: Any) -> Any:
        """Call the method."""
        seconds, value = timed(lambda: self.method(*args))
        self.stage.seconds += seconds
        self.stage.calls += 1
        self.stage.last.append(seconds)
        return value


@contextlib.contextmanager
def watched(engine: Engine) -> Iterator[dict[str, Stage]]:
    """Seconds of the engine's stages within the block; the device is waited for around each."""
    methods = {
        "prefill": (engine, "_prefill"),
        "decode": (engine, "_decode"),
        "sample": (engine.sampler, "sample"),
        "retire": (engine, "_retire"),
        "copy_in": (engine.kv_cache, "write"),
    }
    clocks = {stage: Clock(getattr(owner, name)) for stage, (owner, name) in methods.items()}
    for stage, (owner, name) in methods.items():
        setattr(owner, name, clocks[stage])
    try:
        yield {stage: clock.stage for stage, clock in clocks.items()}
    finally:
        for owner, name in methods.values():
            delattr(owner, name)


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of an action with the device's work, and its value."""
    synchronize()
    begun = time.perf_counter()
    value = action()
    synchronize()
    return time.perf_counter() - begun, value


def synchronize() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def copy_bandwidth(setup: Setup) -> float:
    """Bytes a second, read and written, of a copy on the device."""
    source = torch.empty((2**24 if setup.small else 2**31) // 4, device=setup.device)
    target = torch.empty_like(source).copy_(source)
    seconds, _ = timed(lambda: [target.copy_(source) for _ in range(5)])
    return 10 * source.numel() * 4 / seconds


def summary(trace: Any, steps: int) -> dict[str, Any]:
    """Kernels, launches and the costliest operations of a profile, a decoding step."""
    events = trace.key_averages()
    on_device = [event for event in events if str(event.device_type).endswith("CUDA")]
    by_cpu = sorted(events, key=lambda event: -event.self_cpu_time_total)[:12]
    by_device = sorted(on_device, key=lambda event: -event.self_device_time_total)[:12]
    launches = sum(event.count for event in events if "LaunchKernel" in event.key)
    return {
        "launches_per_step": round(launches / steps, 1),
        "copies_per_step": round(sum(event.count for event in events if "MemcpyAsync" in event.key) / steps, 1),
        "waits_per_step": round(sum(event.count for event in events if "Synchronize" in event.key) / steps, 1),
        "device_ms_per_step": round(sum(event.self_device_time_total for event in on_device) / steps / 1e3, 3),
        "cpu_ms_per_step": {
            event.key[:60]: [round(event.self_cpu_time_total / steps / 1e3, 3), event.count] for event in by_cpu
        },
        "kernel_ms_per_step": {
            event.key[:80]: [round(event.self_device_time_total / steps / 1e3, 3), event.count] for event in by_device
        },
    }


def make_engine(setup: Setup, folder: str, **settings: Any) -> Engine:
    """An engine on the device with room for the largest batch."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = getattr(torch, setup.dtype)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True)
    model.to(setup.device).eval().requires_grad_(False)
    bounds = {"max_prefix_bytes": 8 * GIB, "max_sequences": max(setup.sizes), **settings}
    return Engine(model, AutoTokenizer.from_pretrained(folder), EngineConfig(**bounds))


def make_sequences(
    setup: Setup, engine: Engine, count: int, *, prompt_tokens: int | None = None, first: int = 0, **settings: Any
) -> list[Sequence]:
    """Prompts of random tokens, all of one length, that share nothing; nothing ends them early."""
    length = prompt_tokens or setup.pick(512, 24)
    vocabulary = engine.runner.lora_bank.vocabulary_size
    return [
        Sequence(
            prompt=np.random.default_rng(number).integers(10, vocabulary, length).tolist(), seed=number, **settings
        )
        for number in range(first, first + count)
    ]


def make_requests(count: int, sampling: SamplingParams, *, words: int, first: int = 0) -> list[Request]:
    """Messages that share nothing beyond the chat template."""
    requests = []
    for number in range(first, first + count):
        picked = [WORDS[(number * 7 + position * (number % 5 + 1)) % len(WORDS)] for position in range(words)]
        message = Message("user", f"{number}. {' '.join(picked)}")
        requests.append(Request((message,), sampling, seed=number))
    return requests


def language_model(setup: Setup, dtype: str, *, device: str | None = None) -> TransformersLM:
    """The small model with text round it."""
    return TransformersLM(setup.weights, dtype=dtype, device=device or setup.device, max_batch_size=64)


def agreement(left: list[Generation], right: list[Generation]) -> dict[str, float]:
    """Share of replies with the same tokens, and mean share of tokens before two replies part."""
    shares = []
    for first, second in zip(left, right, strict=True):
        pairs = zip(first.token_ids, second.token_ids, strict=False)
        same = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
        shares.append(same / max(1, len(first.token_ids)))
    alike = sum(first.token_ids == second.token_ids for first, second in zip(left, right, strict=True))
    return {"alike": round(alike / len(left), 3), "before_parting": round(sum(shares) / len(shares), 3)}


def save_random_model(setup: Setup, folder: Path) -> str:
    """Random weights of a real shape and vocabulary, with the small model's tokenizer."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    vocabulary = setup.pick(151_936, 1_000)
    torch.manual_seed(0)
    with torch.device(setup.device):
        model = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=vocabulary, max_position_embeddings=32_768, tie_word_embeddings=True, **SHAPES[setup.shape]
            )
        )
    model.to(getattr(torch, setup.dtype)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(setup.weights).save_pretrained(folder)
    return str(folder)
