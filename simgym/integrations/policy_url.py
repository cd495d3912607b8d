"""One conversation against a policy behind a URL: for trainers that give a program an OpenAI-compatible address.

    simgym play --base-url http://127.0.0.1:9000/v1 --model policy --env UserSim-Persona-v0 --reward-file reward.json

rLLM, ART and Agent Lightning start a program for each rollout, record what their server was asked, and want a reward.
`play` is that program. Every rollout may have a URL of its own: its client is closed at the end and kept nowhere. A
conversation that was not judged has no reward, never 0, and its fault says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from simgym.assistants.language_model_assistant import LanguageModelAssistant
from simgym.envs.shared_simulation import shared_simulation
from simgym.language_models.base import SamplingParams
from simgym.language_models.openai_lm import OpenAILM
from simgym.rollout import converse
from simgym.rollout.collection import Conditions
from simgym.transcripts import Transcript


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyUrl:
    """Where a policy answers."""

    base_url: str
    """Root of the API, e.g. `http://127.0.0.1:9000/v1`."""
    model: str
    """The name that the server knows it by."""
    headers: Mapping[str, object] = field(default_factory=dict)
    """More HTTP headers; see `OpenAILM`."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable with the key, if the server wants one."""
    system: str | None = None
    """System message of the policy; None: none."""
    sampling: SamplingParams = SamplingParams(max_new_tokens=2048)  # noqa: RUF009  # frozen
    """How its replies are drawn."""


def play(
    policy: PolicyUrl,
    env_id: str,
    *,
    scenario_id: str | None = None,
    seed: int = 0,
    settings: Mapping[str, object] | None = None,
) -> Transcript:
    """Let a policy talk with one simulated user.

    Args:
        policy: Where it answers.
        env_id: `UserSim-...`.
        scenario_id: Who is met; None: the seed draws one.
        seed: Decides everything the user says: rollouts of a group share it.
        settings: Arguments of the environment.

    Returns:
        The conversation, with its reward (None: not judged), end reason and fault.

    Raises:
        ConfigurationError: there is no such environment or scenario, a setting is wrong, or a server refuses the model
            or the key. A server that is away is a fault of the conversation.
    """
    simulation = shared_simulation(env_id, settings or {})
    scenario = simulation.scenario(seed, scenario_id)
    model = OpenAILM(policy.model, base_url=policy.base_url, api_key_env=policy.api_key_env, headers=policy.headers)
    try:
        assistant = LanguageModelAssistant(model, system_prompt=policy.system, sampling=policy.sampling)
        (transcript,) = converse(assistant, Conditions.of(assistant, simulation, env_id), [(scenario, seed)])
        return transcript
    finally:
        model.close()


def rewarded(transcript: Transcript) -> dict[str, object]:
    """What a trainer is told: JSON values; `reward` None: not judged."""
    return {
        "reward": transcript.reward,
        "end_reason": transcript.end_reason,
        "fault": None if transcript.fault is None else str(transcript.fault),
        "turns": len(transcript.conversation.said_by("assistant")),
        "scenario_id": transcript.scenario.id,
        "seed": transcript.seed,
    }
