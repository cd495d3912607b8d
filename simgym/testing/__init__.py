"""Checks for plug-in authors, and small random models to try them on."""

from simgym.testing.checks import check_assistant, check_judge, check_language_model, check_simulator
from simgym.testing.environment_checks import check_env, check_scenarios
from simgym.testing.tiny_models import save_tiny_adapter, save_tiny_model

__all__ = [
    # does a plug-in keep its promises?
    "check_language_model",
    "check_simulator",
    "check_judge",
    "check_assistant",
    "check_scenarios",
    "check_env",
    # small random models
    "save_tiny_model",
    "save_tiny_adapter",
]
