"""The weights of a `TransformersLM` once they are in memory: forward passes, and adapters put on the one copy.

`TransformersLM` describes a model and sorts requests into batches; what is here runs one batch. Nothing is locked here:
whoever calls holds the lock of the `TransformersLM`.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from simgym.conversation import END_OF_CONVERSATION
from simgym.errors import ConfigurationError, WeightsError
from simgym.flip import token_id, turn_end, turn_end_token, without_special_tokens
from simgym.language_models.adapters import own_logits, read_adapter
from simgym.language_models.base import Generation, Likelihood, Request
from simgym.language_models.constraints import JsonConstraints
from simgym.language_models.decoding import Decoder, Row
from simgym.language_models.numerics import MIXED, convert, converted, with_float_output
from simgym.language_models.slot_cache import attention_masks
from simgym.language_models.weights import Weights, resolve_weights

if TYPE_CHECKING:
    from simgym.language_models.transformers_lm import TransformersLM

BASE = "__base__"
"""What PEFT calls a row that no adapter is applied to."""


class _Deepest(Exception):
    """Ends a forward pass whose deeper layers nobody asked for."""


class LoadedModel:
    """Model, tokenizer and adapters in memory, and the few things computed from them."""

    def __init__(self, options: TransformersLM) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        weights: Weights = resolve_weights(options.name, revision=options.revision)
        self.device = torch.device(_device(options.device))
        dtype = _dtype(options.dtype, self.device)
        common: dict[str, Any] = {"revision": weights.revision, "trust_remote_code": options.trust_remote_code}
        bars_were_on = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # a bar for half a second of loading hides what the user wants to see
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(weights.path, **common)
            self.model: Any = AutoModelForCausalLM.from_pretrained(
                weights.path, dtype=dtype, use_safetensors=True, **common
            )
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"Cannot load the model {options.name!r}: {str(error).splitlines()[0]} "
                "Check the name and the network, or give a local folder."
            ) from error
        finally:
            if bars_were_on:
                logging.enable_progress_bar()
        self.model.to(self.device).eval()
        self.model.requires_grad_(False)
        self._numerics = options.dtype
        if self._numerics in MIXED:
            self._round(options.name)
        config = self.model.config.get_text_config()
        longest: int = getattr(config, "max_position_embeddings", 2048)
        self.context_length = options.context_length or longest
        self.vocabulary_size = int(self.model.get_output_embeddings().weight.shape[0])
        if options.chat_template is not None:
            self.tokenizer.chat_template = options.chat_template
        self.turn_end = turn_end(self.tokenizer) if self.tokenizer.chat_template else ""
        self.turn_end_token = turn_end_token(self.tokenizer) if self.tokenizer.chat_template else None
        self.stop_tokens = frozenset(self._stop_tokens())
        candidates: tuple[Any, ...] = (self.tokenizer.bos_token_id, *sorted(self.stop_tokens), 0)
        self.start_token = next(int(token) for token in candidates if token is not None)
        self._adapters_seen = 0
        self._constraints: JsonConstraints | None = None
        self.keys: dict[str, str] = {}  # adapter name -> name for PEFT, which allows no dots (paths have some)
        self._tokenizers: dict[str, Any] = {}
        self._stored: dict[str, dict[int, int]] = {}
        self.decoder = Decoder(
            self.forward,
            lock=options.lock,
            device=self.device,
            pad_token=self.start_token,
            max_rows=options.max_batch_size,
            memory=round(options.kv_cache_gib * 2**30),
            stop_tokens=lambda: self.stop_tokens,
            text_of=lambda ids: str(self.tokenizer.decode(ids, skip_special_tokens=True)),
            mask=lambda logits, matchers: self.constraints().mask(logits, matchers),
        )
        for name, path in options.adapters.items():
            self.add_adapter(name, path)

    def _round(self, name: str) -> None:
        """Make the linear layers compute with rounded numbers."""
        if self.device.type != "cpu":
            raise ConfigurationError(f"dtype {self._numerics} is for CPUs. On {self.device.type} use bfloat16.")
        convert(self.model, self._numerics)
        layers = len(self.layers())
        if converted(self.model) < layers:
            raise ConfigurationError(f"{name} has too few linear layers for dtype {self._numerics}. Use float32.")

    def encode(self, text: str, tokenizer: Any) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_with_offsets(self, text: str) -> tuple[list[int], np.ndarray[Any, np.dtype[np.int64]]]:
        """Token ids that fit the context, the beginning cut off, and the characters each stands for, shape (L, 2)."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        kept = slice(-self.context_length, None)
        return list(encoded["input_ids"][kept]), np.array(encoded["offset_mapping"][kept], dtype=np.int64)

    def tokenizer_of(self, adapter: str) -> Any:
        """The tokenizer of an adapter, which may know more tokens than the model's own."""
        return self._tokenizers.get(adapter, self.tokenizer)

    def with_turn_end(self, request: Request) -> Request:
        """A request for a user turn ends where the template ends one; a special token already stops every row."""
        text = self.turn_end
        if request.next_role != "user" or not text or self.turn_end_token is not None:
            return request
        return replace(request, sampling=replace(request.sampling, stop=(*request.sampling.stop, text)))

    def forward(self, *, adapter_names: list[str], visible: Any = None, **inputs: Any) -> Any:
        if visible is not None:
            config = self.model.config.get_text_config()
            inputs["attention_mask"] = attention_masks(config, visible, self.model.dtype)
        if self.keys:
            inputs["adapter_names"] = adapter_names
        output = self.model(**inputs)
        if self._stored:
            stored = [self._stored.get(name, {}) for name in adapter_names]
            output.logits = own_logits(output.logits, self.vocabulary_size, stored)
        return output

    def constraints(self) -> JsonConstraints:
        if self._constraints is None:
            self._constraints = JsonConstraints(self.tokenizer, self.vocabulary_size, sorted(self.stop_tokens))
        return self._constraints

    def generation(self, request: Request, prompt: str, row: Row) -> Generation:
        tokenizer = self.tokenizer_of(row.adapter)
        text = str(tokenizer.decode(row.tokens, skip_special_tokens=not request.kept_tokens))
        if request.kept_tokens:
            text = without_special_tokens(tokenizer, text, request.kept_tokens)
        for stop in request.sampling.stop:
            text = text.split(stop)[0]
        return Generation(
            text=text,
            token_ids=tuple(row.tokens),
            logprobs=tuple(row.logprobs),
            finish_reason=row.finish_reason or "length",
            prompt=prompt,
            prompt_token_ids=tuple(row.prompt),
            prompt_tokens=len(row.prompt),
            completion_tokens=len(row.tokens),
        )

    def layers(self) -> Any:
        """The decoder's layers in order: the longest list of modules in it, whatever the architecture calls it."""
        from torch.nn import ModuleList

        found = [module for module in self.model.modules() if isinstance(module, ModuleList)]
        return max(found, key=len)

    def hidden_states(
        self, sequences: list[list[int]], layers: Sequence[int]
    ) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        """Outputs of layers (1 is the first) for each sequence, shape (K, L, D) each."""
        import torch

        found: dict[int, Any] = {}
        modules, deepest = self.layers(), max(layers)

        def keep(layer: int, output: Any) -> None:
            found[layer] = output[0] if isinstance(output, tuple) else output
            if layer == deepest:
                raise _Deepest

        hooks = [
            modules[layer - 1].register_forward_hook(lambda module, inputs, output, layer=layer: keep(layer, output))
            for layer in set(layers)
        ]
        try:
            with torch.inference_mode(), self._base_alone() as base:
                base(**self._padded(sequences), logits_to_keep=1, use_cache=False)
        except _Deepest:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        stacked = torch.stack([found[layer] for layer in layers], dim=1).float().cpu().numpy()
        return [row[:, -len(ids) :] for row, ids in zip(stacked, sequences, strict=True)]

    @contextlib.contextmanager
    def _base_alone(self) -> Iterator[Any]:
        """The base model without any adapter, for a pass that may be broken off: PEFT's own hooks would stay behind."""
        if not self.keys:
            yield self.model
            return
        try:
            with self.model.disable_adapter():
                yield self.model.get_base_model()
        finally:
            self.model.requires_grad_(False)  # PEFT makes the active adapter trainable when it is enabled again

    def _padded(self, sequences: list[list[int]]) -> dict[str, Any]:
        """Left-padded inputs of a forward pass."""
        import torch

        longest = max(map(len, sequences))
        padded = [[self.start_token] * (longest - len(ids)) + ids for ids in sequences]
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in sequences], device=self.device)
        return {
            "input_ids": torch.tensor(padded, device=self.device),
            "attention_mask": mask,
            "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
        }

    def likelihoods(self, heads: list[list[int]], tails: list[list[int]], adapter: str) -> list[Likelihood]:
        import torch

        sequences = [head + tail for head, tail in zip(heads, tails, strict=True)]
        kept = max(map(len, tails)) + 1
        with torch.inference_mode():
            logits = self.forward(
                **self._padded(sequences),
                logits_to_keep=kept,
                adapter_names=[adapter] * len(sequences),
            ).logits
            results = []
            for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
                logprobs = logits[row, -len(tail) - 1 : -1].float().log_softmax(-1)
                chosen = logprobs.gather(-1, torch.tensor(tail, device=self.device)[:, None])
                results.append(Likelihood(min(0.0, float(chosen.sum())), len(tail), len(head)))
        return results

    def add_adapter(self, name: str, path: str) -> None:
        """Put an adapter on the model; if it does not fit, the model stays as it was for everybody else."""
        from peft import get_peft_model, set_peft_model_state_dict

        adapter = read_adapter(path)
        tokenizer = self._tokenizer_with(adapter.tokens) if adapter.rows is not None else None
        key = f"adapter{self._adapters_seen}"
        self._adapters_seen += 1
        try:
            with warnings.catch_warnings():  # of peft about transformers' future, nothing a reader could act on
                warnings.simplefilter("ignore", FutureWarning)
                if self.keys:
                    self.model.add_adapter(key, adapter.config)
                else:
                    self.model = get_peft_model(self.model, adapter.config, adapter_name=key)
            unknown = set_peft_model_state_dict(self.model, dict(adapter.weights), key).unexpected_keys
        except (RuntimeError, ValueError) as error:
            unknown = [str(error).splitlines()[0]]
        if unknown:
            self._remove(key)
            raise WeightsError(f"The adapter {path} does not fit the model: {unknown[0]}. Is it for another base?")
        self.model.requires_grad_(False)
        self.model.eval()
        self.keys[name] = key
        if adapter.rows is not None:
            self._tokenizers[key] = tokenizer
            self._add_rows(key, adapter.tokens, adapter.rows)

    def _remove(self, key: str) -> None:
        """Undo a half-finished `add_adapter`."""
        if key not in getattr(self.model, "peft_config", {}):
            return
        if self.keys:
            self.model.delete_adapter(key)
            self.model.set_adapter(next(iter(self.keys.values())))
        else:
            self.model = self.model.unload()

    def _tokenizer_with(self, tokens: Mapping[str, int]) -> Any:
        tokenizer = copy.deepcopy(self.tokenizer)
        tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)}, replace_extra_special_tokens=False)
        for token, expected in tokens.items():
            if (found := tokenizer.convert_tokens_to_ids(token)) != expected:
                raise WeightsError(
                    f"The adapter calls {token} token {expected}, but for this base model it is {found}. Is the "
                    "adapter for another base?"
                )
        return tokenizer

    def _add_rows(self, adapter: str, tokens: Mapping[str, int], rows: Any) -> None:
        import torch

        base = self.model.get_base_model()
        with_float_output(base)
        first = base.get_output_embeddings().weight.shape[0]
        base.resize_token_embeddings(first + len(rows), mean_resizing=False)
        with torch.no_grad():
            for layer in (base.get_input_embeddings(), base.get_output_embeddings()):
                layer.weight[first:] = rows.to(layer.weight)
        base.requires_grad_(False)
        convert(base, self._numerics)  # resizing made a new output layer
        self._stored[adapter] = {token: first + number for number, token in enumerate(tokens.values())}
        if (end := tokens.get(END_OF_CONVERSATION)) is not None:
            self.stop_tokens |= {end}

    def _stop_tokens(self) -> set[int]:
        configured = self.model.generation_config.eos_token_id
        found = set(configured if isinstance(configured, list) else [configured])
        found.add(self.tokenizer.eos_token_id)
        found |= {token_id(self.tokenizer, END_OF_CONVERSATION), self.turn_end_token}
        return {int(token) for token in found if token is not None}


def _device(name: str) -> str:
    import torch

    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(name: str, device: Any) -> Any:
    import torch

    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name in MIXED:
        return torch.float32
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name not in known:
        raise ConfigurationError(f"dtype is {name!r}, expected auto, {', '.join([*known, *MIXED])}.")
    return known[name]
