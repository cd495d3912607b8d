"""The record of a training over a simulation, whoever trains."""

from __future__ import annotations

from collections.abc import Mapping

from simgym.assistants.training_record import TrainingRecord
from simgym.simulation import Simulation


def record_of(
    simulation: Simulation,
    *,
    method: str,
    env_id: str,
    base_model: str | Mapping[str, object],
    seed: int,
    steps: int,
    system_prompt: str | None = None,
) -> TrainingRecord:
    """What a policy is trained with; arguments as in `TrainingRecord`."""
    return TrainingRecord(
        method=method,
        env_id=env_id,
        base_model=base_model,
        seed=seed,
        steps=steps,
        max_turns=simulation.max_turns,
        simulator=simulation.simulator.fingerprint(),
        judge=simulation.judge.fingerprint(),
        system_prompt=system_prompt,
    )
