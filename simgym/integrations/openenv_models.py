"""What goes over the wire between an OpenEnv server of simulated users and its clients.

A file of its own, which needs no simgym: `simgym export ENV --to openenv` copies it into the package as `models.py`.
"""

from __future__ import annotations

from openenv.core.env_server.types import Action, Observation, State
from pydantic import Field


class AssistantTurn(Action):  # type: ignore[misc]
    """What the assistant does: it says something."""

    message: str = Field(..., description="What the assistant says to the user.")


class UserTurnObservation(Observation):  # type: ignore[misc]
    """What the assistant hears."""

    user_reply: str = Field("", description="What the user says; may be empty when the conversation has ended.")
    end_reason: str | None = Field(None, description="Why the conversation ended; None while it runs.")


class ConversationState(State):  # type: ignore[misc]
    """Where a conversation stands; what the user wants is not told."""

    scenario_id: str | None = Field(None, description="Id of the scenario that is played.")
    seed: int | None = Field(None, description="Decides everything the user says.")
