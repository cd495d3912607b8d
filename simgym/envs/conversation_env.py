"""One conversation with a simulated user as a Gymnasium environment: a batch of one.

The action is what the assistant says; the observation is what the user says back, with the judge's reward at the end.
`reset(seed=s)` decides scenario, persona and every sampled token. The intent is hidden: neither observation nor info
holds it; `env.unwrapped.scenario` does, for evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from simgym.assistants.base import AssistantTurn
from simgym.conversation import Scenario
from simgym.envs.settings import ConversationSettings, EndRewards, describe, observe
from simgym.errors import ConfigurationError, EpisodeError
from simgym.seeding import derive_seed
from simgym.simulation import Dialogue
from simgym.visible_text import visible_turn


class ConversationEnv(gymnasium.Env[dict[str, Any], "str | AssistantTurn"]):
    """A conversation with one simulated user.

    * Action: `UnicodeText`, 1 to `max_length` code points. `step` also takes an `AssistantTurn`, whose model calls are
      recorded and whose fault ends the conversation.
    * Observation: `user_reply` (text), `judge_reward` (float32 in [0, 1], 0 until judged), `turn` (assistant turns).
    * Reward: 0 until the end, then the judge's value; NaN (or `failed_judge_reward`) if a fault left the conversation
      without one, with `info["unjudged"]`, and `info["judge_failed"]` when it was the judge.
    * `terminated`: the user left, or `max_turns` was reached. `truncated`: a fault, or the context is full.
      `info["end_reason"]`: user_end, turn_limit, context_overflow, simulator_fault, judge_fault; after an
      `AssistantTurn` that nobody can take, assistant_fault.
    * `reset(options={"scenario_id": ...})` asks for one scenario instead of drawing it.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "ansi"], "render_fps": 1}  # noqa: RUF012

    def __init__(self, *, render_mode: str | None = None, **settings: Any) -> None:
        """Take the arguments of `ConversationSettings`; see there.

        Args:
            render_mode: `human` prints each turn to the terminal, `ansi` gives the conversation as text, None neither.
            settings: simulator, model, scenarios, judge, judge_model, max_turns, max_length, and so on.

        Raises:
            ConfigurationError: an argument is unknown or has a wrong value.
        """
        self.settings = make_settings(settings)
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ConfigurationError(f"render_mode is {render_mode!r}, expected 'human', 'ansi' or None.")
        self.render_mode = render_mode
        self.simulation = self.settings.simulation()
        self.action_space = self.settings.action_space()
        self.observation_space = self.settings.observation_space()
        self._rewards = EndRewards(self.settings.failed_judge_reward)
        self._dialogue: Dialogue | None = None
        self._shown = 0

    @property
    def scenario(self) -> Scenario:
        """The current scenario with its hidden intent; for evaluation, not for assistants."""
        return self._current().scenario

    @property
    def dialogue(self) -> Dialogue:
        """The current conversation in full; for evaluation, not for assistants."""
        return self._current()

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start a conversation.

        Args:
            seed: Decides everything; None: the next in the sequence that the last seed began.
            options: `scenario_id` asks for one scenario.

        Raises:
            ConfigurationError: there is no such scenario, or it does not fit the simulator.
        """
        super().reset(seed=seed)
        chosen = next_seed(seed, self._dialogue)
        self._dialogue = self.simulation.open([chosen], [(options or {}).get("scenario_id")])[0]
        self._shown = 0
        self._show()
        return observe(self._dialogue), describe(self._dialogue)

    def step(self, action: str | AssistantTurn) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Let the assistant speak.

        Raises:
            EpisodeError: before `reset`, or after the end.
            InvalidAction: the action is no text, empty or too long; the conversation is unchanged.
        """
        # a failed opening, which reset() cannot tell of, is told of by the first step
        refuse_invalid = not isinstance(action, AssistantTurn)
        dialogue = self.simulation.step([self._current()], [action], refuse_invalid=refuse_invalid)[0]
        self._dialogue = dialogue
        self._show()
        reward = self._rewards(dialogue)
        return observe(dialogue), reward, dialogue.terminated, dialogue.truncated, describe(dialogue)

    def render(self) -> str | None:  # type: ignore[override]
        """The conversation so far as text (`ansi`), or None: `human` has printed it already."""
        if self.render_mode != "ansi":
            return None
        return "\n".join(_lines(self._current()))

    def get_state(self) -> dict[str, object]:
        """The conversation as JSON values, to fork it: several continuations from one point."""
        return self._current().to_json()

    def set_state(self, state: Mapping[str, object]) -> None:
        """Continue from a state of `get_state`, of this or another environment of the same settings.

        Raises:
            ConfigurationError: it is not such a state.
        """
        self._dialogue = Dialogue.from_json(state)
        self._shown = 0

    def _current(self) -> Dialogue:
        if self._dialogue is None:
            raise EpisodeError("There is no conversation yet. Call reset() first.")
        return self._dialogue

    def _show(self) -> None:
        if self.render_mode == "human":
            lines = _lines(self._current())
            for line in lines[self._shown :]:
                print(line)
            self._shown = len(lines)


def make_settings(arguments: Mapping[str, Any]) -> ConversationSettings:
    """Settings from keyword arguments, with a sentence for an unknown one."""
    try:
        return ConversationSettings(**arguments)
    except TypeError as error:
        known = ", ".join(ConversationSettings.__dataclass_fields__)
        raise ConfigurationError(f"The environment cannot be made: {error}. Known arguments: {known}.") from error


def next_seed(seed: int | None, previous: Dialogue | None) -> int:
    """The given seed; else the one that follows the previous conversation's; else a random one."""
    if seed is not None:
        return int(seed)
    if previous is not None:
        return derive_seed(previous.seed, "next")
    return derive_seed(int(np.random.SeedSequence().generate_state(1, np.uint64)[0]), "first")


def row_seeds(seed: int | Sequence[int | None] | None, rows: int) -> list[int | None]:
    """What `reset` of N conversations was given, by row: row r gets seed + r, the r-th seed, or None.

    Raises:
        ConfigurationError: there is another number of seeds.
    """
    if isinstance(seed, int | np.integer):
        return [int(seed) + row for row in range(rows)]
    seeds: list[int | None] = [None] * rows if seed is None else list(seed)
    if len(seeds) != rows:
        raise ConfigurationError(f"seed has {len(seeds)} entries, expected {rows}.")
    return seeds


def _lines(dialogue: Dialogue) -> list[str]:
    lines = [f"{message.role}: {visible_turn(message.content)}" for message in dialogue.conversation.messages]
    if dialogue.end_reason is not None:
        judged = "not judged" if dialogue.reward is None else f"reward {dialogue.reward:.2f}"
        fault = f", {visible_turn(str(dialogue.fault))}" if dialogue.fault else ""
        lines.append(f"[{dialogue.end_reason}, {judged}{fault}]")
    return lines
