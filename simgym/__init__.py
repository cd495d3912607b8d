"""User simulators as Gymnasium environments.

    import gymnasium as gym
    import simgym  # registers the environments

    env = gym.make("UserSim-RolePlay-v0", max_turns=2)
    observation, info = env.reset(seed=7)
    observation, reward, terminated, truncated, info = env.step("What is it about?")

The main names are here; each sub-package (`simgym.simulators`, `simgym.judges`, ...) exports its own. Importing simgym
is light: what a name needs is imported when the name is first used, torch when a model is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simgym._exports import lazy_exports
from simgym.registration import register_environments

if TYPE_CHECKING:
    from simgym import (
        assistants,
        data,
        engine,
        envs,
        evaluation,
        integrations,
        judges,
        language_models,
        report,
        rollout,
        simulators,
        statistics,
        study,
        testing,
    )
    from simgym._version import __version__
    from simgym.assistants import LanguageModelAssistant
    from simgym.conversation import Conversation, Message, Scenario, read_scenarios
    from simgym.data import load_scenarios
    from simgym.errors import SimgymError
    from simgym.evaluation import ExperimentConfig
    from simgym.experiment import Results, evaluate
    from simgym.faults import Fault
    from simgym.language_models import ModelSpec, SamplingParams, load_language_model
    from simgym.registration import register_simulator
    from simgym.rollout import collect
    from simgym.simulated_user import SimulatedUser, user
    from simgym.simulation import Dialogue, Simulation
    from simgym.transcripts import Transcript, read_transcripts

__all__ = [
    # what passes between all parts
    "Message",
    "Conversation",
    "Scenario",
    "Fault",
    # a conversation and how it is run
    "Dialogue",
    "Simulation",
    "collect",
    "Transcript",
    "read_transcripts",
    # one user, for a program that keeps the conversation itself
    "user",
    "SimulatedUser",
    # an experiment: assistants x simulated users
    "ExperimentConfig",
    "evaluate",
    "Results",
    # who and what takes part
    "ModelSpec",
    "SamplingParams",
    "LanguageModelAssistant",
    "load_language_model",
    "load_scenarios",
    "read_scenarios",
    "register_simulator",
    # what went wrong
    "SimgymError",
    # sub-packages, each with its own names
    "assistants",
    "data",
    "engine",
    "envs",
    "evaluation",
    "integrations",
    "judges",
    "language_models",
    "report",
    "rollout",
    "simulators",
    "statistics",
    "study",
    "testing",
    "__version__",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "_version": ("__version__",),
        "assistants": ("LanguageModelAssistant",),
        "conversation": ("Conversation", "Message", "Scenario", "read_scenarios"),
        "data": ("load_scenarios",),
        "errors": ("SimgymError",),
        "evaluation": ("ExperimentConfig",),
        "experiment": ("Results", "evaluate"),
        "faults": ("Fault",),
        "language_models": ("ModelSpec", "SamplingParams", "load_language_model"),
        "registration": ("register_simulator",),
        "rollout": ("collect",),
        "simulated_user": ("SimulatedUser", "user"),
        "simulation": ("Dialogue", "Simulation"),
        "transcripts": ("Transcript", "read_transcripts"),
    },
    public=__all__,
)

register_environments()
