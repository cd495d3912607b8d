"""A `VllmLM` once its weights are in memory: vLLM's engine, and the tokenizer's side of it (`_chat_tokens`).

Requests become vLLM's sampling settings, and its outputs become generations. `VllmLM` describes the model and is what
callers see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from simgym.errors import ConfigurationError, WeightsError
from simgym.language_models._chat_tokens import ChatTokens, Drawn, failed, overflow
from simgym.language_models._vllm_engine import refusals, start_engine
from simgym.language_models.adapters import adapter_folder, not_loaded, read_adapter
from simgym.language_models.base import Generation, Request
from simgym.language_models.pretrained import shortened
from simgym.language_models.weights import Weights, resolve_weights
from simgym.seeding import derive_seed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from vllm import SamplingParams as VllmSampling
    from vllm.lora.request import LoRARequest
    from vllm.outputs import RequestOutput

    from simgym.language_models.vllm_lm import VllmLM

RANKS = (8, 16, 32, 64, 128, 256, 512)
"""Ranks that vLLM has room for adapters of."""
_ADAPTERS_AT_ONCE = (4, 16)
"""Bounds of the adapters that take part in one batch."""


class LoadedVllm:
    """vLLM's engine with the weights in memory, and the tokenizer's side of it."""

    def __init__(self, options: VllmLM) -> None:
        weights = resolve_weights(options.name, revision=options.revision)
        tokenizer, end_tokens = _read_tokenizer(options, weights)
        self.chat = ChatTokens(
            tokenizer,
            end_tokens=end_tokens,
            chat_template=options.chat_template,
            variables=options.chat_template_kwargs,
            date=options.date,
        )
        self._name = options.name
        self._rank = room_for_adapters(options)
        self._adapters: dict[str, LoRARequest] = {}
        self.engine = start_engine(options.name, _settings(options, weights, self._rank))
        self.context_length = self.engine.context_length
        for name, path in options.adapters.items():
            self.add_adapter(name, path)

    def lora(self, adapter: str | None) -> LoRARequest | None:
        """vLLM's `LoRARequest` of an adapter, None for the base model."""
        if adapter is None:
            return None
        if adapter not in self._adapters:
            raise not_loaded(adapter, self._adapters)
        return self._adapters[adapter]

    def add_adapter(self, name: str, path: str) -> None:
        """Put an adapter into vLLM; see `VllmLM.load_adapter`."""
        from vllm.lora.request import LoRARequest

        rank = _rank(path)
        if rank > self._rank:
            raise ConfigurationError(
                f"The model {self._name!r} is loaded with room for adapters of rank {self._rank} at most, and {path} "
                f"has rank {rank}. Name it in adapters=, or give max_lora_rank={rank}, before the model is used."
            )
        request = LoRARequest(name, len(self._adapters) + 1, str(adapter_folder(path).resolve()))
        try:
            self.engine.call(lambda engine: engine.add_lora(request))
        except Exception as error:  # vLLM raises what it likes
            raise WeightsError(f"vLLM cannot load the adapter {path}: {shortened(error)}") from error
        self._adapters[name] = request

    @property
    def has_adapters(self) -> bool:
        """Whether the model was loaded with room for adapters."""
        return self._rank > 0

    def score(self, pairs: Sequence[tuple[list[int], list[int]]], lora: LoRARequest | None) -> list[float]:
        """Log-probability of each second part behind the first, from one pass over both."""
        from vllm import SamplingParams

        reading = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        outputs = self.engine.generate([([*head, *tail], reading, lora) for head, tail in pairs])
        totals = []
        for (head, tail), output in zip(pairs, outputs, strict=True):
            read = output.prompt_logprobs[len(head) :]
            totals.append(float(sum(entry[token].logprob for entry, token in zip(read, tail, strict=True))))
        return totals

    def score_by_token(self, pairs: Sequence[tuple[list[int], list[int]]], lora: LoRARequest | None) -> list[float]:
        """The same, one request a token, which the prefix cache makes bearable.

        vLLM 0.32 loses count of the rows of a prompt's log-probabilities where its output layer may have an adapter.
        """
        from vllm import SamplingParams

        asked = []
        for head, tail in pairs:
            for place, token in enumerate(tail):
                params = SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=[token], detokenize=False)
                asked.append(([*head, *tail[:place]], params, lora))
        outputs = iter(self.engine.generate(asked))
        return [float(sum(next(outputs).outputs[0].logprobs[0][token].logprob for token in tail)) for _, tail in pairs]

    def params(self, request: Request) -> VllmSampling:
        """vLLM's settings for a request.

        Raises:
            ConfigurationError: vLLM does not take them, such as a temperature above 2.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        sampling, stop_texts, schema = request.sampling, self.chat.stop_texts(request), request.json_schema
        ends = self.chat.stop_token_ids(request.next_role, request.adapter)
        try:
            return SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                seed=derive_seed(request.seed),
                logprobs=0,  # of the token that was drawn
                ignore_eos=True,  # which tokens end a turn depends on the role, so all of them are named
                stop_token_ids=sorted(ends),
                stop=list(stop_texts),
                detokenize=bool(stop_texts),
                structured_outputs=None if schema is None else StructuredOutputsParams(json=dict(schema)),
            )
        except refusals() as error:
            raise ConfigurationError(f"vLLM refuses a request's settings: {shortened(error)}") from error

    def generation(
        self, request: Request, prompt: str, prompt_ids: Sequence[int], output: RequestOutput | None
    ) -> Generation:
        """vLLM's output as text; without one, the fault of a request that does not fit."""
        if output is None:
            bound = request.sampling.max_new_tokens
            problem = f"{len(prompt_ids)} prompt tokens and {bound} new ones exceed the context of "
            return overflow(prompt, prompt_ids, f"{problem}{self.context_length}")
        (completion,) = output.outputs
        if completion.finish_reason not in ("stop", "length"):
            return failed(prompt, prompt_ids, f"server: vLLM gave the request up ({completion.finish_reason}).")
        token_ids = tuple(int(token) for token in completion.token_ids)
        logprobs = tuple(
            float(entry[token].logprob) for entry, token in zip(completion.logprobs, token_ids, strict=True)
        )
        return self.chat.generation(request, prompt, prompt_ids, Drawn(token_ids, logprobs, completion.finish_reason))


