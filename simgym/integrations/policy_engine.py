"""The policy's replies by simgym's engine, on the weights that TRL is training, instead of transformers' `generate`.

`generate` reads each conversation anew at every turn, decodes eagerly and waits for the longest reply. The engine keeps
what it has read within a rollout, lets finished conversations leave the batch, and on a GPU replays recorded decoding
passes (unless TRL trains under autocast). A policy with a LoRA adapter needs no merging, and no weights are copied:
both read the same tensors. What each conversation draws depends on the trainer's seed, its step and the conversation's
place alone.

Not for vLLM, weights that are divided among processes (FSDP, DeepSpeed ZeRO-3), or sampling that the engine does not
have; `check` says so before the training starts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from simgym.errors import ConfigurationError
from simgym.seeding import derive_seed

_MOST_SEQUENCES = 256
_PLAIN: dict[str, tuple[Any, ...]] = {
    "top_k": (0, None),
    "min_p": (0, None),
    "repetition_penalty": (1, None),
    "generation_kwargs": (None, {}),
}
"""Settings of TRL's sampling that the engine does not have, and the values that stand for not using them."""


class PolicyEngine:
    """Writes turns of a policy that is being trained."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._engine: Any = None

    def check(self, trainer: Any) -> None:
        """Refuse what the engine cannot do.

        Raises:
            ConfigurationError: in a sentence that says what, and what to set instead.
        """
        from simgym.engine import UnsupportedModel, check_supported

        advice = 'Set generation="trl".'
        if trainer.use_vllm:
            raise ConfigurationError(f"The engine does not generate where use_vllm is set. {advice}")
        accelerator = trainer.accelerator
        if getattr(accelerator.state, "fsdp_plugin", None) or getattr(accelerator.state, "deepspeed_plugin", None):
            raise ConfigurationError(f"The engine needs whole weights in each process, not FSDP or DeepSpeed. {advice}")
        for name, unused in _PLAIN.items():
            if (value := getattr(trainer.args, name, None)) not in unused:
                raise ConfigurationError(
                    f"The engine does not know {name}, which is {value}. Leave it out, or set generation to trl."
                )
        try:
            policy = self._policy(trainer)
            plain = policy.get_base_model() if hasattr(policy, "peft_config") else policy
            check_supported(plain.config, type(plain))
        except UnsupportedModel as error:
            raise ConfigurationError(f"{error} {advice}") from error

    @contextlib.contextmanager
    def rollout(self, trainer: Any) -> Iterator[None]:
        """Around all turns between two changes of the weights: what was read is kept within, and dropped behind."""
        model = self._policy(trainer)
        if self._engine is None:
            self.check(trainer)
            self._engine = self._make(trainer, model)
        training = model.training
        model.eval()
        try:
            yield
        finally:
            model.train(training)
            self._engine.forget()

    def generate(
        self, prompt_ids: Sequence[list[int]], places: Sequence[int], step: int | str, trainer: Any
    ) -> list[list[int]]:
        """One turn of N conversations, the token that ends it included.

        Args:
            prompt_ids: N prompts.
            places: Which conversation of the batch each is; with step and length they decide what is drawn.
            step: Of the training; evaluations have a name instead.
            trainer: Says how to sample.
        """
        from simgym.engine import Sequence as EngineSequence

        settings, process = trainer.generation_config, trainer.accelerator.process_index
        ends = settings.eos_token_id
        asked = [
            EngineSequence(
                prompt=list(ids),
                seed=derive_seed(self.seed, "policy", step, process, place, len(ids)),
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_new_tokens=settings.max_new_tokens,
                stop_token_ids=frozenset(ends if isinstance(ends, list) else [ends]),
            )
            for ids, place in zip(prompt_ids, places, strict=True)
        ]
        completions = self._engine.generate(asked)
        for completion in completions:
            if completion.error is not None:
                raise completion.error
        return [list(completion.token_ids) for completion in completions]

    def _make(self, trainer: Any, model: Any) -> Any:
        from simgym.engine import Engine, EngineConfig

        tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
        autocast = trainer.accelerator.mixed_precision in ("bf16", "fp16")  # whose casts a recording would repeat
        bounds = EngineConfig(
            max_sequences=_MOST_SEQUENCES, pad_token_id=tokenizer.pad_token_id or 0, cuda_graphs=not autocast
        )
        return Engine(model, tokenizer, bounds)

    def _policy(self, trainer: Any) -> Any:
        return trainer.accelerator.unwrap_model(trainer.model)
