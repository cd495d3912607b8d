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

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simgym.conversation import END_OF_CONVERSATION
from simgym.errors import ConfigurationError, WeightsError
from simgym.flip import render
from simgym.language_models.base import Generation, Likelihood, Request
from simgym.language_models.constraints import JsonConstraints
from simgym.language_models.decoding import Row, decode
from simgym.language_models.weights import EMBEDDED, Weights, resolve_weights

_BASE = "__base__"


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
            prompts = [render(loaded.tokenizer, request.messages, request.next_role) for request in requests]
            ids_N = [loaded.encode(prompt) for prompt in prompts]
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
            heads = [loaded.encode(prompt) or [loaded.start_token] for prompt in prompts]
            tails = [loaded.encode(continuation) for continuation in continuations]
            if empty := [index for index, tail in enumerate(tails) if not tail]:
                raise ConfigurationError(f"Continuation {empty[0]} is empty. There is nothing to score.")
            likelihoods: list[Likelihood | None] = [None] * len(tails)
            lengths = [len(head) + len(tail) for head, tail in zip(heads, tails, strict=True)]
            for index, length in enumerate(lengths):
                if length > loaded.context_length:  # keep the end, which is next to what is scored
                    room = max(1, loaded.context_length - len(tails[index]))
                    heads[index] = heads[index][-room:]
            for batch in _batches(range(len(tails)), lengths, self.max_batch_size):
                scored = loaded.likelihoods(
                    [heads[i] for i in batch], [tails[i] for i in batch], self._adapter(loaded, adapter)
                )
                for index, likelihood in zip(batch, scored, strict=True):
                    likelihoods[index] = likelihood
        return [likelihood for likelihood in likelihoods if likelihood is not None]

    def load_adapter(self, name: str, path: str) -> None:
        """Add a LoRA adapter from a folder or hub id; usable as `Request(adapter=name)` from now on."""
        with self._lock:
            self.adapters[name] = path
            if self._loaded is not None:
                self._loaded.add_adapter(name, path)

    def fingerprint(self) -> dict[str, Any]:
        """Identifies weights and numerics without loading them."""
        return {
            "kind": "transformers",
            "model": self.name,
            "revision": self.revision,
            "dtype": self.dtype,
            "device": self.device,
            "adapters": dict(self.adapters),
        }

    def _row(self, loaded: _Loaded, request: Request, ids: list[int]) -> Row:
        matcher = loaded.constraints().matcher(request.json_schema) if request.json_schema is not None else None
        return Row(ids, request.sampling, request.seed, self._adapter(loaded, request.adapter), matcher)

    def _adapter(self, loaded: _Loaded, name: str | None) -> str:
        if name is not None and name not in self.adapters:
            known = ", ".join(self.adapters) or "none"
            raise ConfigurationError(f"No adapter {name!r} is loaded. Loaded: {known}. Use load_adapter(name, path).")
        return name or _BASE

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
        self.stop_tokens = frozenset(self._stop_tokens())
        candidates: tuple[Any, ...] = (self.tokenizer.bos_token_id, *sorted(self.stop_tokens), 0)
        self.start_token = next(int(token) for token in candidates if token is not None)
        self._constraints: JsonConstraints | None = None
        self._adapted = False
        for name, path in options.adapters.items():
            self.add_adapter(name, path)

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def forward(self, *, adapter_names: list[str], **inputs: Any) -> Any:
        if self._adapted:
            inputs["adapter_names"] = adapter_names
        return self.model(**inputs)

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
        kept = row.tokens
        if request.keep_special_tokens:
            ordinary_stop = self.tokenizer.eos_token_id
            kept = kept[:-1] if kept and kept[-1] == ordinary_stop else kept
        text = str(self.tokenizer.decode(kept, skip_special_tokens=not request.keep_special_tokens))
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

    def likelihoods(self, heads: list[list[int]], tails: list[list[int]], adapter: str) -> list[Likelihood]:
        import torch

        sequences = [head + tail for head, tail in zip(heads, tails, strict=True)]
        longest, kept = max(map(len, sequences)), max(map(len, tails)) + 1
        padded = [[self.start_token] * (longest - len(ids)) + ids for ids in sequences]
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in sequences], device=self.device)
        with torch.inference_mode():
            logits = self.forward(
                input_ids=torch.tensor(padded, device=self.device),
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
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
        from peft import PeftModel

        folder = str(Path(path).expanduser()) if Path(path).expanduser().is_dir() else path
        try:
            if self._adapted:
                self.model.load_adapter(folder, adapter_name=name, use_safetensors=True)
            else:
                self.model = PeftModel.from_pretrained(self.model, folder, adapter_name=name, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"Cannot load the adapter {name!r} from {path}: {str(error).splitlines()[0]} "
                "Expected a LoRA adapter saved as safetensors for this base model."
            ) from error
        self.model.eval()
        self._adapted = True

    def _stop_tokens(self) -> set[int]:
        configured = self.model.generation_config.eos_token_id
        found = set(configured if isinstance(configured, list) else [configured])
        found.add(self.tokenizer.eos_token_id)
        vocabulary = self.tokenizer.get_vocab()
        found.add(vocabulary.get(END_OF_CONVERSATION))
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
