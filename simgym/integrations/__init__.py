"""Thin shells that plug the environments into training libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simgym._exports import lazy_exports

if TYPE_CHECKING:
    from simgym.envs.features import ConversationFeatures, DiscreteReplies, EmbeddingObservation, Projection
    from simgym.integrations._batches import batch_flags
    from simgym.integrations._recipe_runs import RecipeRun, run_recipes
    from simgym.integrations._recipes import as_mapping, as_model, device_flags, last_complete_checkpoint, run_script
    from simgym.integrations.candidate_policy import CandidatePolicy
    from simgym.integrations.policy_assistant import PolicyAssistant
    from simgym.integrations.policy_files import load_policy
    from simgym.integrations.stable_baselines3 import TextVecEnv
    from simgym.integrations.trl import (
        judge_reward,
        make_rollout_func,
        scenario_dataset,
        training_record,
        training_records,
    )
    from simgym.integrations.trl_async import SimulatedUserWorker
    from simgym.training_plan import TrainingPlan, plan_training

__all__ = [
    # TRL
    "make_rollout_func",
    "scenario_dataset",
    "judge_reward",
    "training_record",
    "training_records",
    "SimulatedUserWorker",
    # numbers instead of texts, for any library
    "ConversationFeatures",
    "DiscreteReplies",
    "EmbeddingObservation",
    "Projection",
    # stable-baselines3
    "TextVecEnv",
    "PolicyAssistant",
    "load_policy",
    "CandidatePolicy",
    # recipes
    "as_mapping",
    "as_model",
    "device_flags",
    "last_complete_checkpoint",
    "run_script",
    "batch_flags",
    "plan_training",
    "TrainingPlan",
    "RecipeRun",
    "run_recipes",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "_batches": ("batch_flags",),
        "candidate_policy": ("CandidatePolicy",),
        "simgym.envs.features": ("ConversationFeatures", "DiscreteReplies", "EmbeddingObservation", "Projection"),
        "_recipe_runs": ("RecipeRun", "run_recipes"),
        "_recipes": ("as_mapping", "as_model", "device_flags", "last_complete_checkpoint", "run_script"),
        "policy_assistant": ("PolicyAssistant",),
        "policy_files": ("load_policy",),
        "stable_baselines3": ("TextVecEnv",),
        "trl": ("make_rollout_func", "scenario_dataset", "judge_reward", "training_record", "training_records"),
        "trl_async": ("SimulatedUserWorker",),
        "simgym.training_plan": ("TrainingPlan", "plan_training"),
    },
)
