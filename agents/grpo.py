"""Train an assistant by GRPO on whole conversations with a simulated user.

    python agents/grpo.py --config agents/configs/grpo_laptop.yaml
    accelerate launch agents/grpo.py --config agents/configs/grpo_paper_3b.yaml

TRL's `GRPOTrainer` with simgym's rollout function: all conversations of a batch are stepped together, rollouts of a
group meet the same user, what the user says is masked. Settings are those of TRL (`GRPOConfig`, `ModelConfig`) plus the
ones of `UserSettings` below, in YAML, as flags, or both. Every `eval_steps` the policy meets the same validation
scenarios and users; `checkpoint.json` names the step at the onset of the plateau (`simgym.statistics.plateau`).
`log.jsonl` gets every figure, `conversations.jsonl` a few conversations of every logged step. `simgym.json` in `final`
and in every checkpoint records the training: `simgym matrix --assistant FOLDER` names the row by it and knows its
training simulator. The same command again continues from the last checkpoint, exactly as long as the first pass over
the scenarios lasts: in later ones TRL's sampler begins its order anew.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from simgym.conversation import Scenario
from simgym.envs.outages import WAITS
from simgym.errors import MalformedFile, ServerUnavailable
from simgym.integrations import (
    as_mapping,
    batch_flags,
    device_flags,
    judge_reward,
    last_complete_checkpoint,
    make_rollout_func,
    plan_training,
    run_script,
    scenario_dataset,
    training_record,
    training_records,
)
from simgym.jsonl import read_jsonl
from simgym.statistics import plateau_onset


@dataclass
class UserSettings:
    """Who plays the user, who judges, and on what."""

    env_id: str = "UserSim-FineTuned-v0"
    """Who plays the user."""
    scenarios: str = "everyday"
    """Scenario set; a fifth is held out."""
    validation: int = 16
    """Held-out scenarios that every validation uses."""
    max_turns: int = 2
    """Assistant turns of a conversation."""
    effective_batch: int | None = None
    """Rollouts of one update, shared by all processes; `per_device_train_batch_size` is then the most that fits a
    device, and gradient accumulation follows. None: TRL's settings as they are."""
    user_model: str | None = None
    """Model of the user: a name, `openai:NAME`, or JSON; none: the environment's own."""
    judge: str = "reward_head"
    """Who gives the reward."""
    judge_model: str | None = None
    """Model of the judge; as `user_model`."""
    judge_options: str | None = None
    """Further arguments of the judge, JSON (or a mapping in YAML)."""
    simulator_options: str | None = None
    """Further arguments of the simulator, as `judge_options`."""
    numerics: str | None = None
    """`bfloat16-mixed`: of the policy's frozen linear layers; see `simgym.engine.numerics`."""
    generation: Literal["trl", "engine"] = "trl"
    """Who writes the policy's turns: TRL, or simgym's engine on the same weights."""
    system_prompt: str | None = None
    """Of the policy; none: what its chat template does without one."""
    outage_waits: list[float] = field(default_factory=lambda: list(WAITS))
    """Seconds before each new attempt when no server answers."""
    sample_conversations: int = 2
    """Conversations written to `conversations.jsonl` at every logged step."""


def main() -> None:
    """Parse the settings, then train."""
    from trl import GRPOConfig, ModelConfig, TrlParser

    arguments = [*device_flags(), *sys.argv[1:], *batch_flags(sys.argv[1:])]
    users, training, model = TrlParser((UserSettings, GRPOConfig, ModelConfig)).parse_args_and_config(arguments)
    train(users, training, model)


def train(users: UserSettings, training: Any, options: Any) -> None:
    """Train; resumes from the last checkpoint in the output folder."""
    folder = Path(training.output_dir)
    last = last_complete_checkpoint(folder)
    # the initial model, which the plateau is measured from; once, for it draws random numbers
    training.eval_on_start = last is None and training.eval_strategy != "no"
    trainer = make_trainer(users, training, options)
    plan = plan_training(
        trainer,
        effective_batch=users.effective_batch,
        longest=longest_conversation(users, trainer),
        generation=users.generation,
    )
    if trainer.is_world_process_zero():
        print(plan.describe(), flush=True)
    try:
        trainer.train(resume_from_checkpoint=last)
    except ServerUnavailable as error:
        if trainer.state.global_step:  # every process is here, for they give up together
            trainer._save_checkpoint(trainer.model, trial=None)
        raise SystemExit(
            f"{error} The run stops after step {trainer.state.global_step}; when the servers answer again, the "
            "same command goes on from there."
        ) from error
    trainer.save_model(str(folder / "final"))
    if trainer.is_world_process_zero():
        training_record(trainer, base_model(options)).save(folder / "final")
        write_summary(trainer, folder)


