"""Assistants: who answers the simulated users."""

from simgym.assistants.base import Assistant, AssistantTurn
from simgym.assistants.choices import STRATEGIES, Candidates, Choices, Strategies, choices_from_json
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
    "Choices",
    "Strategies",
    "Candidates",
    "STRATEGIES",
    "choices_from_json",
]
