"""The table of environments: id -> simulator and what makes it that one; registered with Gymnasium as strings.

Every id is the same environment class with another simulator, so swapping the training partner is swapping the id.
Nothing is imported before `gym.make`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium


@dataclass(frozen=True, slots=True)
class SimulatorEnv:
    """One row of the table."""

    env_id: str
    """Gymnasium id."""
    simulator: str
    """Registered name of the user simulator."""
    summary: str
    """What plays the user, in a line."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of this id, on top of those of the environment."""


ENVIRONMENTS = (
    SimulatorEnv("UserSim-RolePlay-v0", "role_play", "prompted model, writes its own opening from the intent"),
    SimulatorEnv(
        "UserSim-RolePlayOpening-v0", "role_play_opening", "prompted model, starts from the scenario's real opening"
    ),
    SimulatorEnv("UserSim-Persona-v0", "persona", "prompted model with a persona per scenario, real opening"),
    SimulatorEnv(
        "UserSim-FineTuned-v0",
        "fine_tuned",
        "model fine-tuned on real user turns; an adapter on the embedded model is shipped",
    ),
    SimulatorEnv(
        "UserSim-Replay-v0", "replay", "a real person's recorded turns, played back", {"scenarios": "chitchat"}
    ),
    SimulatorEnv("UserSim-Mixture-v0", "mixture", "one of several simulators, drawn per scenario"),
    SimulatorEnv("UserSim-Human-v0", "human", "a person at the terminal"),
)


def register_environments() -> None:
    """Register all ids; doing so twice changes nothing."""
    for row in ENVIRONMENTS:
        if row.env_id not in gymnasium.registry:
            gymnasium.register(
                row.env_id,
                entry_point="simgym.envs.conversation_env:ConversationEnv",
                vector_entry_point="simgym.envs.vector_env:UserSimVectorEnv",
                kwargs={"simulator": row.simulator, **row.kwargs},
            )
