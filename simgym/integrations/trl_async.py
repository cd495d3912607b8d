"""Asynchronous GRPO over whole conversations: a rollout worker for TRL's experimental `AsyncGRPOTrainer`.

    worker = SimulatedUserWorker(
        "UserSim-FineTuned-v0", scenarios=scenarios, model=name, tokenizer=tokenizer, args=args,
    )
    trainer = AsyncGRPOTrainer(
        name, args=args, processing_class=tokenizer, train_dataset=scenario_dataset(scenarios), rollout_worker=worker,
    )

The policy writes on a vLLM server by `/v1/completions`, token ids in and out; user and judge are those of the
`Simulation`. Each conversation goes on at its own pace, in a group that shares scenario, seed and opening (see
`simgym.rollout.paced_rollouts`). One without a judgement is no sample and enters no baseline. A sample carries the
policy's version at its first word. The worker runs in threads of the trainer's main process, and asks servers only.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from simgym.conversation import Scenario
from simgym.envs.outages import WAITS
from simgym.envs.shared_simulation import shared_simulation
from simgym.extras import optional_import, require_package
from simgym.faults import fault_label
from simgym.language_models.policy_server import PolicyServer
from simgym.rollout.paced_rollouts import Pace, PacedRollouts
from simgym.rollout.rollout_groups import EndedRollout, RolloutGroup, ScoredRollout
from simgym.rollout.token_rollouts import TokenConversations


class SimulatedUserWorker:
    """Produces samples for `AsyncGRPOTrainer`; implements TRL's `RolloutWorkerProtocol`."""

    def __init__(
        self,
        env_id: str,
        *,
        scenarios: Sequence[Scenario],
        model: str,
        tokenizer: Any,
        args: Any,
        user_model: Any = None,
        seed: int = 0,
        system_prompt: str | None = None,
        lora_name: str | None = None,
        waits: Sequence[float] = WAITS,
        **settings: Any,
    ) -> None:
        """Plan; nothing is asked before `start`.

        Args:
            env_id: Who plays the user, `UserSim-...`.
            scenarios: Those of the training dataset; taken in order, again and again, each time with another seed.
            model: Name of the policy on the vLLM server.
            tokenizer: The policy's.
            args: The trainer's `AsyncGRPOConfig`: server, sampling, group size, bounds of staleness and concurrency.
            user_model: The model that plays the user; None: the environment's own.
            seed: Decides all randomness of the users and the seeds of the policy's sampling.
            system_prompt: Of the policy; None: what its chat template does without one.
            lora_name: Name under which TRL publishes adapters (`trl-policy`) when a LoRA policy is synced as adapter.
            waits: Seconds before each new attempt when servers do not answer.
            settings: Further arguments of the environment: `judge`, `max_turns` and so on.

        Raises:
            MissingDependency: TRL is absent, or of a version that was not tested.
            ConfigurationError: `env_id` is no simgym environment, or an argument is wrong.
        """
        require_package("trl", "train", "A rollout worker")
        users = {} if user_model is None else {"model": user_model}
        self.simulation = shared_simulation(env_id, {**settings, **users, "scenarios": list(scenarios)})
        self.rollout_buffer: queue.Queue[Any] = queue.Queue(args.queue_maxsize)
        self.metrics_queue: queue.Queue[dict[str, Any]] = queue.Queue(4096)
        self._before = [{"role": "system", "content": system_prompt}] if system_prompt else []
        worker = optional_import("trl.experimental.async_grpo.async_rollout_worker", "train")
        self._sample: Callable[..., Any] = worker.RolloutSample
        conversations = TokenConversations(
            self.simulation, tokenizer, system_prompt=system_prompt, variables=args.chat_template_kwargs
        )
        pace = Pace(
            model=model,
            lora_name=lora_name,
            group_size=args.num_generations,
            at_once=max(1, args.max_inflight_tasks),
            max_staleness=args.max_staleness,
            seed=seed,
            waits=tuple(waits),
        )
        self._rollouts = PacedRollouts(self.simulation, conversations, PolicyServer(args), scenarios, pace)

    def start(self) -> None:
        """Begin conversations, `max_inflight_tasks` at a time."""
        self._rollouts.start(self)

    def stop(self) -> None:
        """End at once; conversations in progress are dropped."""
        self._rollouts.stop()

    def update_model_version(self, model_version: int) -> None:
        """The policy on the server is this version now."""
        self._rollouts.version = model_version

    def check_health(self, stale_after_s: float) -> None:
        """Raise RuntimeError if the worker has failed, or if nobody has said anything for so many seconds."""
        self._rollouts.background.check(stale_after_s)

    def take_group(self, group: RolloutGroup) -> None:
        """What of a group can be learned from goes into the buffer, when there is room."""
        background = self._rollouts.background
        for scored in group.scored():
            sample = self._as_sample(scored, group.number)
            while not background.stopping.is_set():
                sample.enqueued_at = time.time()
                if background.offer(sample, self.rollout_buffer):
                    break

    def take_ended(self, ended: EndedRollout, seconds: float) -> None:
        """Count it for the trainer's log."""
        rollout = ended.rollout
        values: dict[str, Any] = {"rollout/duration_s": seconds, "simgym/given_up": (float(rollout is None), 1.0)}
        if rollout is not None:
            dialogue = rollout.dialogue
            values["simgym/unjudged"] = (float(dialogue.reward is None), 1.0)
            values["simgym/turns"] = float(dialogue.turn)
            values["completions/mean_length"] = (float(sum(rollout.env_mask)), 1.0)
            if dialogue.reward is None:
                values[f"simgym/faults/{fault_label(dialogue.fault)}_total"] = 1.0
        with suppress(queue.Full):
            self.metrics_queue.put_nowait(values)

    def _as_sample(self, scored: ScoredRollout, group: int) -> Any:
        """What TRL's trainer takes."""
        rollout, said = scored.rollout, scored.rollout.dialogue.conversation.to_json()
        lead = len(rollout.prompt_ids)
        return self._sample(
            prompt=[*self._before, *said[:1]],
            completion=said[1:],
            input_ids=np.asarray(rollout.so_far, dtype=np.int64),
            completion_mask=np.asarray([0] * lead + rollout.env_mask, dtype=np.int64),
            old_log_probs=np.asarray([0.0] * lead + rollout.logprobs, dtype=np.float32),
            advantage=scored.advantage,
            model_version=scored.version,
            group_id=group,
            metrics={"reward": scored.reward, "reward_std": scored.deviation, "rewards/judge": scored.reward},
        )
