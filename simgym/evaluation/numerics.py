"""Which numbers a model is fastest with on this machine, and how far its probabilities are then from float32's.

Every kind does the same work: a batch of eight prompts of about 200 tokens is read and continued by up to 32 tokens
each. Kinds take turns within each repeat, so that a busy moment of the machine hits all; speeds are tokens a second.
The difference is the mean Kullback-Leibler divergence of next-token distributions over one fixed text.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simgym.conversation import Message
from simgym.engine.numerics import MIXED
from simgym.errors import ConfigurationError
from simgym.judges.rubrics import load_rubric
from simgym.language_models.base import Request, SamplingParams
from simgym.language_models.model_spec import ModelSpec
from simgym.language_models.transformers_lm import TransformersLM
from simgym.language_models.weights import DEFAULT_MODEL

_ROWS, _NEW, _CHARACTERS = 8, 32, 900


@dataclass(frozen=True, slots=True)
class Numerics:
    """One kind of numbers beside float32."""

    dtype: str
    """As `TransformersLM` takes it."""
    tokens_per_second: float
    """Read and written, median over the repeats."""
    speed: float
    """That of float32 as 1; above 1 is faster."""
    kl: float
    """Mean divergence of its next-token distributions from float32's, nats, >= 0 up to rounding."""


def compare_numerics(
    model: str | Mapping[str, Any] | None = None, *, repeats: int = 3, kinds: tuple[str, ...] | None = None
) -> list[Numerics]:
    """Measure every kind that makes sense on this machine, float32 first.

    Args:
        model: A model in process: a name, or settings whose `dtype` is replaced; None: the default one.
        repeats: How often each does the work, >= 1.
        kinds: Which; None: all of torch's on a GPU, also those of `simgym.engine.numerics` on a CPU.

    Raises:
        ConfigurationError: the model is not one in process.
    """
    spec = ModelSpec.parse(model or DEFAULT_MODEL)
    settings = dict(spec.arguments)
    if spec.kind != "transformers":
        raise ConfigurationError(f"Numbers can be chosen for a model in process alone, not for {model!r}.")
    settings.pop("dtype", None)
    first = TransformersLM(**{**settings, "dtype": "float32", "kv_cache_gib": 0})
    if kinds is None:
        kinds = ("float16", "bfloat16") if first.model.device.type != "cpu" else ("bfloat16", *MIXED)
    models = {"float32": first}
    models |= {kind: TransformersLM(**{**settings, "dtype": kind, "kv_cache_gib": 0}) for kind in kinds}
    text = load_rubric("helpfulness", ("conversation",), ("intent",)).text
    expected = _log_probabilities(first, text)
    speeds: dict[str, list[float]] = {kind: [] for kind in models}
    for language_model in models.values():
        _work(language_model, text)
    for _ in range(repeats):
        for kind, language_model in models.items():
            began, before = time.perf_counter(), _tokens(language_model)
            _work(language_model, text)
            # a reply may end sooner with other numbers, so tokens are counted
            speeds[kind].append((_tokens(language_model) - before) / (time.perf_counter() - began))
    rows = []
    for kind, language_model in models.items():
        speed = statistics.median(speeds[kind])
        divergence = (expected.exp() * (expected - _log_probabilities(language_model, text))).sum(-1).mean()
        rows.append(Numerics(kind, speed, speed / statistics.median(speeds["float32"]), float(divergence)))
    return rows


def _tokens(model: TransformersLM) -> int:
    return model.stats.prefill_tokens + model.stats.decode_tokens


def _work(model: TransformersLM, text: str) -> None:
    # they begin differently, so that little is shared
    model.generate(
        [
            Request(
                (Message("user", f"{number} {text[number : number + _CHARACTERS]}"),),
                SamplingParams(0.0, max_new_tokens=_NEW),
            )
            for number in range(_ROWS)
        ]
    )


def _log_probabilities(model: TransformersLM, text: str) -> Any:
    import torch

    ids = model.tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        return model.model(ids.to(model.model.device)).logits[0].float().log_softmax(-1)
