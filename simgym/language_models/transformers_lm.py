"""A language model in this process: any decoder of transformers, batched, LoRA adapters over one copy of the weights.

Requests become token prompts (chat template or `flip.render`), and `decoding.Decoder` runs them, together with those of
other threads; a conversation's next turn reads what is new alone. Weights are loaded on the first call, not on
construction, so that an environment can be built, pickled or forked before torch is touched. Simulators, judges and
assistants that name the same model share one instance through `loading.load_language_model`.

On a CPU the default dtype is float32; `numerics` has faster ones. The same request gives the same tokens alone, in a
batch, and with any part of it known from earlier, up to floating-point rounding: in float32, two tokens whose
cumulative probabilities differ by less than about 1e-5 of a drawn number may swap; in bfloat16, and in the kinds of
`numerics`, by less than about 1e-2, so that most sampled replies go another way sooner or later.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simgym.errors import ConfigurationError
from simgym.extras import require_extra
from simgym.flip import render
from simgym.language_models.base import Generation, Likelihood, Purpose, Request, Sampling
from simgym.language_models.decoding import Row, Work
from simgym.language_models.loaded_model import BASE, LoadedModel
from simgym.language_models.threads import settle_threads
from simgym.language_models.weights import EMBEDDED, folder_hash
from simgym.transcripts import text_hash

_MOST_SCORED = 4096
"""Positions whose logits are held at a time when texts are scored."""


class TransformersLM:
    """Runs a causal language model in process; implements `LanguageModel`."""

    def __init__(
        self,
        model: str = EMBEDDED,
        *,
        revision: str | None = None,
        adapters: Mapping[str, str] | None = None,
        device: str = "auto",
        dtype: str = "auto",
        max_batch_size: int = 64,
        kv_cache_gib: float = 2.0,
        context_length: int | None = None,
        chat_template: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Describe the model; nothing is loaded yet.

        Args:
            model: Folder, Hugging Face id (`owner/model@revision`) or `smollm2-135m-instruct`.
            revision: Hub revision to pin.
            adapters: LoRA adapters by name: folder or Hugging Face id of each.
            device: `auto` (CUDA, then MPS, then CPU), or what torch calls it.
            dtype: `auto` (bfloat16 on CUDA, else float32), `float32`, `float16` or `bfloat16`; on a
                CPU `bfloat16-mixed` or `int8`, see `simgym.language_models.numerics`.
            max_batch_size: Rows per forward pass, >= 1.
            kv_cache_gib: Keys and values that are kept between calls, GiB, so that a conversation's next turn reads
                what is new alone; 0 keeps none. Those of the rows that are running come on top: their number times
                the longest. If you change the weights of `model` yourself, call `forget`.
            context_length: Tokens of prompt and reply together; None: what the model's configuration says.
            chat_template: Jinja template to use instead of the tokenizer's own, or for a tokenizer that has none.
            trust_remote_code: Run code that comes with the weights. Off unless you ask for it.

        Raises:
            MissingDependency: the extra `local` is not installed.
            ConfigurationError: a bound is out of range.
        """
        require_extra("local", f"The model {model!r}, which runs in this process,")
        if max_batch_size < 1:
            raise ConfigurationError(f"max_batch_size is {max_batch_size}, expected >= 1.")
        if not kv_cache_gib >= 0:
            raise ConfigurationError(f"kv_cache_gib is {kv_cache_gib}, expected >= 0.")
        self.name = model
        self.revision = revision
        self.adapters = dict(adapters or {})
        self.device = device
        self.dtype = dtype
        self.max_batch_size = max_batch_size
        self.kv_cache_gib = kv_cache_gib
        self.context_length = context_length
        self.chat_template = chat_template
        self.trust_remote_code = trust_remote_code
        self.lock = threading.RLock()
        """Held during each forward pass. Never hold it while you call a method: another thread may lead the batch."""
        self._loaded: LoadedModel | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lock": None, "_loaded": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, lock=threading.RLock())

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer; loads the model."""
        return self._ready().tokenizer

    @property
    def model(self) -> Any:
        """The `PreTrainedModel` (a `PeftModel` round it once adapters are loaded); loads it."""
        return self._ready().model

    def check(self, purpose: Purpose = "chat", *, adapter: str | None = None) -> None:
        """Load the model; see `CheckableModel.check`."""
        with self.lock:
            self._adapter(self._ready(), adapter)

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Answer N requests; see `LanguageModel.generate`.

        A prompt that leaves no room for `max_new_tokens` in the context gives a `context_overflow` fault.

        Raises:
            ConfigurationError: a request names an adapter that is not loaded, or the model has no chat template.
        """
        with self.lock:
            loaded = self._ready()
            requests = [loaded.with_turn_end(request) for request in requests]
            tokenizers = [loaded.tokenizer_of(self._adapter(loaded, request.adapter)) for request in requests]
            prompts = [
                render(tokenizer, request.messages, request.next_role)
                for tokenizer, request in zip(tokenizers, requests, strict=True)
            ]
            ids_N = [loaded.encode(prompt, tokenizer) for prompt, tokenizer in zip(prompts, tokenizers, strict=True)]
            rows: list[Row | None] = [
                self._row(loaded, request, ids)
                if len(ids) + request.sampling.max_new_tokens <= loaded.context_length
                else None
                for request, ids in zip(requests, ids_N, strict=True)
            ]
        # not under the lock, so that the requests of other threads join the batch
        loaded.decoder.run([row for row in rows if row is not None])
        return [
            loaded.generation(request, prompt, row) if row is not None else _overflow(loaded, request, prompt, ids)
            for request, prompt, row, ids in zip(requests, prompts, rows, ids_N, strict=True)
        ]

    def score(
        self, prompts: Sequence[str], continuations: Sequence[str], *, adapter: str | None = None
    ) -> list[Likelihood]:
        """Log-likelihood of each continuation after its prompt; see `LanguageModel.score`.

        Prompt and continuation are tokenized separately, so that the split between them is where you put it. An empty
        prompt stands for the model's start token.
        """
        if len(prompts) != len(continuations):
            raise ConfigurationError(
                f"Got {len(prompts)} prompts and {len(continuations)} continuations, expected as many."
            )
        with self.lock:
            loaded = self._ready()
            tokenizer = loaded.tokenizer_of(self._adapter(loaded, adapter))
            heads = [loaded.encode(prompt, tokenizer) or [loaded.start_token] for prompt in prompts]
            tails = [loaded.encode(continuation, tokenizer) for continuation in continuations]
            if empty := [index for index, tail in enumerate(tails) if not tail]:
                raise ConfigurationError(f"Continuation {empty[0]} is empty. There is nothing to score.")
            likelihoods: list[Likelihood | None] = [None] * len(tails)
            lengths = [len(head) + len(tail) for head, tail in zip(heads, tails, strict=True)]
            for index, length in enumerate(lengths):
                if len(tails[index]) >= loaded.context_length:
                    raise ConfigurationError(
                        f"Continuation {index} has {len(tails[index])} tokens, as many as the context of "
                        f"{loaded.context_length} or more. Shorten it."
                    )
                if length > loaded.context_length:  # keep the end, which is next to what is scored
                    heads[index] = heads[index][len(tails[index]) - loaded.context_length :]
            # logits are held for the continuations alone, so the longest of a batch bounds its memory
            size = max(1, min(self.max_batch_size, _MOST_SCORED // max(map(len, tails), default=1)))
            for batch in _batches(range(len(tails)), lengths, size):
                scored = loaded.likelihoods(
                    [heads[i] for i in batch], [tails[i] for i in batch], self._adapter(loaded, adapter)
                )
                for index, likelihood in zip(batch, scored, strict=True):
                    likelihoods[index] = likelihood
        return [likelihood for likelihood in likelihoods if likelihood is not None]

    def choose(self, requests: Sequence[Request], choices: Sequence[str]) -> list[tuple[float, ...]]:
        """Log-probability of each choice as a reply's first token; see `ChoosingModel.choose`. One forward pass."""
        with self.lock:
            loaded = self._ready()
            tokens = [loaded.encode(choice, loaded.tokenizer) for choice in choices]
            if wrong := [choice for choice, ids in zip(choices, tokens, strict=True) if len(ids) != 1]:
                raise ConfigurationError(f"{wrong[0]!r} is not one token for {self.name}. Choose other replies.")
            heads = [loaded.encode(self.prompt_text(request), loaded.tokenizer) for request in requests]
            asked = tuple(ids[0] for ids in tokens)
            rows = [
                Row(head, Sampling(0.0, max_new_tokens=1), 0, self._adapter(loaded, request.adapter), choices=asked)
                for request, head in zip(requests, heads, strict=True)
            ]
        loaded.decoder.run([row for row in rows if len(row.prompt) < loaded.context_length])
        return [row.choice_logprobs for row in rows]

    def hidden_states(self, texts: Sequence[str], *, layers: Sequence[int]) -> list[HiddenStates]:
        """What the base model makes of N texts on the way; no adapter is applied.

        The forward pass ends at the deepest of `layers`, so that a middle layer costs a fraction of a whole one. A
        text that is longer than the context loses its beginning.

        Args:
            texts: N texts, special tokens spelt out; none is added. None is empty.
            layers: K layer numbers, 1 to the number of layers; k is the output of the kth.

        Raises:
            ConfigurationError: a text is empty, or there is no such layer.
        """
        with self.lock:
            loaded = self._ready()
            deepest = len(loaded.layers())
            if not layers or not all(1 <= layer <= deepest for layer in layers):
                raise ConfigurationError(f"layers is {list(layers)}, expected numbers from 1 to {deepest}.")
            if empty := [index for index, text in enumerate(texts) if not text]:
                raise ConfigurationError(f"Text {empty[0]} is empty. There is nothing to read.")
            encoded = [loaded.encode_with_offsets(text) for text in texts]
            found: list[HiddenStates | None] = [None] * len(texts)
            for batch in _batches(range(len(texts)), [len(ids) for ids, _ in encoded], self.max_batch_size):
                states_N = loaded.hidden_states([encoded[index][0] for index in batch], layers)
                for index, states in zip(batch, states_N, strict=True):
                    found[index] = HiddenStates(states, encoded[index][1])
        return [states for states in found if states is not None]

    def prompt_text(self, request: Request) -> str:
        """The exact text that `generate` reads for a request; what `score` takes as a prompt."""
        with self.lock:
            loaded = self._ready()
            return render(
                loaded.tokenizer_of(self._adapter(loaded, request.adapter)), request.messages, request.next_role
            )

    def load_adapter(self, name: str, path: str) -> None:
        """Add a LoRA adapter from a folder or hub id; usable as `Request(adapter=name)` from now on."""
        with self.lock:
            self._ready().add_adapter(name, path)
            self.adapters[name] = path

    def forget(self) -> None:
        """Drop the keys and values kept from earlier calls, as after a change of the weights."""
        if self._loaded is not None:
            self._loaded.decoder.forget()

    @property
    def work(self) -> Work:
        """Tokens that went through the model in `generate` and `choose` so far."""
        return self._ready().decoder.work

    def fingerprint(self) -> dict[str, Any]:
        """Identifies weights and numerics without loading them; adapters identify themselves where they are used."""
        return {
            "kind": "transformers",
            "model": self.name,
            **({"weights": folder_hash(self.name)} if Path(self.name).expanduser().is_dir() else {}),
            "revision": self.revision,
            "dtype": self.dtype,
            "device": self.device,
            **({"chat_template": text_hash(self.chat_template)} if self.chat_template else {}),
        }

    def _row(self, loaded: LoadedModel, request: Request, ids: list[int]) -> Row:
        matcher = loaded.constraints().matcher(request.json_schema) if request.json_schema is not None else None
        return Row(ids, request.sampling, request.seed, self._adapter(loaded, request.adapter), matcher)

    def _adapter(self, loaded: LoadedModel, name: str | None) -> str:
        if name is not None and name not in self.adapters:
            known = ", ".join(self.adapters) or "none"
            raise ConfigurationError(f"No adapter {name!r} is loaded. Loaded: {known}. Use load_adapter(name, path).")
        return loaded.keys[name] if name is not None else BASE

    def _ready(self) -> LoadedModel:
        settle_threads()
        with self.lock:
            if self._loaded is None:
                self._loaded = LoadedModel(self)
            return self._loaded


def _overflow(loaded: LoadedModel, request: Request, prompt: str, ids: list[int]) -> Generation:
    return Generation(
        text="",
        finish_reason="fault",
        prompt=prompt,
        prompt_token_ids=tuple(ids),
        prompt_tokens=len(ids),
        fault=f"context_overflow: {len(ids)} prompt tokens and {request.sampling.max_new_tokens} new ones exceed the "
        f"context of {loaded.context_length}",
    )


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """What layers of a model make of one text."""

    states: np.ndarray[Any, np.dtype[np.float32]]
    """Shape (K, L, D): K layers, L tokens, D hidden size."""
    offsets: np.ndarray[Any, np.dtype[np.int64]]
    """Shape (L, 2): where each token begins and ends in the text, characters."""


def _batches(indices: Sequence[int] | range, lengths: Sequence[int], size: int) -> list[list[int]]:
    """Indices grouped by similar length, at most `size` each: padding is work for nothing."""
    ordered = sorted(indices, key=lambda index: lengths[index])
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]
