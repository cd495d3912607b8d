"""Asynchronous GRPO over whole conversations: a rollout worker for TRL's experimental `AsyncGRPOTrainer`.

    worker = SimulatedUserWorker(
        "UserSim-FineTuned-v0", scenarios=scenarios, model=name, tokenizer=tokenizer, args=args,
    )
    trainer = AsyncGRPOTrainer(
        name, args=args, processing_class=tokenizer, train_dataset=scenario_dataset(scenarios), rollout_worker=worker,
    )

Each conversation goes on at its own pace (`simgym._fibers`): the policy writes on a vLLM server by `/v1/completions`,
token ids in and out; user and judge are those of the `Simulation`. The rollouts of a group share scenario, seed and
opening. When the last of them has ended, those that were judged get their advantages, as TRL computes them, and go into
the buffer; one without a judgement is no sample and enters no baseline. A sample carries the policy's version at its
first word; a conversation that would be older than `max_staleness` is given up before its next turn. A full buffer
holds conversations back. The worker runs in threads of the trainer's main process, and asks servers only.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from simgym import _fibers
from simgym.assistants.base import AssistantTurn
from simgym.chat_template import render
from simgym.conversation import Message, Scenario
from simgym.envs.unwrapping import simulation_of
from simgym.errors import ServerUnavailable
from simgym.extras import optional_import
from simgym.faults import fault_label
from simgym.integrations._policy_tokens import spoken_turn, tokens_between
from simgym.integrations.outages import WAITS
from simgym.integrations.trl import Rollout
from simgym.language_models.policy_server import PolicyServer
from simgym.seeding import derive_seed
from simgym.simulation import Dialogue

_THREADS = 16
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Ended:
    """A conversation that is over."""

    rollout: Rollout | None
    """As tokens; None: it became too old and was given up."""
    version: int
    """The policy's version before its first word."""


