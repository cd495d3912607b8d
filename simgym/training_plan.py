"""What a training is about to do, said and judged before its first step.

    plan = plan_training(trainer, effective_batch=80)   # refuses what cannot be what the settings say
    print(plan.describe())

Three mistakes cost days and raise no error. Weights in bfloat16 with a small learning rate: a weight keeps 8 bits, a
step below half of the last one is rounded away, and the run trains nothing. An update that grew with the number of
processes. And a state (weights, gradients, AdamW's two moments) that does not fit the device, which shows when the
first step is taken, after all rollouts. The share of weights that a step can move is counted on the weights
themselves. Memory is an estimate: state is exact for AdamW, activations are an upper bound of their order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from simgym.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, Trainer, TrainingArguments

_SAMPLE = 4096
"""Weights of a tensor that are looked at."""
_FEWEST_MOVABLE = 0.5
"""Share of the trained weights that a step of the learning rate must be able to change."""
_BYTES_INSIDE = 34
"""Bytes that a layer keeps for its backward pass, per token and unit of hidden width, in 16 bits: Korthikanti et al.
2022 (arXiv 2205.05198), without attention scores, which fused attention does not store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Memory of one device, in GiB."""

    state_gib: float
    """Weights, gradients and the two moments of AdamW, and a frozen reference model's weights."""
    activation_gib: float
    """Activations (and logits) of one micro-batch of the longest examples; a rough upper estimate."""
    copy_gib: float = 0.0
    """A second copy of the weights, in the format of the matrix products, which writes the rollouts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """How a training will go, as far as it can be told without running it."""

    processes: int
    """Processes that share an update."""
    per_device_batch: int
    """Examples (rollouts in GRPO) of one micro-batch on one device."""
    accumulation: int
    """Micro-batches of an update on each device."""
    learning_rate: float
    """Highest one, before its schedule."""
    weights: str
    """Number format that the trained weights are kept in, e.g. `float32`."""
    computing: str
    """Number format of the matrix products."""
    parameters: int
    """Weights of the model."""
    trainable: int
    """Weights that are learned."""
    movable: float
    """Share of the trained weights that a step of the learning rate changes in their format, in [0, 1]."""
    sharding: str
    """How weights, gradients and optimizer are spread over the processes: `none`, `ZeRO-2`, `FSDP` and so on."""
    memory: MemoryEstimate
    """Of one device."""

    @property
    def effective_batch(self) -> int:
        """Examples of one update, all processes together."""
        return self.processes * self.per_device_batch * self.accumulation

    def describe(self) -> str:
        """A few lines for a person."""
        each = f"{self.processes} process(es) x {self.per_device_batch} x {self.accumulation} accumulated"
        copied = f", {self.memory.copy_gib:.1f} GiB a copy that writes the rollouts" if self.memory.copy_gib else ""
        moved = "" if self.movable == 1 else f"; a step can change {100 * self.movable:.1f} % of them"
        return "\n".join(
            (
                f"an update   {self.effective_batch} examples: {each}; learning rate {self.learning_rate:g}",
                f"weights     {self.parameters:,}, {self.trainable:,} of them trained, kept in {self.weights}{moved}; "
                f"computing in {self.computing}",
                f"memory      {self.memory.state_gib:.1f} GiB weights, gradients and optimizer on each device "
                f"(sharding: {self.sharding}){copied}, {self.memory.activation_gib:.1f} GiB activations of a "
                "micro-batch (upper estimate)",
            )
        )


def plan_training(
    trainer: Trainer,
    *,
    effective_batch: int | None = None,
    longest: int | None = None,
    generation: Literal["trl", "engine"] = "trl",
) -> TrainingPlan:
    """What a trainer of transformers or TRL is about to do.

    Args:
        trainer: Ready to start.
        effective_batch: Examples of an update that the settings promise; None: they promise none.
        longest: Tokens of the longest example; None: of the model's context.
        generation: Who writes rollouts, as in `make_rollout_func`.

    Raises:
        ConfigurationError: the update is not of this size, a step of the learning rate would be rounded away in most
            weights, or the state does not fit the device.
    """
    arguments = trainer.args
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    weights = _format(trained)
    computing = "bfloat16" if arguments.bf16 else "float16" if arguments.fp16 else weights
    sharding = _sharding(trainer)
    plan = TrainingPlan(
        processes=arguments.world_size,
        per_device_batch=arguments.per_device_train_batch_size,
        accumulation=arguments.gradient_accumulation_steps,
        learning_rate=arguments.learning_rate,
        weights=weights,
        computing=computing,
        parameters=sum(map(_size, trainer.model.parameters())),
        trainable=sum(map(_size, trained)),
        movable=1.0 if _keeps_float32(trainer) else movable_share(trained, arguments.learning_rate),
        sharding=sharding,
        memory=MemoryEstimate(
            state_gib=_state(trainer),
            activation_gib=_activations(trainer, computing, longest),
            copy_gib=_copy(trainer, computing) if generation == "engine" else 0.0,
        ),
    )
    check_plan(plan, effective_batch=effective_batch)
    if arguments.device.type == "cuda" and not sharding.startswith("ZeRO"):  # ZeRO may keep its state in main memory
        check_memory(plan, _device_gib(arguments))
    return plan


def check_plan(plan: TrainingPlan, *, effective_batch: int | None = None) -> None:
    """Refuse an update of another size than was promised, and a learning rate that is rounded away.

    Raises:
        ConfigurationError: so it is.
    """
    if effective_batch is not None and plan.effective_batch != effective_batch:
        raise ConfigurationError(
            f"An update has {plan.effective_batch} examples ({plan.processes} process(es) x "
            f"per_device_train_batch_size {plan.per_device_batch} x gradient_accumulation_steps {plan.accumulation}), "
            f"and effective_batch is {effective_batch}. Start with torchrun or accelerate launch, and leave "
            "gradient_accumulation_steps out."
        )
    if plan.movable < _FEWEST_MOVABLE:
        raise ConfigurationError(
            f"The trained weights are kept in {plan.weights} and the learning rate is {plan.learning_rate:g}: a step "
            f"of that size changes {100 * plan.movable:.2f} % of them, all others are rounded back to where they were. "
            "Set dtype: float32 and bf16: true (weights in float32, computing in bfloat16), shard over more devices "
            "if they do not fit (FSDP, ZeRO), or train an adapter (use_peft: true)."
        )


def check_memory(plan: TrainingPlan, device_gib: float) -> None:
    """Refuse a state that is larger than what a device has for it.

    Raises:
        ConfigurationError: so it is.
    """
    copied = ", optimizer and the copy that writes the rollouts" if plan.memory.copy_gib else " and optimizer"
    if (needed := plan.memory.state_gib + plan.memory.copy_gib) > device_gib:
        raise ConfigurationError(
            f"Weights, gradients{copied} need {needed:.1f} GiB on each device, which has "
            f"{device_gib:.1f} GiB for them (sharding: {plan.sharding}). Spread them over several devices "
            "(accelerate launch --use_deepspeed --zero_stage 2, or --use_fsdp), train an adapter (use_peft: true), or "
            "lower vllm_gpu_memory_utilization."
        )


def movable_share(parameters: Iterable[Tensor], step: float) -> float:
    """The share of weights that change when `step` is added or subtracted, in their own number format.

    AdamW's steps are about as large as the learning rate, or smaller. At most 4,096 weights of a tensor are looked at,
    evenly spaced; no parameters: 1.
    """
    changed, counted = 0.0, 0
    for parameter in parameters:
        size = parameter.numel()
        if not size:
            continue
        sample = parameter.detach().reshape(-1)[:: max(1, size // _SAMPLE)]
        moved = (sample + step != sample) | (sample - step != sample)
        changed += float(moved.float().mean()) * size
        counted += size
    return changed / counted if counted else 1.0


def estimate_state(
    *,
    frozen_bytes: float,
    trainable: float,
    width: float,
    reference_bytes: float = 0.0,
    shards: int = 1,
    stage: int = 0,
) -> float:
    """GiB of weights, gradients and AdamW's two moments on one device.

    Args:
        frozen_bytes: Of weights that are not learned.
        trainable: Number of weights that are.
        width: Bytes of each.
        reference_bytes: Of a frozen reference model.
        shards: Devices that share what is sharded.
        stage: What is: from 1 on the moments, from 2 on the gradients, from 3 on the weights (ZeRO's numbers).
    """
    weights = (frozen_bytes + reference_bytes + trainable * width) / (shards if stage >= 3 else 1)
    gradients = trainable * width / (shards if stage >= 2 else 1)
    moments = 2 * trainable * width / (shards if stage >= 1 else 1)
    return (weights + gradients + moments) / 2**30


def estimate_activations(
    shape: PretrainedConfig, *, tokens: int, width: int, checkpointing: bool, logits: bool = False
) -> float:
    """GiB of the activations of one micro-batch; an upper estimate.

    Args:
        shape: The text model's configuration.
        tokens: Of the micro-batch, padding included.
        width: Bytes of a number.
        checkpointing: One hidden state of each layer and the inside of one layer; else the inside of every layer.
        logits: Add a float32 copy of the logits and its gradient, where the loss does not fuse them.
    """
    inside = _BYTES_INSIDE * shape.hidden_size * tokens * width / 2
    layers = shape.num_hidden_layers
    kept = layers * shape.hidden_size * tokens * width + inside if checkpointing else layers * inside
    return float(kept + (2 * 4 * shape.vocab_size * tokens if logits else 0)) / 2**30


def _state(trainer: Trainer) -> float:
    parameters = list(trainer.model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    trainable_bytes = sum(map(_bytes, trained))
    trainable = sum(map(_size, trained))
    reference = getattr(trainer, "ref_model", None)
    sharding = _sharding(trainer)
    return estimate_state(
        frozen_bytes=sum(map(_bytes, parameters)) - trainable_bytes,
        trainable=trainable,
        width=trainable_bytes / max(1, trainable),
        reference_bytes=sum(map(_bytes, reference.parameters())) if reference is not None else 0,
        shards=trainer.args.world_size,
        stage=3 if sharding == "FSDP" else int(sharding.removeprefix("ZeRO-")) if sharding != "none" else 0,
    )


def _copy(trainer: Trainer, computing: str) -> float:
    """GiB of the weights that `PolicyEngine` keeps in the format of the matrix products; others are shared."""
    width = 4 if computing == "float32" else 2
    kept = [parameter for parameter in trainer.model.parameters() if parameter.element_size() != width]
    return sum(map(_size, kept)) * width / 2**30


def _activations(trainer: Trainer, computing: str, longest: int | None) -> float:
    shape = trainer.model.config.get_text_config()
    context = longest or getattr(shape, "max_position_embeddings", None) or 0
    return estimate_activations(
        shape,
        tokens=trainer.args.per_device_train_batch_size * context,
        width=4 if computing == "float32" else 2,
        checkpointing=trainer.args.gradient_checkpointing,
    )


def _sharding(trainer: Trainer) -> str:
    if getattr(trainer, "is_deepspeed_enabled", False):
        return f"ZeRO-{trainer.accelerator.state.deepspeed_plugin.zero_stage}"
    return "FSDP" if getattr(trainer, "is_fsdp_enabled", False) else "none"


def _keeps_float32(trainer: Trainer) -> bool:
    """DeepSpeed keeps float32 weights beside 16-bit ones; accelerate raises FSDP's to float32 in mixed precision."""
    mixed = trainer.args.bf16 or trainer.args.fp16
    return bool(getattr(trainer, "is_deepspeed_enabled", False) or (mixed and _sharding(trainer) == "FSDP"))


def _bytes(parameter: Tensor) -> int:
    return _size(parameter) * int(parameter.element_size())


def _size(parameter: Tensor) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))  # ZeRO-3 leaves an empty tensor behind


def _format(parameters: list[Tensor]) -> str:
    return ", ".join(sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters}))


def _device_gib(arguments: TrainingArguments) -> float:
    """What the device has for a training; vLLM in the same process takes its share."""
    import torch

    total = torch.cuda.get_device_properties(arguments.device).total_memory / 2**30
    if getattr(arguments, "use_vllm", False) and arguments.vllm_mode == "colocate":
        return float(total * (1 - arguments.vllm_gpu_memory_utilization))
    return float(total)
