"""GRPO over whole conversations: a `rollout_func` for TRL's `GRPOTrainer` that steps all conversations together.

    trainer = GRPOTrainer(
        model, judge_reward, args=config,
        train_dataset=scenario_dataset(scenarios),
        rollout_func=make_rollout_func("UserSim-FineTuned-v0", scenarios=scenarios, max_turns=3),
    )
    trainer.add_callback(training_records(trainer, "Qwen/Qwen2.5-3B-Instruct"))

A prompt is the id of a scenario. The rollouts of a group meet the same user: they share scenario, persona, opening and
all randomness of the user's side, so that they differ by what the policy says alone. The user speaks in the template's
own *user* role. What is trained on is what was sampled: token ids come from the generation, a later prompt is the
earlier tokens with the user's turn behind them, and nothing is decoded and tokenized again; tokens that the policy did
not write have 0 in `env_mask`. A rollout without a judgement has the reward None, which TRL leaves out of the group's
mean and gives no advantage; `Rollouts.faults` counts them.

Generation is TRL's own (`transformers`, or one of its vLLM modes), or with `generation="engine"` that of simgym's
engine on the same weights. With several processes the rollouts of a group may be spread over them: each scenario is
opened by one process, for all, and every process asks TRL for equally many replies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from simgym.assistants.base import AssistantTurn
from simgym.assistants.training_record import TrainingRecord
from simgym.chat_template import render
from simgym.conversation import Message, Scenario
from simgym.envs.unwrapping import simulation_of
from simgym.errors import ConfigurationError, MissingDependency
from simgym.extras import describe, install_command, missing_packages, optional_import
from simgym.faults import Fault, FaultKind, fault_label
from simgym.integrations._policy_tokens import spoken_turn, tokens_between
from simgym.integrations.outages import WAITS, check_servers, retry_on_outage, silent
from simgym.integrations.policy_engine import PolicyEngine
from simgym.seeding import derive_seed
from simgym.simulation import Dialogue, Simulation

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainerCallback

Value = TypeVar("Value")


@dataclass(slots=True, kw_only=True)
class Rollout:
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


class Rollouts:
    """Plays the scenarios that TRL asks for; what `make_rollout_func` returns."""

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
        self._longest: int | None = None
        self.latest: list[Dialogue] = []
        """This process's conversations of the latest call, in order; for logs."""

    def __call__(self, prompts: Sequence[Sequence[Mapping[str, str]]], trainer: Any) -> dict[str, list[object]]:
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
        return retry_on_outage(self._play, prompts, trainer, waits=self.waits)

    def _play(self, prompts: Sequence[Sequence[Mapping[str, str]]], trainer: Any) -> dict[str, list[Any]]:
        tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
        training = trainer.model.training
        step = trainer.state.global_step if training else "evaluation"
        self._longest = _context_length(trainer)
        rollouts = self._open(tokenizer, [prompt[-1]["content"] for prompt in prompts], step, trainer)
        with self._engine.rollout(trainer) if self._engine else nullcontext():
            self._talk(tokenizer, rollouts, step, trainer)
        dialogues = [rollout.dialogue for rollout in rollouts]
        if all(_gathered(silent(dialogues) is not None, trainer)):  # processes try again together, or not at all
            check_servers(dialogues)
        return self._output(tokenizer, rollouts, trainer)

    def _talk(self, tokenizer: Any, rollouts: list[Rollout], step: int | str, trainer: Any) -> None:
        """Play the conversations to their ends, turn by turn."""
        while wanted := max(_gathered(len(running := _not_ended(rollouts)), trainer)):
            asked = [rollout.so_far for rollout in running]
            if self._engine:
                places = [place for place, rollout in enumerate(rollouts) if not rollout.dialogue.ended]
                ids_N, logprobs_N = self._engine.generate(asked, places, step, trainer), None
            else:
                # vLLM behind a server, or over several GPUs, deals replies out in equal shares: all processes ask for
                # as many, a process whose conversations are over for nothing but padding, which is dropped
                padding = [min((rollout.prompt_ids for rollout in rollouts), key=len)] * (wanted - len(running))
                ids_N, logprobs_N = trainer._generate_single_turn([*asked, *padding], None, {}, 1)
            if not running:
                continue
            turns = []
            for number, (rollout, ids) in enumerate(zip(running, ids_N[: len(running)], strict=True)):
                rollout.completion_ids += ids
                rollout.env_mask += [1] * len(ids)
                if logprobs_N is not None:
                    rollout.logprobs += logprobs_N[number]
                turns.append(spoken_turn(tokenizer, asked[number], ids))
            stepped = self.simulation.step([rollout.dialogue for rollout in running], turns)
            for rollout, dialogue in zip(running, stepped, strict=True):
                rollout.dialogue = dialogue
                if not dialogue.ended:
                    self._hear(tokenizer, rollout, trainer)

    def _open(self, tokenizer: Any, ids: Sequence[str], step: int | str, trainer: Any) -> list[Rollout]:
        """Conversations that begin, one opening for all rollouts of a scenario."""
        opened = self._openings(ids, step, trainer)
        rollouts = []
        for rollout_id in ids:
            dialogue = opened[rollout_id]  # a fork: the same value begins every rollout of the group
            if dialogue.ended:  # the opening failed
                rollouts.append(Rollout(dialogue=dialogue, prompt_ids=[tokenizer.eos_token_id]))
                continue
            said = [*self._system(), *dialogue.conversation.messages]
            text = render(tokenizer, said, "assistant", variables=trainer.chat_template_kwargs)
            rollouts.append(
                Rollout(dialogue=dialogue, prompt_ids=list(tokenizer(text, add_special_tokens=False)["input_ids"]))
            )
            self._check_room(rollouts[-1], [], trainer)
        return rollouts

    def _openings(self, ids: Sequence[str], step: int | str, trainer: Any) -> dict[str, Dialogue]:
        """The opening of every scenario by its id; of one that several processes play, that of the first of them.

        A group may span processes, and a served user, or one in bfloat16, need not open alike twice.
        """
        first: dict[str, int] = {}
        for process, theirs in enumerate(_gathered(list(ids), trainer)):
            for rollout_id in theirs:
                first.setdefault(rollout_id, process)
        ours = [rollout_id for rollout_id, process in first.items() if process == trainer.accelerator.process_index]
        seeds = [derive_seed(self.seed, "grpo", step, rollout_id) for rollout_id in ours]
        dialogues = self.simulation.open(seeds, ours) if ours else []
        opened = _gathered(dict(zip(ours, dialogues, strict=True)), trainer)
        return {rollout_id: dialogue for theirs in opened for rollout_id, dialogue in theirs.items()}

    def _system(self) -> list[Message]:
        return [Message("system", self.system_prompt)] if self.system_prompt else []

    def _hear(self, tokenizer: Any, rollout: Rollout, trainer: Any) -> None:
        """Put the user's turn behind what was sampled, and what opens the policy's next turn."""
        behind = tokens_between(tokenizer, rollout.dialogue.user_reply, trainer.chat_template_kwargs)
        written = rollout.completion_ids[-1]
        if behind and written == behind[0]:  # the policy ended its turn itself
            behind = behind[1:]
        self._check_room(rollout, behind, trainer)
        if rollout.dialogue.ended:
            return
        rollout.completion_ids += behind
        rollout.env_mask += [0] * len(behind)
        if rollout.logprobs:
            rollout.logprobs += [0.0] * len(behind)

    def _check_room(self, rollout: Rollout, behind: Sequence[int], trainer: Any) -> None:
        """End a conversation in whose context another turn does not fit."""
        longest, room = self._longest, trainer.args.max_completion_length
        if longest is not None and len(rollout.so_far) + len(behind) + room > longest:
            full = Fault(FaultKind.CONTEXT_OVERFLOW, f"no room for {room} tokens in {longest}")
            rollout.dialogue = self.simulation.step([rollout.dialogue], [AssistantTurn("", str(full))])[0]

    def _output(self, tokenizer: Any, rollouts: Sequence[Rollout], trainer: Any) -> dict[str, list[Any]]:
        self.latest = [rollout.dialogue for rollout in rollouts]
        faults = [
            f"{dialogue.end_reason}: {fault_label(dialogue.fault)}"
            for dialogue in self.latest
            if dialogue.reward is None
        ]
        for theirs in _gathered(faults, trainer):
            self.faults.update(theirs)
        for rollout in rollouts:
            if not rollout.completion_ids:  # the opening failed: nothing to learn from, and TRL wants a token
                rollout.completion_ids, rollout.env_mask = [tokenizer.eos_token_id], [0]
        told = trainer.use_vllm or any(rollout.logprobs for rollout in rollouts)
        return {
            "prompt_ids": [rollout.prompt_ids for rollout in rollouts],
            "completion_ids": [rollout.completion_ids for rollout in rollouts],
            "env_mask": [rollout.env_mask for rollout in rollouts],
            "logprobs": [rollout.logprobs or [0.0] * len(rollout.env_mask) for rollout in rollouts] if told else None,  # type: ignore[dict-item]
            "judge_reward": [rollout.dialogue.reward for rollout in rollouts],
            "end_reason": [rollout.dialogue.end_reason for rollout in rollouts],
            "turns": [rollout.dialogue.turn for rollout in rollouts],
            "scenario_id": [rollout.dialogue.scenario.id for rollout in rollouts],
            "conversation": [rollout.dialogue.conversation.to_json() for rollout in rollouts],
        }


