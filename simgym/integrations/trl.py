"""GRPO over whole conversations: a `rollout_func` for TRL's `GRPOTrainer` that steps all conversations together.

    trainer = GRPOTrainer(
        model, judge_reward, args=config,
        train_dataset=scenario_dataset(scenarios),
        rollout_func=make_rollout_func("UserSim-FineTuned-v0", scenarios=scenarios, max_turns=3),
    )
    trainer.add_callback(training_records(trainer, "Qwen/Qwen2.5-3B-Instruct"))

A prompt is the id of a scenario. The rollouts of a group meet the same user: they share scenario, persona, opening and
all randomness of the user's side, so that they differ by what the policy says alone. The user speaks in the template's
own *user* role. What is trained on is what was sampled: token ids come from the generation, a later prompt is the
earlier tokens with the user's turn behind them, and nothing is decoded and tokenized again; tokens that the policy did
not write have 0 in `env_mask`. A rollout without a judgement has the reward None, which TRL leaves out of the group's
mean and gives no advantage; `Rollouts.faults` counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from simgym.assistants.training_record import TrainingRecord
from simgym.conversation import Scenario
from simgym.envs.outages import WAITS
from simgym.envs.unwrapping import simulation_of
from simgym.errors import ConfigurationError
from simgym.extras import require_package
from simgym.integrations.trl_rollouts import Rollouts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from trl import GRPOTrainer


def make_rollout_func(
    env_id: str,
    *,
    scenarios: Sequence[Scenario],
    seed: int = 0,
    system_prompt: str | None = None,
    waits: Sequence[float] = WAITS,
    generation: Literal["trl", "engine"] = "trl",
    **settings: Any,
) -> Rollouts:
    """A `rollout_func` for TRL's `GRPOTrainer`.

    Args:
        env_id: Who plays the user, `UserSim-...`.
        scenarios: Those of the training and the evaluation dataset together.
        seed: Decides all randomness of the users, together with the trainer's step; in evaluation the step does not
            count, so that every evaluation meets the same users. The policy's own sampling follows TRL's seed.
        system_prompt: Of the policy; None: what its chat template does without one.
        waits: Seconds before each new attempt when servers do not answer.
        generation: Who writes the policy's turns: `trl` (its `generate`, or vLLM), or `engine`, simgym's own on the
            same weights; see `simgym.language_models.policy_engine`.
        settings: Arguments of the environment: `judge`, `max_turns`, `model` (of the user), and so on.

    Raises:
        MissingDependency: TRL is absent, or of a version whose trainer calls rollout functions otherwise.
        ConfigurationError: `env_id` is no simgym environment, or an argument is wrong.
    """
    import gymnasium

    require_package("trl", "train", "A rollout function")
    simulation = simulation_of(gymnasium.make(env_id, scenarios=list(scenarios), **settings))
    return Rollouts(
        simulation, env_id=env_id, seed=seed, system_prompt=system_prompt, waits=waits, generation=generation
    )


def training_record(trainer: GRPOTrainer, base_model: str | Mapping[str, Any]) -> TrainingRecord:
    """What the policy has been trained with so far.

    Args:
        trainer: A `GRPOTrainer` whose `rollout_func` is of `make_rollout_func`.
        base_model: The model it began as: a name or settings, as `ModelSpec` reads them.

    Raises:
        ConfigurationError: the trainer has another rollout function.
    """
    rollouts = trainer.rollout_func
    if not isinstance(rollouts, Rollouts):
        raise ConfigurationError(
            f"The trainer's rollout_func is a {type(rollouts).__name__}, expected that of make_rollout_func."
        )
    return TrainingRecord(
        method="grpo",
        env_id=rollouts.env_id,
        base_model=base_model,
        seed=rollouts.seed,
        steps=trainer.state.global_step,
        max_turns=rollouts.simulation.max_turns,
        simulator=rollouts.simulation.simulator.fingerprint(),
        judge=rollouts.simulation.judge.fingerprint(),
        system_prompt=rollouts.system_prompt,
    )


def training_records(trainer: GRPOTrainer, base_model: str | Mapping[str, object]) -> TrainerCallback:
    """A callback for `add_callback` that writes the record of the training beside every checkpoint; see
    `training_record`."""
    from transformers import TrainerCallback

    class Records(TrainerCallback):  # type: ignore[misc]
        def on_save(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
        ) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if state.is_world_process_zero and folder.is_dir():
                training_record(trainer, base_model).save(folder)

    return Records()


def scenario_dataset(scenarios: Sequence[Scenario]) -> Dataset:
    """A `datasets.Dataset` whose prompts are scenario ids, for `train_dataset` and `eval_dataset`."""
    from datasets import Dataset

    return Dataset.from_list([{"prompt": [{"role": "user", "content": scenario.id}]} for scenario in scenarios])


def judge_reward(judge_reward: Sequence[float | None], **columns: Any) -> list[float | None]:
    """TRL's reward function: what the judge said; None where there is no judgement."""
    log: Callable[[str, float], None] | None = columns.get("log_metric")
    if log is not None and judge_reward:
        log("simgym/unjudged", sum(reward is None for reward in judge_reward) / len(judge_reward))
        turns = columns.get("turns") or [0]
        log("simgym/turns", sum(turns) / len(turns))
    return list(judge_reward)
