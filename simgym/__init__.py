"""User simulators as Gymnasium environments.

    import gymnasium as gym
    import simgym  # registers the environments

    env = gym.make("UserSim-RolePlay-v0", max_turns=2)
    observation, info = env.reset(seed=7)
    observation, reward, terminated, truncated, info = env.step("What is it about?")

Importing simgym is light: torch is imported when a model is first used.
"""

from __future__ import annotations

from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from simgym.conversation import Conversation, Message, Scenario, read_scenarios
from simgym.errors import SimgymError
from simgym.registration import register_environments

if TYPE_CHECKING:
    from simgym.assistants.language_model_assistant import LanguageModelAssistant
    from simgym.data.scenario_sets import load_scenarios
    from simgym.faults import Fault
    from simgym.language_models.loading import load_language_model
    from simgym.rollout.collect import collect
    from simgym.simulation import Dialogue, Simulation
    from simgym.transcripts import Transcript, read_transcripts

__version__ = _version("simgym")

_LAZY = {
    "Dialogue": "simgym.simulation",
    "Fault": "simgym.faults",
    "LanguageModelAssistant": "simgym.assistants.language_model_assistant",
    "Simulation": "simgym.simulation",
    "Transcript": "simgym.transcripts",
    "collect": "simgym.rollout.collect",
    "load_language_model": "simgym.language_models.loading",
    "load_scenarios": "simgym.data.scenario_sets",
    "read_transcripts": "simgym.transcripts",
}

__all__ = [
    "Conversation",
    "Dialogue",
    "Fault",
    "LanguageModelAssistant",
    "Message",
    "Scenario",
    "SimgymError",
    "Simulation",
    "Transcript",
    "collect",
    "load_language_model",
    "load_scenarios",
    "read_scenarios",
    "read_transcripts",
]

register_environments()


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'simgym' has no attribute {name!r}")