def make_rollout_func(
    env_id: str,
    *,
    scenarios: Sequence[Scenario],
    seed: int = 0,
    system_prompt: str | None = None,
    waits: Sequence[float] = WAITS,
    generation: Literal["trl", "engine"] = "trl",
    **settings: Any,
) -> Rollouts:
    """A `rollout_func` for TRL's `GRPOTrainer`.

    Args:
        env_id: Who plays the user, `UserSim-...`.
        scenarios: Those of the training and the evaluation dataset together.
        seed: Decides all randomness of the users, together with the trainer's step; in evaluation the step does not
            count, so that every evaluation meets the same users. The policy's own sampling follows TRL's seed.
        system_prompt: Of the policy; None: what its chat template does without one.
        waits: Seconds before each new attempt when servers do not answer.
        generation: Who writes the policy's turns: `trl` (its `generate`, or vLLM), or `engine`, simgym's own on the
            same weights; see `simgym.integrations.policy_engine`.
        settings: Arguments of the environment: `judge`, `max_turns`, `model` (of the user), and so on.

    Raises:
        MissingDependency: TRL is absent, or of a version whose trainer calls rollout functions otherwise.
        ConfigurationError: `env_id` is no simgym environment, or an argument is wrong.
    """
    import gymnasium

    if unfit := [package for package in missing_packages("train") if package.name == "trl"]:
        raise MissingDependency(f"A rollout function needs TRL: {describe(unfit)} Run: {install_command('train')}")
    simulation = simulation_of(gymnasium.make(env_id, scenarios=list(scenarios), **settings))
    return Rollouts(
        simulation, env_id=env_id, seed=seed, system_prompt=system_prompt, waits=waits, generation=generation
    )


