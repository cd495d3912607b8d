"""Train a reward model on pairs of answers, for `judge="reward_model"`.

    python agents/reward_model.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --train_data pairs.jsonl \\
        --output_dir runs/reward --num_train_epochs 1
    simgym judge validate held_out.jsonl --judge reward_model --judge-option model=runs/reward/final

TRL's `RewardTrainer` (Bradley-Terry loss) on `{"instruction", "chosen", "rejected"}` rows, or on a preference
dataset of the Hub with `chosen` and `rejected` conversations. Reward models learn to like length if the chosen answers
are longer: the share of pairs in which they are is printed first, and `--balance_length` keeps as many pairs of either
kind. Settings are those of TRL (`RewardConfig`, `ModelConfig`) plus the ones below. The same command again goes on
from the last checkpoint.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class RewardData:
    """What to learn from."""

    train_data: str = ""
    """JSONL file of pairs, or a preference dataset on the Hub."""
    balance_length: bool = False
    """Drop pairs at random until the chosen answer is the longer one as often as the shorter one."""
    limit: int | None = None
    """Take the first so many pairs."""


def main() -> None:
    """Parse the settings, then train."""
    from trl import ModelConfig, RewardConfig, TrlParser

    from simgym.integrations import device_flags

    data, training, model = TrlParser((RewardData, RewardConfig, ModelConfig)).parse_args_and_config(
        [*device_flags(), *sys.argv[1:]]
    )
    train(data, training, model)


def train(data: RewardData, training: Any, options: Any) -> None:
    """Train; resumes from the last checkpoint in the output folder."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardTrainer, get_peft_config

    from simgym.integrations import last_complete_checkpoint, plan_training
    from simgym.language_models import resolve_weights

    weights = resolve_weights(options.model_name_or_path, revision=options.model_revision)
    tokenizer = AutoTokenizer.from_pretrained(weights.path, revision=weights.revision)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForSequenceClassification.from_pretrained(
        weights.path,
        revision=weights.revision,
        num_labels=1,
        dtype=options.dtype if options.dtype in (None, "auto") else getattr(torch, options.dtype),
        use_safetensors=True,
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    options.lora_task_type = "SEQ_CLS"  # the score head is new, and is learned along with the adapter
    trainer = RewardTrainer(
        model=model,
        args=training,
        train_dataset=load_pairs(data, training.seed),
        processing_class=tokenizer,
        peft_config=get_peft_config(options),
    )
    folder = Path(training.output_dir)
    plan = plan_training(trainer, longest=training.max_length)
    if trainer.is_world_process_zero():
        print(plan.describe(), flush=True)
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(folder))
    if options.use_peft:
        trainer.model = trainer.model.merge_and_unload()  # a judge loads one folder
    trainer.save_model(str(folder / "final"))


def load_pairs(data: RewardData, seed: int) -> Any:
    """The pairs as conversations with `chosen` and `rejected`."""
    from datasets import Dataset, load_dataset

    from simgym.data import is_file_name

    if is_file_name(data.train_data):
        from simgym.evaluation import read_pairs

        rows = [
            {
                "chosen": conversation(pair.instruction, pair.chosen),
                "rejected": conversation(pair.instruction, pair.rejected),
            }
            for pair in read_pairs(data.train_data)
        ]
        pairs = Dataset.from_list(rows)
    else:
        pairs = load_dataset(data.train_data, split="train").select_columns(["chosen", "rejected"])
    if data.limit is not None:
        pairs = pairs.select(range(min(data.limit, len(pairs))))
    longer = [length(pair["chosen"]) > length(pair["rejected"]) for pair in pairs]
    print(
        f"{len(pairs)} pairs; the chosen answer is the longer one in {100 * sum(longer) / len(pairs):.1f} %", flush=True
    )
    return balanced(pairs, longer, seed) if data.balance_length else pairs


def balanced(pairs: Any, longer: list[bool], seed: int) -> Any:
    """As many pairs in which the chosen answer is the longer one as in which it is not."""
    import numpy as np

    rng = np.random.default_rng(seed)
    kinds = [np.flatnonzero(np.array(longer) == kind) for kind in (True, False)]
    fewest = min(map(len, kinds))
    if not fewest:
        raise SystemExit("All chosen answers are longer, or none is: the pairs cannot be balanced for length.")
    kept = sorted(int(row) for kind in kinds for row in rng.permutation(kind)[:fewest])
    print(f"{len(kept)} pairs after balancing", flush=True)
    return pairs.select(kept)


def conversation(instruction: str, answer: str) -> list[dict[str, str]]:
    """A question and its answer."""
    return [{"role": "user", "content": instruction}, {"role": "assistant", "content": answer}]


def length(messages: list[dict[str, str]]) -> int:
    """Characters of the last message."""
    return len(messages[-1]["content"])


if __name__ == "__main__":
    from simgym.integrations import run_script

    run_script(main)
