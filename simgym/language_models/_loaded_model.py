"""A `TransformersLM` once its weights are in memory: an engine, and the tokenizer's side of it (`_chat_tokens`).

Requests become sequences of the engine, and completions become generations. `TransformersLM` describes the model and is
what callers see.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from simgym.engine import (
    AdapterMismatch,
    Completion,
    Engine,
    EngineConfig,
    Sequence,
    SequenceTooLarge,
    UnsupportedModel,
    check_supported,
)
from simgym.engine.numerics import MIXED, convert, converted
from simgym.errors import ConfigurationError, WeightsError
from simgym.language_models._chat_tokens import ChatTokens, Drawn, overflow
from simgym.language_models.adapters import read_adapter
from simgym.language_models.base import Generation, Request
from simgym.language_models.pretrained import device_of, dtype_of, load_pretrained, unreadable
from simgym.language_models.weights import Weights, resolve_weights
from simgym.seeding import derive_seed
from simgym.tokenization import encode_with_offsets

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from simgym.language_models.transformers_lm import TransformersLM


class LoadedModel:
    """Engine and tokenizers."""

    def __init__(self, options: TransformersLM) -> None:
        weights = resolve_weights(options.name, revision=options.revision)
        tokenizer, model = _load(options, weights)
        config = model.config.get_text_config()
        longest: int = getattr(config, "max_position_embeddings", 2048)
        self.context_length = options.context_length or longest
        ends = model.generation_config.eos_token_id
        self.chat = ChatTokens(
            tokenizer,
            end_tokens=ends if isinstance(ends, list) else [ends],
            chat_template=options.chat_template,
            variables=options.chat_template_kwargs,
            date=options.date,
        )
        max_kv_gib = options.max_kv_gib
        self.engine = Engine(
            model,
            tokenizer,
            EngineConfig(
                max_sequences=options.max_batch_size,
                max_length=self.context_length,
                max_kv_bytes=None if max_kv_gib is None else max(1, round(max_kv_gib * 2**30)),
                max_prefix_bytes=None if options.kv_cache_gib is None else round(options.kv_cache_gib * 2**30),
                pad_token_id=self.chat.start_token,
                cuda_graphs=options.cuda_graphs,
            ),
            lock=options.lock,
        )
        for name, path in options.adapters.items():
            self.add_adapter(name, path)

    def encode_with_offsets(self, text: str) -> tuple[list[int], npt.NDArray[np.int64]]:
        """Token ids that fit the context, the beginning cut off, and the characters each stands for, shape (L, 2)."""
        token_ids, offsets = encode_with_offsets(self.chat.tokenizer, text)
        kept = slice(-self.context_length, None)
        return token_ids[kept], np.array(offsets[kept], dtype=np.int64)

    def sequence(self, request: Request, token_ids: list[int]) -> Sequence:
        """What the engine runs for a request whose prompt has these token ids."""
        sampling = request.sampling
        return Sequence(
            prompt=token_ids,
            seed=derive_seed(request.seed),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_new_tokens=sampling.max_new_tokens,
            stop_token_ids=self.chat.stop_token_ids(request.next_role, request.adapter),
            stop_texts=self.chat.stop_texts(request),
            adapter=request.adapter,
            json_schema=None if request.json_schema is None else json.dumps(request.json_schema),
        )

    def generation(self, request: Request, prompt: str, sequence: Sequence, completion: Completion) -> Generation:
        """The completion as text.

        Raises:
            BaseException: what went wrong with the sequence, unless it is too large, which is a fault.
        """
        if isinstance(completion.error, SequenceTooLarge):
            return overflow(prompt, sequence.prompt, str(completion.error))
        if completion.error is not None:
            raise completion.error
        drawn = Drawn(completion.token_ids, completion.logprobs, completion.finish_reason or "length")
        return self.chat.generation(request, prompt, sequence.prompt, drawn)

    def add_adapter(self, name: str, path: str) -> None:
        """Put an adapter on the model; if it does not fit, the model stays as it was for everybody else."""
        adapter = read_adapter(path)
        tokenizer = self.chat.tokenizer_with(adapter.tokens) if adapter.tokens else None
        try:
            self.engine.runner.lora_bank.add(name, adapter.lora)
        except AdapterMismatch as error:
            raise WeightsError(
                f"The adapter {path} does not fit the model: {error}. Is it for another base?"
            ) from error
        if tokenizer is not None:
            self.chat.keep_tokenizer(name, tokenizer)


def _load(options: TransformersLM, weights: Weights) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Tokenizer and model, ready to run."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    device = device_of(options.device)
    dtype = dtype_of(options.dtype, device)
    common: dict[str, object] = {"revision": weights.revision, "trust_remote_code": options.trust_remote_code}
    bars_were_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # a bar for half a second of loading hides what the user wants to see
    try:
        _check_config(options, weights, common)
        tokenizer, model = load_pretrained(
            AutoModelForCausalLM, options.name, weights, common, dtype=dtype, **options.model_options
        )
        check_supported(model.config, type(model), max_length=options.context_length)
    except UnsupportedModel as error:
        raise ConfigurationError(
            f"{options.name} cannot run in process. {error} Or run it on a server (vLLM, SGLang) and name it "
            "openai:NAME."
        ) from error
    finally:
        if bars_were_on:
            logging.enable_progress_bar()
    if not getattr(model, "hf_device_map", None) and not getattr(model, "is_quantized", False):
        model.to(device)
    model.eval().requires_grad_(False)
    if options.dtype in MIXED:
        _round(model, options)
    return tokenizer, model


def _check_config(options: TransformersLM, weights: Weights, common: Mapping[str, object]) -> None:
    """Refuse a model that cannot run here by its configuration, before its weights are read."""
    from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

    folder = Path(weights.path)
    if folder.is_dir() and not (folder / "config.json").is_file():
        return  # an adapter's folder, whose base transformers finds
    try:
        settings, _ = PretrainedConfig.get_config_dict(weights.path, revision=weights.revision)
        if "auto_map" in settings:
            return  # code of its own
        config = AutoConfig.from_pretrained(weights.path, **common)
    except Exception as error:  # a configuration is whatever its author wrote
        raise unreadable(options.name, weights, error) from error
    classes = AutoModelForCausalLM._model_mapping
    if type(config) not in classes:
        raise ConfigurationError(
            f"{options.name} is a model of type {config.model_type}, which transformers does not load as a causal "
            "language model. Run it on a server (vLLM, SGLang) and name it openai:NAME."
        )
    check_supported(config, classes[type(config)], max_length=options.context_length)


def _round(model: PreTrainedModel, options: TransformersLM) -> None:
    """Make the linear layers compute with rounded numbers."""
    if options.dtype == "int8" and model.device.type != "cpu":
        raise ConfigurationError(f"dtype int8 is for CPUs. On {model.device.type} use bfloat16.")
    convert(model, options.dtype)
    if converted(model) < model.config.get_text_config().num_hidden_layers:
        raise ConfigurationError(f"{options.name} has too few linear layers for dtype {options.dtype}. Use float32.")
