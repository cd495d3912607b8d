"""A language model in this process: any decoder of transformers, batched, LoRA adapters over one copy of the weights.

Requests become token prompts (`chat_template.render`), and `simgym.engine` runs them together with those of other
threads; a conversation's next turn prefills only what is new. Weights are loaded on the first call, not on
construction, so that an environment can be built, pickled or forked before torch is touched. Simulators, judges and
assistants that name the same model share one instance through `loading.load_language_model`.

On a CPU the default dtype is float32; `simgym.engine.numerics` has faster ones. The same request gives the same tokens
alone, in a batch, and with any part of its prompt in the cache, up to floating-point rounding: in float32, two tokens
whose cumulative probabilities differ by less than about 1e-5 of a drawn number may swap; in lower precision by less
than about 1e-2, so that batch-dependent rounding eventually changes a sampled token.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from simgym._forks import renew_in_children
from simgym.engine import EngineStats, Scored
from simgym.errors import ConfigurationError
from simgym.extras import require_extra
from simgym.language_models._chat_tokens import prompt_fingerprint
from simgym.language_models._loaded_model import LoadedModel
from simgym.language_models.adapters import not_loaded
from simgym.language_models.base import Generation, Likelihood, Purpose, Request, SamplingParams
from simgym.language_models.threads import check_fork, settle_threads
from simgym.language_models.weights import DEFAULT_MODEL, local_chat_template, local_files
from simgym.template_date import DEFAULT_DATE, check_date

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_OWN_OPTIONS = {"revision", "dtype", "torch_dtype", "trust_remote_code", "use_safetensors", "token", "config"}
"""Arguments of `from_pretrained` that `model_options` may not hold."""


class TransformersLM:
    """Runs a causal language model in process; implements `LanguageModel`."""

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        adapters: Mapping[str, str] | None = None,
        device: str = "auto",
        dtype: str = "auto",
        max_batch_size: int = 64,
        kv_cache_gib: float | None = None,
        max_kv_gib: float | None = None,
        context_length: int | None = None,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, object] | None = None,
        date: str = DEFAULT_DATE,
        trust_remote_code: bool = False,
        model_options: Mapping[str, object] | None = None,
        cuda_graphs: bool = True,
    ) -> None:
        """Describe the model; nothing is loaded yet.

        Args:
            model: Folder, Hugging Face id (`owner/model@revision`) or `smollm2-135m-instruct`.
            revision: Hub revision to pin.
            adapters: LoRA adapters by name: folder or Hugging Face id of each.
            device: `auto` (CUDA, then MPS, then CPU), or what torch calls it.
            dtype: `auto` (bfloat16 on CUDA, else float32), `float32`, `float16`, `bfloat16`, or, faster on CPUs,
                `bfloat16-mixed` (runs anywhere) or `int8` (CPUs only); see `simgym.engine.numerics`.
            max_batch_size: Requests that run at a time, >= 1.
            kv_cache_gib: Keys and values that are kept between calls, GiB, so that a conversation's next turn prefills
                only what is new; 0 keeps none; None: 2, on a GPU an eighth of the memory that is free once the model is
                loaded. If you change the weights of `model` yourself, call `clear_cache`.
            max_kv_gib: Keys and values of the requests that are running, GiB, on top of those; None: half of the memory
                that is free once the model is loaded. Requests wait for room, and one that does not fit even alone
                gives a `context_overflow` fault.
            context_length: Tokens of prompt and reply together; None: what the model's configuration says.
            chat_template: Jinja template to use instead of the tokenizer's own, or for a tokenizer that has none.
            chat_template_kwargs: Variables for the chat template, as models that reason have:
                `{"enable_thinking": False}`.
            date: What a chat template that asks for today's date is told (Llama 3.2, gpt-oss), e.g. `2024-07-26`; a
                fixed one, so that a run gives the same conversations tomorrow.
            trust_remote_code: Run code that comes with the weights. Off unless you ask for it.
            model_options: Further arguments of `from_pretrained`: `{"device_map": "auto"}` for a model over several
                GPUs (then `device` only decides the dtype), `attn_implementation` or `quantization_config`.
            cuda_graphs: On a CUDA device, record decoding passes and replay them (`simgym.engine.recorded_decoding`).

        Raises:
            MissingDependency: the extra `local` is not installed.
            ConfigurationError: a bound is out of range.
        """
        require_extra("local", f"The model {model!r}, which runs in this process,")
        if max_batch_size < 1:
            raise ConfigurationError(f"max_batch_size is {max_batch_size}, expected >= 1.")
        if kv_cache_gib is not None and not kv_cache_gib >= 0:
            raise ConfigurationError(f"kv_cache_gib is {kv_cache_gib}, expected >= 0.")
        if max_kv_gib is not None and not max_kv_gib > 0:
            raise ConfigurationError(f"max_kv_gib is {max_kv_gib}, expected > 0, or None for half of the free memory.")
        self.name = model
        self.revision = revision
        self.adapters = dict(adapters or {})
        self.device = device
        self.dtype = dtype
        self.max_batch_size = max_batch_size
        self.kv_cache_gib = kv_cache_gib
        self.max_kv_gib = max_kv_gib
        self.context_length = context_length
        self.chat_template = chat_template
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        self.date = check_date(date)
        self.trust_remote_code = trust_remote_code
        if taken := sorted(_OWN_OPTIONS & set(model_options or {})):
            raise ConfigurationError(f"model_options holds {taken[0]!r}, which is an argument of its own or fixed.")
        self.model_options = dict(model_options or {})
        self.cuda_graphs = cuda_graphs
        self.lock = threading.RLock()
        """Held during each forward pass. Never hold it while you call a method: another thread may lead the batch."""
        self._calls: set[object] = set()
        self._loaded: LoadedModel | None = None
        self._read_files: tuple[dict[str, str], str | None] | None = None
        renew_in_children(self)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "lock": None, "_calls": None, "_loaded": None, "_read_files": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, lock=threading.RLock(), _calls=set())
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """In a forked child: what another thread was in the middle of stays so, hence the model is loaded again."""
        if self._calls:
            self._loaded, self._calls, self.lock = None, set(), threading.RLock()

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """A call that a fork must not find half done."""
        call = object()
        self._calls.add(call)
        try:
            yield
        finally:
            self._calls.discard(call)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer; loads the model."""
        return self._ready().chat.tokenizer

    @property
    def model(self) -> PreTrainedModel:
        """The `PreTrainedModel` (a `PeftModel` round it once adapters are loaded); loads it."""
        return self._ready().engine.runner.lora_bank.model

    def check(self, purpose: Purpose = "chat", *, adapter: str | None = None) -> None:
        """Load the model; see `CheckableModel.check`."""
        self._ready()
        self._check_adapters([adapter])

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Answer N requests; see `LanguageModel.generate`.

        A prompt that leaves no room for `max_new_tokens` in the context gives a `context_overflow` fault.

        Raises:
            ConfigurationError: a request names an adapter that is not loaded, or the model has no chat template.
        """
        with self._in_use():
            return self._generate(requests)

    def _generate(self, requests: Sequence[Request]) -> list[Generation]:
        with self.lock:
            loaded = self._ready()
            self._check_adapters([request.adapter for request in requests])
            prompts = [loaded.chat.prompt(request) for request in requests]
            sequences = [
                loaded.sequence(request, loaded.chat.encode(prompt, request.adapter))
                for request, prompt in zip(requests, prompts, strict=True)
            ]
        # not under the lock, so that the requests of other threads join the batch
        completions = loaded.engine.generate(sequences)
        return [
            loaded.generation(request, prompt, sequence, completion)
            for request, prompt, sequence, completion in zip(requests, prompts, sequences, completions, strict=True)
        ]

    def loglikelihood(
        self, prompts: Sequence[str], continuations: Sequence[str], *, adapter: str | None = None
    ) -> list[Likelihood]:
        """Log-likelihood of each continuation after its prompt; see `LanguageModel.loglikelihood`.

        Prompt and continuation are tokenized together, as the model reads them; a token that stands in both counts
        towards the continuation. An empty prompt stands for the model's start token.
        """
        with self.lock:
            loaded = self._ready()
            self._check_adapters([adapter])
            pairs = loaded.chat.encode_pairs(prompts, continuations, adapter, longest=loaded.context_length)
            texts = [Scored(head, tail) for head, tail in pairs]
        with self._in_use():
            logprobs = loaded.engine.runner.loglikelihoods(texts, adapter)
        return [
            Likelihood(logprob, len(text.continuation), len(text.prompt))
            for logprob, text in zip(logprobs, texts, strict=True)
        ]

    def choose(self, requests: Sequence[Request], choices: Sequence[str]) -> list[tuple[float, ...]]:
        """Log-probability of each choice as a reply's first token; see `ChoosingModel.choose`. One forward pass."""
        with self.lock:
            loaded = self._ready()
            self._check_adapters([request.adapter for request in requests])
            greedy = SamplingParams(temperature=0.0, max_new_tokens=1)
            sequences = []
            for request in requests:
                prompt = loaded.chat.prompt(request)
                token_ids = loaded.chat.encode(prompt, request.adapter)
                sequence = loaded.sequence(replace(request, sampling=greedy, json_schema=None), token_ids)
                sequence.choices = loaded.chat.choices(prompt, choices, request.adapter)
                sequences.append(sequence)
        with self._in_use():
            return [completion.choice_logprobs for completion in loaded.engine.generate(sequences)]

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
            runner = loaded.engine.runner
            deepest = len(runner.decoder_layers())
            if not layers or not all(1 <= layer <= deepest for layer in layers):
                raise ConfigurationError(f"layers is {list(layers)}, expected numbers from 1 to {deepest}.")
            if empty := [index for index, text in enumerate(texts) if not text]:
                raise ConfigurationError(f"Text {empty[0]} is empty. There is nothing to read.")
            encoded = [loaded.encode_with_offsets(text) for text in texts]
        with self._in_use():
            states_N = runner.hidden_states([token_ids for token_ids, _ in encoded], list(layers))
        return [HiddenStates(states, offsets) for states, (_, offsets) in zip(states_N, encoded, strict=True)]

    def prompt_text(self, request: Request) -> str:
        """The exact text that `generate` reads for a request; what `loglikelihood` takes as a prompt."""
        with self.lock:
            self._check_adapters([request.adapter])
            return self._ready().chat.prompt(request)

    def load_adapter(self, name: str, path: str) -> None:
        """Add a LoRA adapter from a folder or hub id; usable as `Request(adapter=name)` from now on."""
        with self._in_use(), self.lock:
            self._ready().add_adapter(name, path)
            self.adapters[name] = path

    def clear_cache(self) -> None:
        """Drop the keys and values kept from earlier calls, as after a change of the weights."""
        if self._loaded is not None:
            self._loaded.engine.clear()

    @property
    def stats(self) -> EngineStats:
        """Tokens that went through the model in `generate` and `choose` so far; loads the model."""
        return self._ready().engine.stats

    def fingerprint(self) -> dict[str, object]:
        """Identifies weights and numerics without loading them; adapters identify themselves where they are used."""
        files, template = self._read_files or self._files()
        return {
            "kind": "transformers",
            "model": self.name,
            **files,
            "revision": self.revision,
            "dtype": self.dtype,
            "device": self.device,
            **prompt_fingerprint(template, self.chat_template_kwargs, self.date),
            **({"model_options": _plain(self.model_options)} if self.model_options else {}),
        }

    def _files(self) -> tuple[dict[str, str], str | None]:
        """Hashes of the model's files, and its chat template, as they are on disk now."""
        return local_files(self.name), self.chat_template or local_chat_template(self.name)

    def _check_adapters(self, names: Sequence[str | None]) -> None:
        for name in names:
            if name is not None and name not in self.adapters:
                raise not_loaded(name, self.adapters)

    def _ready(self) -> LoadedModel:
        settle_threads()
        check_fork(self.device)
        with self._in_use(), self.lock:
            if self._loaded is None:
                self._read_files = self._files()  # whatever becomes of the files, this is what is in memory
                self._loaded = LoadedModel(self)
            return self._loaded


def _plain(value: Any) -> Any:
    """An option as JSON: quantisation settings are objects, and so are torch's dtypes."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    return value if value is None or isinstance(value, str | int | float) else str(value)


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """What layers of a model make of one text."""

    states: npt.NDArray[np.float32]
    """Shape (K, L, D): K layers, L tokens, D hidden size."""
    offsets: npt.NDArray[np.int64]
    """Shape (L, 2): where each token begins and ends in the text, characters."""
