"""The policy's replies by simgym's engine, on the weights that TRL is training, instead of transformers' `generate`.

`generate` reads each conversation anew at every turn, decodes eagerly and waits for the longest reply. The engine keeps
what it has read within a rollout, lets finished conversations leave the batch, and on a GPU replays recorded decoding
passes. A policy with a LoRA adapter needs no merging. What each conversation draws depends on the trainer's seed, its
step and the conversation's place alone.

Weights of the dtype that is computed in are read where the trainer has them. Under mixed precision (`bf16: true` and
float32 weights) the engine reads a copy in the lower one, two bytes a parameter, that takes over the policy's weights
before each rollout: autocast would cast all weights anew at every token, and nothing could be recorded.

With several processes each has an engine for its own conversations; they wait for each other at every turn, since
faults and openings are shared. Not for vLLM, weights that are divided among processes (FSDP, DeepSpeed ZeRO-3), or
sampling that the engine does not have; `check` says so before the training starts.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from simgym.errors import ConfigurationError
from simgym.seeding import derive_seed

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from trl import GRPOTrainer

    from simgym.engine import Engine

_MOST_SEQUENCES = 256
_PLAIN: dict[str, tuple[object, ...]] = {
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
        self._copy: PreTrainedModel | None = None

    def check(self, trainer: GRPOTrainer) -> None:
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
    def rollout(self, trainer: GRPOTrainer) -> Iterator[None]:
        """Around all turns between two changes of the weights: what was read is kept within, and dropped behind."""
        policy = self._policy(trainer)
        if self._engine is None:
            self.check(trainer)
            self._copy = _rounded_copy(policy, _computed_in(trainer))
            self._engine = self._make(trainer, policy if self._copy is None else self._copy)
        if self._copy is not None:
            _take_over(self._copy, policy)
        training = policy.training
        policy.eval()
        try:
            with _own_forward(policy):
                yield
        finally:
            policy.train(training)
            self._engine.forget()

    def generate(
        self, prompt_ids: Sequence[list[int]], places: Sequence[int], step: int | str, trainer: GRPOTrainer
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

    def _make(self, trainer: GRPOTrainer, model: PreTrainedModel) -> Engine:
        from simgym.engine import Engine, EngineConfig

        tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
        bounds = EngineConfig(
            max_sequences=_MOST_SEQUENCES,
            pad_token_id=tokenizer.pad_token_id or 0,
            openvino=False,  # its copy of the weights would be compiled anew at each step
        )
        return Engine(model, tokenizer, bounds)

    def _policy(self, trainer: GRPOTrainer) -> PreTrainedModel:
        return trainer.accelerator.unwrap_model(trainer.model)


def _computed_in(trainer: GRPOTrainer) -> torch.dtype | None:
    """The dtype that mixed precision computes in, None without it."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(trainer.accelerator.mixed_precision)


def _rounded_copy(policy: PreTrainedModel, dtype: torch.dtype | None) -> PreTrainedModel | None:
    """A copy of the policy with its weights in another dtype; None where they have it already.

    Buffers stay as they are: rotary frequencies in half precision would be wrong ones.
    """
    import torch

    parameters = [parameter for parameter in policy.parameters() if parameter.is_floating_point()]
    if dtype is None or all(parameter.dtype == dtype for parameter in parameters):
        return None
    rounded = {
        id(parameter): parameter  # of a frozen base, shared
        if parameter.dtype == dtype
        else torch.nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
        for parameter in parameters
    }
    clone = copy.deepcopy(policy, rounded)  # takes these for the parameters, so nothing is copied at full precision
    for module in clone.modules():  # accelerate and TRL have wrapped some: those run the policy's own, not the copy's
        for name in ("forward", "_original_forward"):
            module.__dict__.pop(name, None)
    clone.eval()
    return clone


def _take_over(clone: PreTrainedModel, policy: PreTrainedModel) -> None:
    """Give the copy the policy's weights of this moment, in place: recorded passes read them where they are."""
    import torch

    with torch.no_grad():
        for ours, theirs in zip(clone.parameters(), policy.parameters(), strict=True):
            if ours is not theirs:
                ours.copy_(theirs)


@contextlib.contextmanager
def _own_forward(policy: PreTrainedModel) -> Iterator[None]:
    """Within it, the policy's forward pass is the model's own, not accelerate's, which turns autocast on."""
    wrapped = policy.__dict__.pop("forward", None) if hasattr(policy, "_original_forward") else None
    try:
        yield
    finally:
        if wrapped is not None:
            policy.forward = wrapped