def _read_tokenizer(options: VllmLM, weights: Weights) -> tuple[PreTrainedTokenizerBase, list[int | None]]:
    """The tokenizer, and the tokens that the generation settings end a reply with."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    common: dict[str, object] = {"revision": weights.revision, "trust_remote_code": options.trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(weights.path, **common)
        try:
            settings = GenerationConfig.from_pretrained(weights.path, revision=weights.revision)
        except OSError:  # there is no such file
            settings = AutoConfig.from_pretrained(weights.path, **common).get_text_config()
    except Exception as error:  # a checkpoint is whatever its author wrote
        raise WeightsError(f"Cannot load the tokenizer of {options.name!r}: {shortened(error)}") from error
    ends = settings.eos_token_id
    return tokenizer, list(ends) if isinstance(ends, list) else [ends]


def room_for_adapters(options: VllmLM) -> int:
    """Rank of adapters that the model is loaded with room for; 0: none."""
    ranks = [_rank(path) for path in options.adapters.values()]
    wanted = max([options.max_lora_rank or 0, *ranks])
    if not wanted:
        return 0
    if wanted > RANKS[-1]:
        raise ConfigurationError(f"An adapter has rank {wanted}, and vLLM takes {RANKS[-1]} at most. Merge it.")
    return next(rank for rank in RANKS if rank >= wanted)


def _rank(path: str) -> int:
    """Rank of an adapter that vLLM can put beside others.

    Raises:
        WeightsError: it cannot be read, cannot share a base model, or adds tokens.
    """
    adapter = read_adapter(path)
    if adapter.tokens:
        raise WeightsError(
            f"The adapter {path} adds the tokens {', '.join(adapter.tokens)}, for which vLLM has no rows. Merge it "
            "with merge_and_unload and give the merged folder as model=, or run it without vLLM."
        )
    config = adapter.lora.config
    return max(int(rank) for rank in (config.r, *(config.rank_pattern or {}).values()))


def _settings(options: VllmLM, weights: Weights, rank: int) -> dict[str, object]:
    """Arguments of `vllm.LLM`."""
    from vllm.platforms import current_platform

    dtype = options.dtype
    if dtype == "auto":
        dtype = "float32" if current_platform.is_cpu() else "bfloat16"
    settings: dict[str, object] = {
        "model": weights.path,
        "revision": weights.revision,
        "dtype": dtype,
        "trust_remote_code": options.trust_remote_code,
        "max_num_seqs": options.max_batch_size,
        "max_model_len": options.context_length,
        "logprobs_mode": "raw_logprobs",  # of the untempered model
        # white space between JSON tokens is fixed, so that a reply cannot idle in blanks
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "use_tqdm_on_load": False,
        **options.engine_options,
    }
    if options.kv_cache_gib is not None:
        settings["kv_cache_memory_bytes"] = round(options.kv_cache_gib * 2**30)
    if rank:
        least, most = _ADAPTERS_AT_ONCE
        at_once = min(most, max(least, len(options.adapters)))
        settings |= {"enable_lora": True, "max_lora_rank": rank, "max_loras": at_once}
    return settings