def make_trainer(users: UserSettings, training: Any, options: Any) -> Any:
    """The trainer, ready to start."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOTrainer, get_peft_config

    from simgym.engine.numerics import convert
    from simgym.language_models import DEFAULT_MODEL, resolve_weights

    train_set, validation = split(users)
    weights = resolve_weights(options.model_name_or_path, revision=options.model_revision)
    tokenizer = AutoTokenizer.from_pretrained(weights.path, revision=weights.revision)
    model = AutoModelForCausalLM.from_pretrained(
        weights.path,
        revision=weights.revision,
        dtype=options.dtype,
        attn_implementation=options.attn_implementation,
        use_safetensors=True,
    )
    name = options.model_name_or_path
    in_process = name in (users.user_model or DEFAULT_MODEL, users.judge_model or DEFAULT_MODEL)
    if options.use_peft and in_process and options.model_revision is None and not training.use_vllm:
        share_weights(model, name)  # vLLM's path merges the adapter into the base weights for a while
    if users.numerics is not None:
        if not options.use_peft or users.numerics != "bfloat16-mixed":
            raise SystemExit(f"numerics is {users.numerics}, expected bfloat16-mixed with use_peft: true, or none.")
        convert(model, users.numerics)
    settings: dict[str, Any] = {
        "model": users.user_model,
        "judge_model": users.judge_model,
    }
    rollouts = make_rollout_func(
        users.env_id,
        scenarios=[*train_set, *validation],
        seed=training.seed,
        system_prompt=users.system_prompt,
        waits=users.outage_waits,
        generation=users.generation,
        max_turns=users.max_turns,
        judge=users.judge,
        judge_options=as_mapping(users.judge_options),
        simulator_options=as_mapping(users.simulator_options),
        **{name: value for name, value in settings.items() if value is not None},
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=judge_reward,
        args=training,
        train_dataset=scenario_dataset(train_set),
        eval_dataset=scenario_dataset(validation),
        processing_class=tokenizer,
        rollout_func=rollouts,
        peft_config=get_peft_config(options),
    )
    trainer.add_callback(make_log(Path(training.output_dir), rollouts, users.sample_conversations))
    trainer.add_callback(training_records(trainer, base_model(options)))
    return trainer


def longest_conversation(users: UserSettings, trainer: Any) -> int:
    """Tokens of a conversation of the longest turns, if the user's are as long as the assistant's."""
    context = getattr(trainer.model.config, "max_position_embeddings", None)
    tokens = 2 * users.max_turns * trainer.args.max_completion_length
    return min(tokens, context) if context else tokens


def base_model(options: Any) -> str:
    """The model as `ModelSpec` reads it."""
    name, revision = options.model_name_or_path, options.model_revision
    return f"{name}@{revision}" if revision not in (None, "main") else str(name)


def split(users: UserSettings) -> tuple[list[Scenario], list[Scenario]]:
    """Scenarios to train and to validate on, by their ids alone: the same for every simulator."""
    from simgym.data import hold_out, load_scenarios

    train_set, held_out = hold_out(load_scenarios(users.scenarios))
    return train_set, held_out[: users.validation]


def share_weights(model: Any, name: str) -> None:
    """Let the frozen weights under the policy's adapter be those that users and judges of the same model hold."""
    import torch

    from simgym.language_models import load_language_model

    shared = dict(load_language_model(name).model.named_parameters())
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            other = shared.get(key)
            if other is not None and other.shape == parameter.shape and other.dtype == parameter.dtype:
                parameter.data = other.data


def make_log(folder: Path, rollouts: Any, sampled: int) -> Any:
    """A callback that writes figures and conversations as they come."""
    from transformers import TrainerCallback

    class Log(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            """What was logged behind the checkpoint is done, and logged, again."""
            if not state.is_world_process_zero:  # one process writes, and counts the faults of all
                return
            for name in ("log.jsonl", "conversations.jsonl"):
                if (folder / name).is_file():
                    rows = kept_rows(folder / name, state.global_step)
                    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
                    if rows and "faults" in rows[-1]:
                        rollouts.faults.update(rows[-1]["faults"])

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **more: Any) -> None:
            if not state.is_world_process_zero:
                return
            folder.mkdir(parents=True, exist_ok=True)
            row = {"step": state.global_step, **(logs or {}), "faults": dict(rollouts.faults)}
            with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(
                json.dumps({key: row[key] for key in ("step", "reward", "eval_reward", "kl") if key in row}), flush=True
            )
            with (folder / "conversations.jsonl").open("a", encoding="utf-8") as file:
                for dialogue in rollouts.latest[:sampled]:
                    file.write(json.dumps({"step": state.global_step, **dialogue.to_json()}) + "\n")

    return Log()


def kept_rows(path: Path, step: int) -> list[dict[str, Any]]:
    """Rows up to a step; none of a run that begins anew, and none that a kill tore."""
    rows = []
    with contextlib.suppress(MalformedFile):
        for _, row in read_jsonl(path, torn="skip", allow_nan=True):
            rows.append(row)
    return [row for row in rows if row["step"] <= step] if step else []


def write_summary(trainer: Any, folder: Path) -> None:
    """Which checkpoint to take, and the validation curve that says so."""
    curve = {row["step"]: row["eval_reward"] for row in trainer.state.log_history if "eval_reward" in row}
    # TRL logs None (or NaN) for an evaluation without any judgement
    finite = {step: reward for step, reward in curve.items() if reward is not None and math.isfinite(reward)}
    chosen = list(finite)[plateau_onset(list(finite.values()))] if finite else None
    path = folder / f"checkpoint-{chosen}"
    summary = {
        "validation_reward": finite,
        "plateau_onset": chosen,
        "checkpoint": path.name if path.is_dir() else "base model" if chosen == 0 else None,
        "log": trainer.state.log_history,
    }
    (folder / "checkpoint.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(f"validation reward by step: {finite}; the plateau begins at {chosen}", flush=True)


if __name__ == "__main__":
    run_script(main)