def training_record(trainer: Any, base_model: str | Mapping[str, Any]) -> TrainingRecord:
    """What the policy has been trained with so far.

    Args:
        trainer: A `GRPOTrainer` whose `rollout_func` is of `make_rollout_func`.
        base_model: The model it began as: a name or settings, as `ModelSpec` reads them.

    Raises:
        ConfigurationError: the trainer has another rollout function.
    """
    rollouts = trainer.rollout_func
    if not isinstance(rollouts, Rollouts):
        raise ConfigurationError(
            f"The trainer's rollout_func is a {type(rollouts).__name__}, expected that of make_rollout_func."
        )
    simulation = rollouts.simulation
    return TrainingRecord(
        method="grpo",
        env_id=rollouts.env_id,
        base_model=base_model,
        seed=rollouts.seed,
        steps=trainer.state.global_step,
        max_turns=simulation.max_turns,
        simulator=simulation.simulator.fingerprint(),
        judge=simulation.judge.fingerprint(),
        system_prompt=rollouts.system_prompt,
    )


def training_records(trainer: Any, base_model: str | Mapping[str, object]) -> TrainerCallback:
    """A callback for `add_callback` that writes the record of the training beside every checkpoint; see
    `training_record`."""
    from transformers import TrainerCallback

    class Records(TrainerCallback):  # type: ignore[misc]
        def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if state.is_world_process_zero and folder.is_dir():
                training_record(trainer, base_model).save(folder)

    return Records()


def scenario_dataset(scenarios: Sequence[Scenario]) -> Dataset:
    """A `datasets.Dataset` whose prompts are scenario ids, for `train_dataset` and `eval_dataset`."""
    from datasets import Dataset

    return Dataset.from_list([{"prompt": [{"role": "user", "content": scenario.id}]} for scenario in scenarios])


def judge_reward(judge_reward: Sequence[float | None], **columns: Any) -> list[float | None]:
    """TRL's reward function: what the judge said; None where there is no judgement."""
    log: Callable[[str, float], None] | None = columns.get("log_metric")
    if log is not None and judge_reward:
        log("simgym/unjudged", sum(reward is None for reward in judge_reward) / len(judge_reward))
        turns = columns.get("turns") or [0]
        log("simgym/turns", sum(turns) / len(turns))
    return list(judge_reward)


def _not_ended(rollouts: Sequence[Rollout]) -> list[Rollout]:
    return [rollout for rollout in rollouts if not rollout.dialogue.ended]


def _context_length(trainer: Any) -> int | None:
    """Tokens that a conversation may have: what the model takes, and vLLM's own limit if it is lower."""
    limits = [getattr(trainer.model.config, "max_position_embeddings", None)]
    if trainer.use_vllm:
        limits.append(trainer.args.vllm_max_model_length)
        # one process alone talks to a server
        client = getattr(trainer.vllm_generation, "vllm_client", None)
        limits += _gathered(client.get_server_info()["model_config"]["max_model_len"] if client else None, trainer)
    return min((limit for limit in limits if limit is not None), default=None)


def _gathered(value: Value, trainer: Any) -> list[Value]:
    """What every process says, in their order; all of them have to ask."""
    if trainer.accelerator.num_processes == 1:
        return [value]
    return list(optional_import("accelerate.utils", "train").gather_object([value]))
