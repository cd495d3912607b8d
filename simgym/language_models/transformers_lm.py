"""A language model in this process: any `AutoModelForCausalLM`, batched, LoRA adapters over one copy of the weights.

Requests become token prompts (chat template or `flip.render`), prompts become batches of similar length, and
`decoding.decode` runs each batch. Weights are loaded on the first call, not on construction, so that an environment can
be built, pickled or forked before torch is touched. Simulators, judges and assistants that name the same model share
one instance through `loading.load_language_model`.

On a CPU the default dtype is float32: bfloat16 is slower there. The same request gives the same tokens alone and
in a batch up to floating-point rounding: two tokens whose cumulative probabilities differ by less than about 1e-6 of a
drawn number may swap when the batch shape changes.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from simgym.conversation import END_OF_CONVERSATION
from simgym.errors import ConfigurationError, WeightsError
from simgym.flip import render, token_id, turn_end, turn_end_token, without_special_tokens
from simgym.language_models.adapters import own_logits, read_adapter
from simgym.language_models.base import Generation, Likelihood, Request
from simgym.language_models.constraints import JsonConstraints
from simgym.language_models.decoding import Row, decode
from simgym.language_models.weights import EMBEDDED, Weights, resolve_weights
from simgym.transcripts import text_hash

_BASE = "__base__"
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
            dtype: `auto` (bfloat16 on CUDA, else float32), `float32`, `float16` or `bfloat16`.
            max_batch_size: Rows per forward pass, >= 1.
            context_length: Tokens of prompt and reply together; None: what the model's configuration says.
            chat_template: Jinja template to use instead of the tokenizer's own, or for a tokenizer that has none.
            trust_remote_code: Run code that comes with the weights. Off unless you ask for it.
        """
        if max_batch_size < 1:
            raise ConfigurationError(f"max_batch_size is {max_batch_size}, expected >= 1.")
        self.name = model
        self.revision = revision
        self.adapters = dict(adapters or {})
        self.device = device
        self.dtype = dtype
        self.max_batch_size = max_batch_size
        self.context_length = context_length
        self.chat_template = chat_template
        self.trust_remote_code = trust_remote_code
        self._lock = threading.RLock()
        self._loaded: _Loaded | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_loaded": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer; loads the model."""
        return self._ready().tokenizer

    @property
    def model(self) -> Any:
        """The `PreTrainedModel` (a `PeftModel` round it once adapters are loaded); loads it."""
        return self._ready().model

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Answer N requests; see `LanguageModel.generate`.

        A prompt that leaves no room for `max_new_tokens` in the context gives a `context_overflow` fault.

        Raises:
            ConfigurationError: a request names an adapter that is not loaded, or the model has no chat template.
        """
        with self._lock:
            loaded = self._ready()
            requests = [loaded.with_turn_end(request) for request in requests]
            tokenizers = [loaded.tokenizer_of(self._adapter(loaded, request.adapter)) for request in requests]
            prompts = [
                render(tokenizer, request.messages, request.next_role)
                for tokenizer, request in zip(tokenizers, requests, strict=True)
            ]
            ids_N = [loaded.encode(prompt, tokenizer) for prompt, tokenizer in zip(prompts, tokenizers, strict=True)]
            generations: list[Generation | None] = [None] * len(requests)
            fitting = []
            for index, (request, ids) in enumerate(zip(requests, ids_N, strict=True)):
                need = len(ids) + request.sampling.max_new_tokens
                if need > loaded.context_length:
                    generations[index] = Generation(
                        text="",
                        finish_reason="fault",
                        prompt=prompts[index],
                        prompt_token_ids=tuple(ids),
                        prompt_tokens=len(ids),
                        fault=f"context_overflow: {len(ids)} prompt tokens and {request.sampling.max_new_tokens} new "
                        f"ones exceed the context of {loaded.context_length}",
                    )
                else:
                    fitting.append(index)
            for batch in _batches(fitting, [len(ids) for ids in ids_N], self.max_batch_size):
                rows = [self._row(loaded, requests[index], ids_N[index]) for index in batch]
                loaded.decode(rows)
                for index, row in zip(batch, rows, strict=True):
                    generations[index] = loaded.generation(requests[index], prompts[index], row)
        return [generation for generation in generations if generation is not None]

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
        with self._lock:
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
        with self._lock:
            loaded = self._ready()
            tokens = [loaded.encode(choice, loaded.tokenizer) for choice in choices]
            if wrong := [choice for choice, ids in zip(choices, tokens, strict=True) if len(ids) != 1]:
                raise ConfigurationError(f"{wrong[0]!r} is not one token for {self.name}. Choose other replies.")
            heads = [loaded.encode(self.prompt_text(request), loaded.tokenizer) for request in requests]
            found: list[tuple[float, ...]] = [()] * len(requests)
            fitting = [index for index, head in enumerate(heads) if len(head) < loaded.context_length]
            for batch in _batches(fitting, [len(head) for head in heads], self.max_batch_size):
                adapters = [self._adapter(loaded, requests[index].adapter) for index in batch]
                rows = loaded.first_token([heads[i] for i in batch], [ids[0] for ids in tokens], adapters)
                for index, row in zip(batch, rows, strict=True):
                    found[index] = row
        return found

    def prompt_text(self, request: Request) -> str:
        """The exact text that `generate` reads for a request; what `score` takes as a prompt."""
        with self._lock:
            loaded = self._ready()
            return render(
                loaded.tokenizer_of(self._adapter(loaded, request.adapter)), request.messages, request.next_role
            )

    def load_adapter(self, name: str, path: str) -> None:
        """Add a LoRA adapter from a folder or hub id; usable as `Request(adapter=name)` from now on."""
        with self._lock:
            self._ready().add_adapter(name, path)
            self.adapters[name] = path

    def fingerprint(self) -> dict[str, Any]:
        """Identifies weights and numerics without loading them; adapters identify themselves where they are used."""
        return {
            "kind": "transformers",
            "model": self.name,
            "revision": self.revision,
            "dtype": self.dtype,
            "device": self.device,
            **({"chat_template": text_hash(self.chat_template)} if self.chat_template else {}),
        }

    def _row(self, loaded: _Loaded, request: Request, ids: list[int]) -> Row:
        matcher = loaded.constraints().matcher(request.json_schema) if request.json_schema is not None else None
        return Row(ids, request.sampling, request.seed, self._adapter(loaded, request.adapter), matcher)

    def _adapter(self, loaded: _Loaded, name: str | None) -> str:
        if name is not None and name not in self.adapters:
            known = ", ".join(self.adapters) or "none"
            raise ConfigurationError(f"No adapter {name!r} is loaded. Loaded: {known}. Use load_adapter(name, path).")
        return loaded.keys[name] if name is not None else _BASE

    def _ready(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = _Loaded(self)
            return self._loaded


class _Loaded:
    """Model and tokenizer in memory, and the few things computed from them."""

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
        self._constraints: JsonConstraints | None = None
        self.keys: dict[str, str] = {}  # adapter name -> name for PEFT, which allows no dots (paths have some)
        self._tokenizers: dict[str, Any] = {}
        self._stored: dict[str, dict[int, int]] = {}
        for name, path in options.adapters.items():
            self.add_adapter(name, path)

    def encode(self, text: str, tokenizer: Any) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def tokenizer_of(self, adapter: str) -> Any:
        """The tokenizer of an adapter, which may know more tokens than the model's own."""
        return self._tokenizers.get(adapter, self.tokenizer)

    def with_turn_end(self, request: Request) -> Request:
        """A request for a user turn ends where the template ends one; a special token already stops every row."""
        text = self.turn_end
        if request.next_role != "user" or not text or self.turn_end_token is not None:
            return request
        return replace(request, sampling=replace(request.sampling, stop=(*request.sampling.stop, text)))

    def forward(self, *, adapter_names: list[str], **inputs: Any) -> Any:
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

    def decode(self, rows: list[Row]) -> None:
        decode(
            self.forward,
            rows,
            device=self.device,
            pad_token=self.start_token,
            stop_tokens=self.stop_tokens,
            text_of=lambda ids: str(self.tokenizer.decode(ids, skip_special_tokens=True)),
            mask=self.constraints().mask if any(row.matcher is not None for row in rows) else None,
        )

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

    def first_token(self, heads: list[list[int]], tokens: list[int], adapters: list[str]) -> list[tuple[float, ...]]:
        import torch

        inputs = self._padded(heads)
        with torch.inference_mode():
            logits = self.forward(**inputs, logits_to_keep=1, adapter_names=adapters).logits
        return [tuple(row) for row in logits[:, -1].float().log_softmax(-1)[:, tokens].tolist()]

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
        key = f"adapter{len(self.keys)}"
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
        first = base.get_output_embeddings().weight.shape[0]
        base.resize_token_embeddings(first + len(rows), mean_resizing=False)
        with torch.no_grad():
            for layer in (base.get_input_embeddings(), base.get_output_embeddings()):
                layer.weight[first:] = rows.to(layer.weight)
        base.requires_grad_(False)
        self._stored[adapter] = {token: first + number for number, token in enumerate(tokens.values())}
        if (end := tokens.get(END_OF_CONVERSATION)) is not None:
            self.stop_tokens |= {end}

    def _stop_tokens(self) -> set[int]:
        configured = self.model.generation_config.eos_token_id
        found = set(configured if isinstance(configured, list) else [configured])
        found.add(self.tokenizer.eos_token_id)
        found |= {token_id(self.tokenizer, END_OF_CONVERSATION), self.turn_end_token}
        return {int(token) for token in found if token is not None}


def _batches(indices: Sequence[int] | range, lengths: Sequence[int], size: int) -> list[list[int]]:
    """Indices grouped by similar length, at most `size` each: padding is work for nothing."""
    ordered = sorted(indices, key=lambda index: lengths[index])
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


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
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name not in known:
        raise ConfigurationError(f"dtype is {name!r}, expected auto, {', '.join(known)}.")
    return known[name]
