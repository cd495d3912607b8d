"""Assistants: who answers the simulated users."""

from simgym.assistants.action_sets import (
    STRATEGIES,
    ActionSet,
    Candidates,
    SampledReplies,
    Strategies,
    action_set_from_json,
)
from simgym.assistants.base import Assistant, AssistantTurn
from simgym.assistants.language_model_assistant import LanguageModelAssistant, read_prompt
from simgym.assistants.loading import NamedAssistant, load_assistant

__all__ = [
    # the protocol
    "Assistant",
    "AssistantTurn",
    # who implements it
    "LanguageModelAssistant",
    "read_prompt",
    "NamedAssistant",
    "load_assistant",
    # a policy that chooses instead of writing
    "ActionSet",
    "Candidates",
    "Strategies",
    "STRATEGIES",
    "SampledReplies",
    "action_set_from_json",
]
