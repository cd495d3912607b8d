"""GEM (Oat, ROLL, Tinker) over simulated users.

    register()
    env = gem.make("simgym:Persona", max_turns=4)
    text, info = env.reset(seed=7)
    text, reward, terminated, truncated, info = env.step("Happy to help.")
    branch = env.spawn(same_state=True)         # the same conversation, to be continued otherwise

The action is what the assistant says, the observation what the user says. The reward is 0 until the end, then the
judge's; NaN if a fault left none, with `truncated` and `info["fault"]`.
"""

from __future__ import annotations

from typing import Any

from simgym.envs.conversation_env import next_seed
from simgym.envs.settings import outcome_of, step_reward
from simgym.envs.shared_simulation import shared_simulation
from simgym.errors import EpisodeError
from simgym.extras import imports_of, require_extra
from simgym.registration import environments
from simgym.simulation import Dialogue

with imports_of("gem", "The environment for GEM"):
    import gem
    from gem.envs.registration import ENV_REGISTRY


def register() -> None:
    """Register every environment: `UserSim-Persona-v0` as `simgym:Persona`; doing so twice changes nothing.

    Raises:
        MissingDependency: GEM has a version that was not tested.
    """
    require_extra("gem", "The environment for GEM")
    for env_id in environments():
        name = f"simgym:{env_id.removeprefix('UserSim-').removesuffix('-v0')}"
        if name not in ENV_REGISTRY:
            gem.register(name, "simgym.integrations.gem:SimulatedUserEnv", user_sim=env_id)


class SimulatedUserEnv(gem.Env):
    """One conversation with a simulated user."""

    def __init__(self, user_sim: str = "UserSim-Persona-v0", seed: int | None = None, **settings: Any) -> None:
        """Choose the user.

        Args:
            user_sim: `UserSim-...`: who plays the user.
            seed: Of the first conversation if `reset` is given none; `gem.make_vec` numbers its environments by it.
            settings: Arguments of the environment: model, scenarios, judge, max_turns, ...
        """
        super().__init__()
        self._arguments = {"user_sim": user_sim, **settings}
        self._simulation = shared_simulation(user_sim, settings)
        self._first_seed = seed
        self._dialogue: Dialogue | None = None

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, object]]:
        """Begin a conversation; without a seed the next in the sequence that the last seed began."""
        if seed is None and self._dialogue is None:
            seed = self._first_seed
        (self._dialogue,) = self._simulation.open([next_seed(seed, self._dialogue)])
        return self._dialogue.user_reply, outcome_of(self._dialogue)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """The assistant speaks; what no conversation can take (a blank reply, say) ends it without a judgement."""
        if self._dialogue is None:
            raise EpisodeError("There is no conversation yet. Call reset() first.")
        (dialogue,) = self._simulation.step([self._dialogue], [action])
        self._dialogue = dialogue
        return dialogue.user_reply, step_reward(dialogue), dialogue.terminated, dialogue.truncated, outcome_of(dialogue)

    def sample_random_action(self) -> str:
        """Something that an assistant may say."""
        return "Could you tell me more?"

    def spawn(self, same_state: bool = False, **kwargs: Any) -> SimulatedUserEnv:
        """Another environment of these arguments; with `same_state` in the same conversation, which is a value."""
        other = SimulatedUserEnv(**{"seed": self._first_seed, **self._arguments, **kwargs})
        if same_state:
            other._dialogue = self._dialogue
        return other
