"""Conversations as Gymnasium environments, one at a time or N together."""

from simgym.envs.conversation_env import ConversationEnv
from simgym.envs.settings import ConversationSettings
from simgym.envs.spaces import UnicodeText
from simgym.envs.unwrapping import env_id_of, env_ids, simulation_of
from simgym.envs.vector_env import UserSimVectorEnv

__all__ = [
    # environments
    "ConversationEnv",
    "UserSimVectorEnv",
    "ConversationSettings",
    "UnicodeText",
    # what is inside one
    "simulation_of",
    "env_id_of",
    "env_ids",
]
