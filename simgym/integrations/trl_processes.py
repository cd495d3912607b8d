"""The processes of a TRL training: what each tells all others, who opens which conversation, and how long it may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from simgym.extras import optional_import
from simgym.seeding import derive_seed
from simgym.simulation import Dialogue, Simulation

if TYPE_CHECKING:
    from trl import GRPOTrainer

Value = TypeVar("Value")


def gathered(value: Value, trainer: GRPOTrainer) -> list[Value]:
    """What every process says, in their order; all of them have to ask."""
    if trainer.accelerator.num_processes == 1:
        return [value]
    return list(optional_import("accelerate.utils", "train").gather_object([value]))


def open_once(
    simulation: Simulation, ids: Sequence[str], trainer: GRPOTrainer, *, seed: int, step: int | str
) -> dict[str, Dialogue]:
    """The opening of every scenario by its id; of one that several processes play, that of the first of them.

    A group may span processes, and a served user, or one in bfloat16, need not open alike twice.
    """
    first: dict[str, int] = {}
    for process, theirs in enumerate(gathered(list(ids), trainer)):
        for scenario_id in theirs:
            first.setdefault(scenario_id, process)
    ours = [scenario_id for scenario_id, process in first.items() if process == trainer.accelerator.process_index]
    seeds = [derive_seed(seed, "grpo", step, scenario_id) for scenario_id in ours]
    dialogues = simulation.open(seeds, ours) if ours else []
    opened = gathered(dict(zip(ours, dialogues, strict=True)), trainer)
    return {scenario_id: dialogue for theirs in opened for scenario_id, dialogue in theirs.items()}


def context_length(trainer: GRPOTrainer) -> int | None:
    """Tokens that a conversation may have: what the model takes, and vLLM's own limit if it is lower."""
    limits = [getattr(trainer.model.config, "max_position_embeddings", None)]
    if trainer.use_vllm:
        limits.append(trainer.args.vllm_max_model_length)
        # one process alone talks to a server
        client = getattr(trainer.vllm_generation, "vllm_client", None)
        limits += gathered(client.get_server_info()["model_config"]["max_model_len"] if client else None, trainer)
    return min((limit for limit in limits if limit is not None), default=None)
