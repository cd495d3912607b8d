"""A language model in this process that vLLM runs: `{"kind": "vllm", "model": ...}` or `vllm:NAME`.

The same protocol as `TransformersLM`, with the same prompts, stop tokens and reading of replies (`_chat_tokens`), so
that either can take the other's place. vLLM brings what large models on GPUs need: paged keys and values, prefix
caching, kernels for each architecture, quantised weights, and several GPUs
(`engine_options={"tensor_parallel_size": 4}`).

Which to take: `TransformersLM` up to some 3 billion parameters, on CPUs and Macs, for adapters that add tokens, and for
the default judge, which reads hidden states; this for larger models that one process uses; a server (`openai:NAME@URL`)
for a model that several processes share, or that outlives a run. See docs/servers.md.

A seed decides what is drawn with vLLM's random numbers, so replies differ from those of `TransformersLM` with the same
seed; greedy ones are the same up to rounding. A batch changes the rounding: on GPUs, a drawn token may then change.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from simgym.errors import ConfigurationError
from simgym.extras import require_extra
from simgym.language_models._chat_tokens import prompt_fingerprint
from simgym.language_models._vllm_loaded import RANKS, LoadedVllm
from simgym.language_models.base import Generation, Likelihood, Purpose, Request
from simgym.language_models.weights import DEFAULT_MODEL, local_chat_template, local_files
from simgym.template_date import DEFAULT_DATE, check_date

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DTYPES = ("auto", "float32", "float16", "bfloat16")
_OWN_OPTIONS = {
    "model", "tokenizer", "revision", "tokenizer_revision", "dtype", "max_model_len", "max_num_seqs", "enable_lora",
    "max_lora_rank", "max_loras", "trust_remote_code", "logprobs_mode", "structured_outputs_config", "hf_token",
    "kv_cache_memory_bytes", "seed", "chat_template",
}  # fmt: skip
"""Arguments of `vllm.LLM` that `engine_options` may not hold."""


class VllmLM:
    """Runs a causal language model in this process through vLLM; implements `LanguageModel`."""

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        adapters: Mapping[str, str] | None = None,
        max_lora_rank: int | None = None,
        dtype: str = "auto",
        max_batch_size: int = 256,
        kv_cache_gib: float | None = None,
        context_length: int | None = None,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, object] | None = None,
        date: str = DEFAULT_DATE,
        trust_remote_code: bool = False,
        engine_options: Mapping[str, object] | None = None,
    ) -> None:
        """Describe the model; nothing is loaded yet.

        Args:
            model: Folder, Hugging Face id (`owner/model@revision`), GGUF file or `smollm2-135m-instruct`.
            revision: Hub revision to pin.
            adapters: LoRA adapters by name: folder or Hugging Face id of each. They may not add tokens.
            max_lora_rank: Largest rank of adapters that are added later; None: that of `adapters`, and without any the
                model is loaded without room for adapters.
            dtype: `auto` (float32 on CPUs, else bfloat16), `float32`, `float16` or `bfloat16`.
            max_batch_size: Requests that run at a time, >= 1.
            kv_cache_gib: Keys and values of running requests and of the prefix cache together, GiB for each device;
                None: what vLLM's `gpu_memory_utilization` leaves (92 % of a GPU's memory are taken, unless
                `engine_options` says otherwise).
            context_length: Tokens of prompt and reply together; None: what the model's configuration says.
            chat_template: Jinja template to use instead of the tokenizer's own, or for a tokenizer that has none.
            chat_template_kwargs: Variables for the chat template: `{"enable_thinking": False}`.
            date: What a chat template that asks for today's date is told, e.g. `2024-07-26`.
            trust_remote_code: Run code that comes with the weights. Off unless you ask for it.
            engine_options: Further arguments of `vllm.LLM`: `tensor_parallel_size`, `gpu_memory_utilization`,
                `enforce_eager`, `quantization`, `enable_prefix_caching` and so on.

        Raises:
            MissingDependency: the extra `vllm` is not installed, or vLLM has a version that simgym does not work with.
            ConfigurationError: a bound is out of range.
        """
        require_extra("vllm", f"The model {model!r}, which vLLM runs in this process,")
        if max_batch_size < 1:
            raise ConfigurationError(f"max_batch_size is {max_batch_size}, expected >= 1.")
        if kv_cache_gib is not None and not kv_cache_gib > 0:
            raise ConfigurationError(f"kv_cache_gib is {kv_cache_gib}, expected > 0, or None for vLLM's own choice.")
        if max_lora_rank is not None and not 1 <= max_lora_rank <= RANKS[-1]:
            raise ConfigurationError(f"max_lora_rank is {max_lora_rank}, expected a number in [1, {RANKS[-1]}].")
        if dtype not in _DTYPES:
            raise ConfigurationError(f"dtype is {dtype!r}, expected {', '.join(_DTYPES[:-1])} or {_DTYPES[-1]}.")
        if taken := sorted(_OWN_OPTIONS & set(engine_options or {})):
            raise ConfigurationError(f"engine_options holds {taken[0]!r}, which is an argument of its own or fixed.")
        self.name = model
        self.revision = revision
        self.adapters = dict(adapters or {})
        self.max_lora_rank = max_lora_rank
        self.dtype = dtype
        self.max_batch_size = max_batch_size
        self.kv_cache_gib = kv_cache_gib
        self.context_length = context_length
        self.chat_template = chat_template
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        self.date = check_date(date)
        self.trust_remote_code = trust_remote_code
        self.engine_options = dict(engine_options or {})
        self.__setstate__({})

    def __getstate__(self) -> dict[str, object]:
        here = {"_lock", "_process", "_loaded", "_read_files"}
        return {key: value for key, value in self.__dict__.items() if key not in here}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._loaded: LoadedVllm | None = None
        self._read_files: tuple[dict[str, str], str | None] | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer; loads the model."""
        return self._ready().chat.tokenizer

    def check(self, purpose: Purpose = "chat", *, adapter: str | None = None) -> None:
        """Load the model; see `CheckableModel.check`."""
        self._ready().lora(adapter)

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Answer N requests; see `LanguageModel.generate`.

        A prompt that leaves no room for `max_new_tokens` in the context gives a `context_overflow` fault.

        Raises:
            ConfigurationError: a request names an adapter that is not loaded, the model has no chat template, or vLLM
                does not take a JSON schema or a temperature (above 2).
        """
        loaded = self._ready()
        prompts = [loaded.chat.prompt(request) for request in requests]
        ids_N = [loaded.chat.encode(prompt, request.adapter) for request, prompt in zip(requests, prompts, strict=True)]
        fitting = [
            index
            for index, request in enumerate(requests)
            if len(ids_N[index]) + request.sampling.max_new_tokens <= loaded.context_length
        ]
        outputs = loaded.engine.generate(
            [(ids_N[index], loaded.params(requests[index]), loaded.lora(requests[index].adapter)) for index in fitting]
        )
        output_of = dict(zip(fitting, outputs, strict=True))
        return [
            loaded.generation(request, prompt, ids, output_of.get(index))
            for index, (request, prompt, ids) in enumerate(zip(requests, prompts, ids_N, strict=True))
        ]

    def loglikelihood(
        self, prompts: Sequence[str], continuations: Sequence[str], *, adapter: str | None = None
    ) -> list[Likelihood]:
        """Log-likelihood of each continuation after its prompt; see `LanguageModel.loglikelihood`.

        Prompt and continuation are tokenized together; a token that stands in both counts towards the continuation.
        Together they have one token less of room than in `TransformersLM`, since vLLM wants to write one.
        """
        loaded = self._ready()
        lora = loaded.lora(adapter)
        pairs = loaded.chat.encode_pairs(prompts, continuations, adapter, longest=loaded.context_length - 1)
        score = loaded.score_by_token if loaded.has_adapters else loaded.score
        return [
            Likelihood(total, len(tail), len(head))
            for total, (head, tail) in zip(score(pairs, lora), pairs, strict=True)
        ]

    def choose(self, requests: Sequence[Request], choices: Sequence[str]) -> list[tuple[float, ...]]:
        """Log-probability of each choice as a reply's first token; see `ChoosingModel.choose`."""
        from vllm import SamplingParams

        loaded = self._ready()
        asked: list[tuple[list[int], object, object]] = []
        tokens_N: list[tuple[int, ...]] = []
        for request in requests:
            prompt = loaded.chat.prompt(request)
            token_ids = loaded.chat.encode(prompt, request.adapter)
            tokens = loaded.chat.choices(prompt, choices, request.adapter)
            tokens_N.append(tokens if len(token_ids) < loaded.context_length else ())
            params = SamplingParams(
                max_tokens=1, temperature=0.0, logprob_token_ids=sorted(set(tokens)), detokenize=False
            )
            if tokens_N[-1]:
                asked.append((token_ids, params, loaded.lora(request.adapter)))
        outputs = iter(loaded.engine.generate(asked))
        told = []
        for tokens in tokens_N:
            first = next(outputs).outputs[0].logprobs[0] if tokens else {}
            told.append(tuple(float(first[token].logprob) for token in tokens))
        return told

    def prompt_text(self, request: Request) -> str:
        """The exact text that `generate` reads for a request; what `loglikelihood` takes as a prompt."""
        return self._ready().chat.prompt(request)

    def load_adapter(self, name: str, path: str) -> None:
        """Add a LoRA adapter from a folder or hub id; usable as `Request(adapter=name)` from now on.

        Raises:
            ConfigurationError: the model has been loaded without room for adapters, or for one of this rank.
            WeightsError: the adapter cannot be read or adds tokens, or vLLM cannot load it.
        """
        with self._lock:
            if self._loaded is not None:
                self._loaded.add_adapter(name, path)
            self.adapters[name] = path

    def clear_cache(self) -> None:
        """Drop the keys and values kept from earlier calls, as after a change of the weights."""
        if self._loaded is not None:
            self._loaded.engine.call(lambda engine: engine.reset_prefix_cache())

    def fingerprint(self) -> dict[str, object]:
        """Identifies weights and numerics without loading them; adapters identify themselves where they are used."""
        files, template = self._read_files or self._files()
        return {
            "kind": "vllm",
            "model": self.name,
            **files,
            "revision": self.revision,
            "dtype": self.dtype,
            **prompt_fingerprint(template, self.chat_template_kwargs, self.date),
            **({"engine_options": self.engine_options} if self.engine_options else {}),
        }

    def _files(self) -> tuple[dict[str, str], str | None]:
        return local_files(self.name), self.chat_template or local_chat_template(self.name)

    def _ready(self) -> LoadedVllm:
        if self._process != os.getpid():
            raise ConfigurationError(
                f"The model {self.name!r} was made before this process was forked, and vLLM's engine does not come "
                "along. Start workers by spawn, or use a server (openai:NAME@URL)."
            )
        with self._lock:
            if self._loaded is None:
                self._read_files = self._files()  # whatever becomes of the files, this is what is in memory
                self._loaded = LoadedVllm(self)
            return self._loaded
