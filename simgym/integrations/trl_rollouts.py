"""The rollout function of `simgym.integrations.trl`: plays the scenarios that TRL asks for, all of them together.

Generation is TRL's own (`transformers`, or one of its vLLM modes), or with `generation="engine"` that of simgym's
engine on the same weights. With several processes the rollouts of a group may be spread over them: each scenario is
opened by one process, for all, and every process asks TRL for equally many replies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

from simgym.envs.outages import WAITS, Pauses, unavailable
from simgym.faults import fault_label
from simgym.integrations.trl_processes import context_length, gathered, open_once
from simgym.language_models.policy_engine import PolicyEngine
from simgym.language_models.policy_server import PolicyReply
from simgym.rollout.token_rollouts import TokenConversations, TokenRollout
from simgym.simulation import Dialogue, Simulation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from trl import GRPOTrainer


class Rollouts:
    """What `make_rollout_func` returns."""

    def __init__(
        self,
        simulation: Simulation,
        *,
        env_id: str,
        seed: int,
        system_prompt: str | None,
        waits: Sequence[float] = WAITS,
        generation: Literal["trl", "engine"] = "trl",
    ) -> None:
        self.simulation = simulation
        self.generation = generation
        self._engine = PolicyEngine(seed) if generation == "engine" else None
        self.env_id = env_id
        self.waits = tuple(waits)
        self.seed = seed
        self.system_prompt = system_prompt
        self.faults: Counter[str] = Counter()
        """Rollouts without a reward, of all processes, by kind of fault, since the beginning."""
        self.latest: list[Dialogue] = []
        """This process's conversations of the latest call, in order; for logs."""

    def __call__(self, prompts: Sequence[Sequence[Mapping[str, str]]], trainer: GRPOTrainer) -> dict[str, list[object]]:
        """Run one conversation a prompt.

        Args:
            prompts: N prompts of `scenario_dataset`; those of a group are alike.
            trainer: The `GRPOTrainer`; generates, and tells the step.

        Returns:
            `prompt_ids`, `completion_ids`, `env_mask` (N lists of tokens each), `logprobs` (the same, or None if the
            backend does not tell), and for the reward function `judge_reward` (in [0, 1] or None), `end_reason`,
            `turns`, `scenario_id` and `conversation`.

        Raises:
            ConfigurationError: there is no such scenario, or the chat template has no user role.
            ServerUnavailable: all conversations failed by a server's silence, and went on to after every pause.
        """
        tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
        ids, pauses = [prompt[-1]["content"] for prompt in prompts], Pauses(self.waits)
        while True:
            rollouts = self._play(ids, tokenizer, trainer)
            dialogues = [rollout.dialogue for rollout in rollouts]
            error = unavailable(dialogues)
            together = all(gathered(error is not None, trainer))  # processes try again together, or not at all
            if error is None or not together:
                self._keep(dialogues, trainer)
                return _columns(rollouts, tokenizer, trainer.use_vllm)
            pauses.wait(error)

    def _play(self, ids: Sequence[str], tokenizer: PreTrainedTokenizerBase, trainer: GRPOTrainer) -> list[TokenRollout]:
        step = trainer.state.global_step if trainer.model.training else "evaluation"
        conversations = TokenConversations(
            self.simulation,
            tokenizer,
            system_prompt=self.system_prompt,
            variables=trainer.chat_template_kwargs,
            context_length=context_length(trainer),
            longest_turn=trainer.args.max_completion_length,
        )
        opened = open_once(self.simulation, ids, trainer, seed=self.seed, step=step)
        rollouts = [conversations.begin(opened[scenario_id]) for scenario_id in ids]  # forks of a group's one opening
        with self._engine.rollout(trainer) if self._engine else nullcontext():
            while wanted := max(gathered(sum(not rollout.dialogue.ended for rollout in rollouts), trainer)):
                running = [place for place, rollout in enumerate(rollouts) if not rollout.dialogue.ended]
                replies = self._write(rollouts, running, wanted, step, trainer)
                answered = conversations.answer([rollouts[place] for place in running], replies) if running else []
                for place, rollout in zip(running, answered, strict=True):
                    rollouts[place] = rollout
        return rollouts

    def _write(
        self,
        rollouts: Sequence[TokenRollout],
        running: Sequence[int],
        wanted: int,
        step: int | str,
        trainer: GRPOTrainer,
    ) -> list[PolicyReply]:
        """The policy's turn in each conversation that is running; `wanted` is how many the busiest process has."""
        asked = [rollouts[place].so_far for place in running]
        if self._engine:
            return [PolicyReply(ids, []) for ids in self._engine.generate(asked, running, step, trainer)]
        # vLLM behind a server, or over several GPUs, deals replies out in equal shares: all processes ask for as many,
        # a process whose conversations are over for nothing but padding, which is dropped
        padding = [min((rollout.prompt_ids for rollout in rollouts), key=len)] * (wanted - len(running))
        ids_N, logprobs_N = trainer._generate_single_turn([*asked, *padding], None, {}, 1)
        told = [[] for _ in running] if logprobs_N is None else logprobs_N[: len(running)]
        return [PolicyReply(ids, logprobs) for ids, logprobs in zip(ids_N[: len(running)], told, strict=True)]

    def _keep(self, dialogues: list[Dialogue], trainer: GRPOTrainer) -> None:
        self.latest = dialogues
        unjudged = [dialogue for dialogue in self.latest if dialogue.reward is None]
        faults = [f"{dialogue.end_reason}: {fault_label(dialogue.fault)}" for dialogue in unjudged]
        for theirs in gathered(faults, trainer):
            self.faults.update(theirs)


def _columns(
    rollouts: Sequence[TokenRollout], tokenizer: PreTrainedTokenizerBase, use_vllm: bool
) -> dict[str, list[object]]:
    """N conversations as TRL takes them."""
    told = use_vllm or any(rollout.logprobs for rollout in rollouts)
    nothing = [tokenizer.eos_token_id]  # where the opening failed: nothing to learn from, and TRL wants a token
    tokens = [rollout if rollout.completion_ids else rollout.with_context(nothing) for rollout in rollouts]
    return {
        "prompt_ids": [rollout.prompt_ids for rollout in rollouts],
        "completion_ids": [rollout.completion_ids for rollout in tokens],
        "env_mask": [rollout.env_mask for rollout in tokens],
        "logprobs": [rollout.logprobs or [0.0] * len(rollout.env_mask) for rollout in tokens] if told else None,  # type: ignore[dict-item]
        "judge_reward": [rollout.dialogue.reward for rollout in rollouts],
        "end_reason": [rollout.dialogue.end_reason for rollout in rollouts],
        "turns": [rollout.dialogue.turn for rollout in rollouts],
        "scenario_id": [rollout.dialogue.scenario.id for rollout in rollouts],
        "conversation": [rollout.dialogue.conversation.to_json() for rollout in rollouts],
    }
