"""Conversations of a policy in training, as tokens: what was sampled, and the user's turns behind it.

A later prompt is the earlier tokens with the user's turn behind them, so that what is trained on is what was sampled.
Tokens that the policy did not write have 0 in `env_mask`. A conversation in whose context another turn does not fit
ends there. `Simulation` alone decides how a conversation goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from simgym.assistants.base import AssistantTurn
from simgym.chat_template import render
from simgym.conversation import Message
from simgym.language_models.policy_server import PolicyReply
from simgym.rollout.policy_tokens import full_context, spoken_turn, tokens_between
from simgym.simulation import Dialogue, Simulation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRollout:
    """One conversation as tokens."""

    dialogue: Dialogue
    """The conversation itself, as it stands."""
    prompt_ids: list[int]
    """Tokens before the policy's first word."""
    completion_ids: list[int] = field(default_factory=list)
    """Everything behind: the policy's turns as sampled, and the user's between them."""
    env_mask: list[int] = field(default_factory=list)
    """1 where the policy wrote."""
    logprobs: list[float] = field(default_factory=list)
    """Of the sampled tokens under the policy that sampled them, 0 elsewhere; empty if the backend does not tell."""

    @property
    def so_far(self) -> list[int]:
        """Everything that has been said, as the policy reads it."""
        return self.prompt_ids + self.completion_ids

    def with_turn(self, reply: PolicyReply) -> TokenRollout:
        """With what the policy wrote behind it."""
        return replace(
            self,
            completion_ids=self.completion_ids + reply.ids,
            env_mask=self.env_mask + [1] * len(reply.ids),
            logprobs=self.logprobs + reply.logprobs,
        )

    def with_context(self, ids: Sequence[int]) -> TokenRollout:
        """With tokens behind it that the policy did not write."""
        return replace(
            self,
            completion_ids=[*self.completion_ids, *ids],
            env_mask=self.env_mask + [0] * len(ids),
            logprobs=self.logprobs + [0.0] * len(ids) if self.logprobs else self.logprobs,
        )


class TokenConversations:
    """Begins conversations as tokens and steps them."""

    def __init__(
        self,
        simulation: Simulation,
        tokenizer: PreTrainedTokenizerBase,
        *,
        system_prompt: str | None = None,
        variables: Mapping[str, object] | None = None,
        context_length: int | None = None,
        longest_turn: int = 0,
    ) -> None:
        """Choose whose they are.

        Args:
            simulation: User, judge and scenarios.
            tokenizer: The policy's.
            system_prompt: Of the policy; None: what its chat template does without one.
            variables: Of the chat template.
            context_length: Tokens that a conversation may have; None: not bounded here.
            longest_turn: Tokens for which there must be room when it is the policy's turn.
        """
        self._simulation = simulation
        self._tokenizer = tokenizer
        self._system = [Message("system", system_prompt)] if system_prompt else []
        self._variables = variables
        self._context_length, self._longest_turn = context_length, longest_turn

    def begin(self, dialogue: Dialogue) -> TokenRollout:
        """A conversation that has been opened, up to where the policy speaks."""
        if dialogue.ended:  # the opening failed
            return TokenRollout(dialogue=dialogue, prompt_ids=[self._tokenizer.eos_token_id])
        said = [*self._system, *dialogue.conversation.messages]
        text = render(self._tokenizer, said, "assistant", variables=self._variables)
        ids = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._with_room(TokenRollout(dialogue=dialogue, prompt_ids=ids), [])

    def answer(self, rollouts: Sequence[TokenRollout], replies: Sequence[PolicyReply]) -> list[TokenRollout]:
        """N conversations after N turns of the policy, and the user's after them."""
        turns = [self._turn(rollout, reply) for rollout, reply in zip(rollouts, replies, strict=True)]
        dialogues = self._simulation.step([rollout.dialogue for rollout in rollouts], turns)
        return [
            self._heard(replace(rollout.with_turn(reply), dialogue=dialogue))
            for rollout, reply, dialogue in zip(rollouts, replies, dialogues, strict=True)
        ]

    def _turn(self, rollout: TokenRollout, reply: PolicyReply) -> AssistantTurn:
        if reply.fault is not None:
            return AssistantTurn("", reply.fault)
        return spoken_turn(self._tokenizer, rollout.so_far, reply.ids)

    def _heard(self, rollout: TokenRollout) -> TokenRollout:
        """With the user's turn behind what was sampled, and what opens the policy's next turn."""
        if rollout.dialogue.ended:
            return rollout
        behind = tokens_between(self._tokenizer, rollout.dialogue.user_reply, self._variables)
        if behind and rollout.completion_ids[-1] == behind[0]:  # the policy ended its turn itself
            behind = behind[1:]
        roomy = self._with_room(rollout, behind)
        return roomy if roomy.dialogue.ended else roomy.with_context(behind)

    def _with_room(self, rollout: TokenRollout, behind: Sequence[int]) -> TokenRollout:
        """As it is, or ended because another turn does not fit."""
        longest, room = self._context_length, self._longest_turn
        if longest is None or len(rollout.so_far) + len(behind) + room <= longest:
            return rollout
        full = full_context(f"no room for {room} tokens in {longest}")
        return replace(rollout, dialogue=self._simulation.step([rollout.dialogue], [full])[0])