class _Group:
    """Rollouts of one scenario that meet the same user."""

    def __init__(self, number: int, scenario: Scenario, seed: int) -> None:
        self.number, self.scenario, self.seed = number, scenario, seed
        self.opening: Future[Dialogue] = Future()
        self.ended: list[_Ended] = []


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
            ConfigurationError: `env_id` is no simgym environment, or an argument is wrong.
        """
        import gymnasium

        if user_model is not None:
            settings["model"] = user_model
        self.simulation = simulation_of(gymnasium.make(env_id, scenarios=list(scenarios), **settings))
        self.rollout_buffer: queue.Queue[Any] = queue.Queue(args.queue_maxsize)
        self.metrics_queue: queue.Queue[dict[str, Any]] = queue.Queue(4096)
        self._scenarios, self._model, self._tokenizer, self._args = list(scenarios), model, tokenizer, args
        self._seed, self._system_prompt, self._lora_name, self._waits = seed, system_prompt, lora_name, tuple(waits)
        self._sample: Callable[..., Any] = optional_import(
            "trl.experimental.async_grpo.async_rollout_worker", "train"
        ).RolloutSample
        self._policy = PolicyServer(args)
        self._version = 0
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._heartbeat = time.monotonic()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin conversations, `max_inflight_tasks` at a time."""
        at_once = max(1, self._args.max_inflight_tasks)
        self._heartbeat = time.monotonic()
        tasks, threads = _fibers.Shared(self._tasks()), min(_THREADS, at_once)
        for number in range(threads):
            share = at_once // threads + (number < at_once % threads)
            self._threads.append(threading.Thread(target=self._run, args=(tasks, share), daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """End at once; conversations in progress are dropped."""
        self._stopping.set()
        self._policy.interrupt()
        for thread in self._threads:
            thread.join(timeout=30)
        self._policy.close()

    def update_model_version(self, model_version: int) -> None:
        """The policy on the server is this version now."""
        self._version = model_version

    def check_health(self, stale_after_s: float) -> None:
        """Raise if the worker has failed, or if nobody has said anything for so many seconds.

        Raises:
            RuntimeError: the cause is chained.
        """
        if self._error is not None:
            raise RuntimeError(f"The rollout worker has failed: {self._error}") from self._error
        if (silent := time.monotonic() - self._heartbeat) > stale_after_s:
            raise RuntimeError(
                f"No conversation has gone on for {silent:.0f} s, at most {stale_after_s:g} are expected."
            )

    def _run(self, tasks: Iterator[Callable[[], None]], share: int) -> None:
        try:
            _fibers.run_tasks(tasks, share)
        except BaseException as error:  # told by check_health
            if not self._stopping.is_set():
                self._error = error
                self._stopping.set()

    def _tasks(self) -> Iterator[Callable[[], None]]:
        for number in itertools.count():
            scenario = self._scenarios[number % len(self._scenarios)]
            group = _Group(number, scenario, derive_seed(self._seed, "grpo", number, scenario.id))
            for member in range(self._args.num_generations):
                if self._stopping.is_set():
                    return
                yield partial(self._roll_out, group, member)

    def _roll_out(self, group: _Group, member: int) -> None:
        """One conversation; again from its beginning when a server was away."""
        began = time.monotonic()
        if member == 0:
            try:
                group.opening.set_result(self._through_outages(partial(self._open, group)))
            except BaseException as error:
                group.opening.set_exception(error)
                raise
        opening = _fibers.result(group.opening)
        ended = self._through_outages(partial(self._converse, member, opening))
        with self._lock:
            group.ended.append(ended)
            complete = len(group.ended) == self._args.num_generations
        self._measure(ended.rollout, time.monotonic() - began)
        if complete:
            for sample in self._samples(group):
                self._put(sample)

    def _through_outages(self, attempt: Callable[[], Any]) -> Any:
        for wait in self._waits:
            try:
                return attempt()
            except ServerUnavailable as error:
                _log.warning("%s Trying again in %g s.", error, wait)
                self._heartbeat = time.monotonic() + wait
                if _fibers.pause(self._stopping, wait):
                    raise
        return attempt()

    def _open(self, group: _Group) -> Dialogue:
        return _answered(self.simulation.open([group.seed], [group.scenario])[0])

    def _converse(self, member: int, opening: Dialogue) -> _Ended:
        """The conversation as tokens, unless it became too old."""
        version, variables = self._version, self._args.chat_template_kwargs
        system = [Message("system", self._system_prompt)] if self._system_prompt else []
        if opening.ended:
            return _Ended(Rollout(dialogue=opening, prompt_ids=[]), version)
        text = render(self._tokenizer, [*system, *opening.conversation.messages], "assistant", variables=variables)
        rollout = Rollout(
            dialogue=opening, prompt_ids=list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        )
        while True:
            if self._stopping.is_set() or self._version - version > self._args.max_staleness:
                return _Ended(None, version)
            asked = rollout.so_far
            name = f"{self._lora_name}-v{self._version}" if self._lora_name else self._model
            reply = self._policy.write(name, asked, derive_seed(rollout.dialogue.assistant_seed, "member", member))
            self._heartbeat = time.monotonic()
            rollout.completion_ids += reply.ids
            rollout.env_mask += [1] * len(reply.ids)
            rollout.logprobs += reply.logprobs
            turn = AssistantTurn("", reply.fault) if reply.fault else spoken_turn(self._tokenizer, asked, reply.ids)
            rollout.dialogue = _answered(self.simulation.step([rollout.dialogue], [turn])[0])
            if rollout.dialogue.ended:
                return _Ended(rollout, version)
            behind = tokens_between(self._tokenizer, rollout.dialogue.user_reply, variables)
            behind = behind[1:] if behind and reply.ids[-1] == behind[0] else behind  # the policy ended its turn itself
            rollout.completion_ids += behind
            rollout.env_mask += [0] * len(behind)
            rollout.logprobs += [0.0] * len(behind)

    def _samples(self, group: _Group) -> list[object]:
        """What of a complete group can be learned from, with advantages as TRL computes them."""
        judged = [
            (ended.rollout, ended.version)
            for ended in group.ended
            if ended.rollout is not None and ended.rollout.dialogue.reward is not None and any(ended.rollout.env_mask)
        ]
        rewards = np.array([rollout.dialogue.reward for rollout, _ in judged], dtype=float)
        mean, deviation = (float(rewards.mean()), float(rewards.std())) if judged else (0.0, 0.0)
        samples = []
        for (rollout, version), reward in zip(judged, rewards.tolist(), strict=True):
            said = rollout.dialogue.conversation.to_json()
            before = [{"role": "system", "content": self._system_prompt}] if self._system_prompt else []
            lead = len(rollout.prompt_ids)
            samples.append(
                self._sample(
                    prompt=[*before, *said[:1]],
                    completion=said[1:],
                    input_ids=np.asarray(rollout.so_far, dtype=np.int64),
                    completion_mask=np.asarray([0] * lead + rollout.env_mask, dtype=np.int64),
                    old_log_probs=np.asarray([0.0] * lead + rollout.logprobs, dtype=np.float32),
                    advantage=(reward - mean) / (deviation + 1e-8),
                    model_version=version,
                    group_id=group.number,
                    metrics={"reward": reward, "reward_std": deviation, "rewards/judge": reward},
                )
            )
        return samples

    def _put(self, sample: Any) -> None:
        """Into the buffer, when there is room."""
        while not self._stopping.is_set():
            self._heartbeat = time.monotonic()
            sample.enqueued_at = time.time()
            try:
                self.rollout_buffer.put_nowait(sample)
            except queue.Full:
                _fibers.pause(self._stopping, 0.1)
            else:
                return

    def _measure(self, rollout: Rollout | None, seconds: float) -> None:
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


def _answered(dialogue: Dialogue) -> Dialogue:
    """The dialogue, unless the silence of the user's or the judge's server ended it.

    Raises:
        ServerUnavailable: it did.
    """
    if dialogue.fault is not None and dialogue.fault.is_outage:
        raise ServerUnavailable(str(dialogue.fault))
    return dialogue
