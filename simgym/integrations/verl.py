"""verl over simulated users: an agent loop, named in the data set's column `agent_name` or as the default.

    # simgym_loop.yaml, given as actor_rollout_ref.rollout.agent.agent_loop_config_path
    - name: simgym
      _target_: simgym.integrations.verl.SimulatedUserLoop
      env_id: UserSim-Persona-v0
      settings: {max_turns: 4}

A row has `scenario_id` and `seed` (see `verl_rows`), so all replies of a group meet the same user; of its prompt the
system messages are kept. Tokens are those that were sampled, never a text encoded anew, and the mask covers them alone:
what the user says and what the template puts around it have 0. verl knows no missing reward: a conversation that was
not judged gets the mean of recent rewards, and `reward_imputed` among its extra fields says so. A conversation that
does not fit `response_length` ends as one whose context is full.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from simgym.assistants.base import AssistantTurn
from simgym.envs.recent_rewards import RecentRewards
from simgym.envs.settings import outcome_of
from simgym.envs.shared_simulation import shared_simulation
from simgym.extras import imports_of, require_extra
from simgym.integrations._scenario_rows import scenario_rows, system_messages
from simgym.rollout.policy_tokens import full_context, spoken_turn
from simgym.simulation import Dialogue

with imports_of("verl", "The agent loop for verl"):
    from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput, register

from simgym.integrations.verl_templates import template_type_of

AGENT_NAME = "simgym"
"""The `agent_name` of rows, and the name that the loop is registered under."""
_recent_rewards = RecentRewards()


def verl_rows(
    env_id: str,
    *,
    n: int | None = None,
    seed: int = 0,
    system: str | None = None,
    settings: Mapping[str, object] | None = None,
) -> list[dict[str, object]]:
    """Rows for verl's data set (`pandas.DataFrame(rows).to_parquet(...)`): those of `scenario_rows`."""
    rows = scenario_rows(env_id, settings or {}, n=n, seed=seed, system=system)
    return [{**row, "data_source": env_id, "agent_name": AGENT_NAME} for row in rows]


@register(AGENT_NAME)
class SimulatedUserLoop(AgentLoopBase):
    """One conversation of the policy with a simulated user."""

    def __init__(
        self,
        *arguments: Any,
        env_id: str = "UserSim-Persona-v0",
        settings: Mapping[str, Any] | None = None,
        tokenizer: Any = None,
        hf_model_type: str | None = None,
        name: str = AGENT_NAME,
        **given: object,
    ) -> None:
        """Take what verl gives, and from the YAML file the environment.

        Args:
            env_id: `UserSim-...`: who plays the user.
            settings: Arguments of the environment.
            tokenizer: Of the policy.
            hf_model_type: Type of the policy's model; decides how turns are joined.
            name: Of the entry in the YAML file.
            arguments, given: verl's own.

        Raises:
            MissingDependency: verl has a version that was not tested.
            ConfigurationError: there is no such environment, or a setting is wrong.
        """
        require_extra("verl", "The agent loop for verl")
        template_type = template_type_of(tokenizer, hf_model_type)
        super().__init__(*arguments, tokenizer=tokenizer, hf_model_type=template_type, **given)
        self._simulation = shared_simulation(env_id, dict(settings or {}))

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        """Play one conversation; see `AgentLoopBase.run`."""
        request, limit = uuid4().hex, self.rollout_config.response_length
        opening = await asyncio.to_thread(self._simulation.open, [int(row["seed"])], [row.get("scenario_id")])
        dialogue = opening[0]
        messages = [*system_messages(row.get("raw_prompt")), {"role": "user", "content": dialogue.user_reply}]
        ids = await self.ct_build_initial_tokens(messages)
        mask: list[int] = []
        logprobs: list[float] | None = []
        while not dialogue.ended:
            sampled = await self.server_manager.generate(
                request_id=request, prompt_ids=ids, sampling_params=dict(sampling_params)
            )
            before_ids = ids
            if not sampled.log_probs:
                logprobs = None
            merged, mask, logprobs = await self.ct_merge_assistant_token(
                ids, sampled.token_ids, mask, logprobs, sampled.log_probs or None
            )
            ids = merged.token_ids
            raw = self.tokenizer.decode(sampled.token_ids, skip_special_tokens=True)
            turn = spoken_turn(self.tokenizer, before_ids, sampled.token_ids)
            dialogue = await self._answer(dialogue, turn, fits=len(mask) <= limit)
            before = [*messages, {"role": "assistant", "content": raw}]
            if not dialogue.ended:
                messages = [*before, {"role": "user", "content": dialogue.user_reply}]
                merged, mask, logprobs = await self.ct_merge_context_msg(before, messages, ids, mask, logprobs)
                ids = merged.token_ids
        reward, imputed = _recent_rewards.reward_of(dialogue)
        start = len(ids) - len(mask)
        return AgentLoopOutput(
            prompt_ids=ids[:start],
            response_ids=ids[start:][:limit],
            response_mask=mask[:limit],
            response_logprobs=logprobs[:limit] if logprobs else None,
            reward_score=reward,
            num_turns=2 * dialogue.turn + 1,
            metrics=AgentLoopMetrics(),
            extra_fields={**outcome_of(dialogue), "reward_imputed": imputed, "turn_scores": [], "tool_rewards": []},
        )

    async def _answer(self, dialogue: Dialogue, turn: AssistantTurn, *, fits: bool) -> Dialogue:
        """The dialogue after a reply of the policy."""
        heard = turn if fits else full_context("the conversation is longer than response_length")
        return (await asyncio.to_thread(self._simulation.step, [dialogue], [heard]))[0]
