"""Fine-tune a user simulator: an LM learns to write the human side of logged conversations.

    python agents/sft_user.py --config agents/configs/laptop.yaml
    python agents/sft_user.py --config agents/configs/paper_7b.yaml --dry_run
    accelerate launch agents/sft_user.py --config agents/configs/paper_7b.yaml

Method: "flipping the dialogue" of arXiv 2605.09808 with TRL's `SFTTrainer`, full fine-tuning or LoRA (`use_peft`).
Conversations come from `simgym data` (the shipped user's from `human_ai_train.jsonl`, see `shipped_user.yaml`) or from
the package chitchat-dataset, and are flipped and tokenized once into the output folder. The same command again goes on
from the last checkpoint. Settings are those of TRL (`SFTConfig`, `ModelConfig`) plus the ones of `UserData` below, in
YAML, as flags, or both. The paper configurations use bfloat16; it is turned off where the device has none.
`training_log.json` in the output folder holds every logged figure.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from simgym.chat_template import add_end_token
from simgym.data import LoggedConversation, StepOutput, flip_conversations, read_logged
from simgym.integrations import batch_flags, last_complete_checkpoint, plan_training, run_script
from simgym.training_plan import estimate_activations, estimate_state


@dataclass
class UserData:
    """What to learn from."""

    train_data: str = "chitchat"
    """A file of `simgym data` with intents, or `chitchat` (its train split)."""
    validation_data: str | None = "chitchat"
    """As `train_data` (its validation split); none: no validation."""
    validation_limit: int | None = None
    """Take the first so many conversations of it."""
    max_tokens: int = 2048
    """Longest example; longer conversations are cut at a turn boundary."""
    effective_batch: int | None = None
    """Conversations of one update, shared by all processes; `per_device_train_batch_size` is then the most that fits
    a device, and gradient accumulation follows. None: the settings as they are."""
    dry_run: bool = False
    """Print steps, tokens and an estimate of memory, and train nothing."""
    architecture: str | None = None
    """The model's configuration as JSON: the dry run takes it instead of the model's own, which may be out of reach."""
    conversations: int | None = None
    """How many conversations the dry run assumes where `train_data` is not there yet."""
    tokens_per_conversation: int = 600
    """And how long it takes them to be."""
    compile_layers: bool = False
    """Compile the model's layers, which needs a C++ compiler and a minute: on a CPU with bfloat16 1.6 times faster."""
    devices: int = 1
    """Over how many devices the dry run spreads weights, gradients and optimizer (FSDP or ZeRO-3)."""


def main() -> None:
    """Parse the settings, then train or describe."""
    from trl import ModelConfig, SFTConfig, TrlParser

    arguments = [
        *device_flags(),
        *sys.argv[1:],
        *batch_flags(sys.argv[1:]),
    ]  # the reader's own flags come later, and win
    data, training, model = TrlParser((UserData, SFTConfig, ModelConfig)).parse_args_and_config(arguments)
    if data.dry_run:
        describe(data, training, model)
    else:
        train(data, training, model)


def device_flags() -> list[str]:
    """What this machine cannot do of what a configuration may ask for: training on a GPU, and bfloat16."""
    import torch

    if torch.cuda.is_available():
        return [] if torch.cuda.is_bf16_supported() else ["--bf16", "false"]
    if torch.backends.mps.is_available():
        return ["--bf16", "false"]
    planned = any(flag.startswith(("--dry_run", "--dry-run")) for flag in sys.argv)  # for another machine
    if torch.cpu._is_amx_tile_supported():  # multiplies bfloat16 several times faster than float32
        return ["--use_cpu", "true"]
    return ["--use_cpu", "true", *([] if planned else ["--bf16", "false"])]


def train(data: UserData, training: Any, options: Any) -> None:
    """Fine-tune; resumes from the last checkpoint in the output folder."""
    folder = Path(training.output_dir)
    trainer, files = make_trainer(data, training, options)
    last = last_complete_checkpoint(folder)
    if last and (folder / "training_log.json").is_file() and int(last.rpartition("-")[2]) >= training.max_steps > 0:
        print(f"{folder} is finished: {training.max_steps} steps. Give another output_dir to train again.", flush=True)
        return
    plan = plan_training(trainer, effective_batch=data.effective_batch, longest=data.max_tokens)
    if trainer.is_world_process_zero():
        print(plan.describe(), flush=True)
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model(str(folder / "final"))
    if trainer.is_world_process_zero():
        write_log(trainer, data, options, folder, files)


def make_trainer(data: UserData, training: Any, options: Any) -> tuple[Any, dict[str, Path]]:
    """The trainer, ready to start, and the files of flipped examples by split."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    folder = Path(training.output_dir)
    name = weights_of(options.model_name_or_path)
    tokenizer = AutoTokenizer.from_pretrained(name, revision=options.model_revision)
    model = load_model(name, options)
    token = add_end_token(tokenizer, model)
    with training.main_process_first(desc="flipping"):
        files = {"train": flipped(data, "train", tokenizer, folder)}
        if data.validation_data:
            files["validation"] = flipped(data, "validation", tokenizer, folder)
        sets = load_dataset("json", data_files={key: str(path) for key, path in files.items()})
    # Examples are ready for the collator; TRL would only look at them again (and cut them in the middle of a turn).
    training.dataset_kwargs = {**(training.dataset_kwargs or {}), "skip_prepare_dataset": True}
    training.max_length = None
    # with several processes gradients meet in DistributedDataParallel's forward pass, which the cheaper loss goes round
    alone = training.world_size == 1 and training.use_cpu
    frozen_head = options.use_peft and alone and has_plain_tied_head(model)
    trainer = trainer_class(frozen_head=frozen_head)(
        model=model,
        args=training,
        train_dataset=sets["train"].select_columns(["input_ids", "labels"]),
        eval_dataset=sets["validation"].select_columns(["input_ids", "labels"]) if "validation" in sets else None,
        processing_class=tokenizer,
        peft_config=lora(options, token) if options.use_peft else None,
    )
    if options.use_peft:
        # TRL 1.16 asks the output layer for its bias, and PEFT's wrapper of an embedding with trainable rows has none.
        trainer.model.get_output_embeddings().bias = None
        without_embeddings(trainer.model)
    if data.compile_layers:
        for layer in trainer.model.get_base_model().model.layers if options.use_peft else trainer.model.model.layers:
            layer.compile(dynamic=True)  # in place, so that weights keep their names
    return trainer, files


def flipped(data: UserData, split: str, tokenizer: Any, folder: Path) -> Path:
    """The file of flipped examples, made unless an earlier run has finished it with the same data and settings."""
    path = folder / f"flipped_{split}.jsonl"
    made_with = folder / f"flipped_{split}.made_with.json"
    conversations = load_conversations(data, split)
    digest = hashlib.sha256(str(tokenizer.chat_template).encode())
    for logged in conversations:
        digest.update(json.dumps(logged.to_json()).encode())
    wanted = {"conversations": digest.hexdigest(), "vocabulary": len(tokenizer), "max_tokens": data.max_tokens}
    if path.exists() and made_with.exists() and json.loads(made_with.read_text()) == wanted:
        return path
    with StepOutput(path) as output:
        flip_conversations(conversations, tokenizer, output, max_tokens=data.max_tokens)
    made_with.write_text(json.dumps(wanted))
    print(f"{split}: {output.summary()}", flush=True)
    return path


def load_conversations(data: UserData, split: str) -> list[LoggedConversation]:
    """The conversations of a split."""
    source, limit = (data.train_data, None) if split == "train" else (data.validation_data, data.validation_limit)
    if source == "chitchat":
        from simgym.data import chitchat_conversations, chitchat_splits

        return chitchat_splits(chitchat_conversations().conversations)[split][:limit]
    return list(read_logged(str(source)))[:limit]


def weights_of(name: str) -> str:
    """Where the weights are; the default model goes by its name, and a GGUF file is converted."""
    from simgym.language_models import DEFAULT_MODEL, resolve_weights

    return resolve_weights(name).path if name == DEFAULT_MODEL or name.lower().endswith(".gguf") else name


def load_model(name: str, options: Any) -> Any:
    """The causal language model."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        name,
        revision=options.model_revision,
        dtype=options.dtype if options.dtype in (None, "auto") else getattr(torch, options.dtype),
        attn_implementation=options.attn_implementation,
        use_safetensors=True,
    )


def lora(options: Any, token: int) -> Any:
    """LoRA over the linear layers, with the new token's embedding row trainable."""
    from trl import get_peft_config

    config = get_peft_config(options)
    config.trainable_token_indices = [token]
    return config


def without_embeddings(model: Any) -> None:
    """Keep PEFT from saving the whole embedding matrix because a row was added: the row is in the adapter itself."""
    model.save_pretrained = functools.partial(model.save_pretrained, save_embedding_layers=False)


def has_plain_tied_head(model: Any) -> bool:
    """Whether logits are hidden states times the input embeddings and nothing else, as `FrozenHeadTrainer` has it."""
    shaping = ("final_logit_softcapping", "logits_scaling", "logit_scale")
    return (
        bool(model.config.tie_word_embeddings)
        and hasattr(model, "model")
        and getattr(model.get_output_embeddings(), "bias", None) is None
        and not any(getattr(model.config, name, None) for name in shaping)
    )


def trainer_class(*, frozen_head: bool) -> Any:
    """`SFTTrainer`, or the same with a loss that costs less where the embeddings are frozen but for one row.

    On a CPU TRL's fused loss scores every position and PEFT's trainable row copies and differentiates the whole
    embedding matrix, twice a step. Here only positions with a label are scored, and gradients reach only the row.
    Loss and gradients are the same; a test compares them.
    """
    from trl import SFTTrainer

    if not frozen_head:
        return SFTTrainer

    class FrozenHeadTrainer(SFTTrainer):  # type: ignore[misc]
        """SFTTrainer for one process, LoRA and tied, otherwise frozen embeddings."""

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            base = model.get_base_model()
            head = base.get_output_embeddings()
            with self.accelerator.autocast():  # which otherwise begins in the forward pass that this goes round
                hidden = base.model(
                    inputs_embeds=base.get_input_embeddings().original_module(inputs["input_ids"]),
                    attention_mask=inputs["attention_mask"],
                    use_cache=False,
                ).last_hidden_state
                loss, logits = labelled_loss(hidden, inputs["labels"], head)
            count = num_items_in_batch if num_items_in_batch is not None else (inputs["labels"][:, 1:] != -100).sum()
            return (loss / count, {"logits": logits}) if return_outputs else loss / count

    return FrozenHeadTrainer


def labelled_loss(hidden: Any, labels: Any, head: Any) -> tuple[Any, Any]:
    """Summed cross-entropy of the labelled positions, and their logits; `head` has one trainable row.

    Args:
        hidden: Last hidden states, (batch, length, width).
        labels: (batch, length), -100 where there is nothing to learn.
        head: PEFT's wrapper of the output layer.
    """
    import torch.nn.functional as F

    mask = labels[:, 1:] != -100
    states, wanted = hidden[:, :-1][mask], labels[:, 1:][mask]
    logits = F.linear(states, head.original_module.weight.detach())
    layer = head.token_adapter
    (adapter,) = layer.active_adapters
    rows = layer.trainable_tokens_delta[adapter]
    columns = logits.new_tensor(layer.token_indices[adapter], dtype=wanted.dtype)
    logits = logits.index_copy(1, columns, (states @ rows.to(states.dtype).T).to(logits.dtype)).float()
    return F.cross_entropy(logits, wanted, reduction="sum"), logits


def write_log(trainer: Any, data: UserData, options: Any, folder: Path, files: dict[str, Path]) -> None:
    """Everything that was logged, with settings and versions, as JSON."""
    args = trainer.args
    kept = (
        "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "max_steps",
        "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "world_size", "seed",
    )  # fmt: skip
    log = {
        "model": options.model_name_or_path,
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
        "settings": {key: getattr(args, key) for key in kept} | {"max_tokens": data.max_tokens},
        "lora": {"r": options.lora_r, "alpha": options.lora_alpha, "targets": options.lora_target_modules}
        if options.use_peft
        else None,
        "trainable_parameters": sum(
            parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad
        ),
        "data": {
            key: json.loads(path.with_name(path.stem + ".summary.json").read_text()) for key, path in files.items()
        },
        "steps": trainer.state.global_step,
        "tokens_seen": trainer.state.num_input_tokens_seen,
        "history": trainer.state.log_history,
    }
    (folder / "training_log.json").write_text(json.dumps(log, indent=1) + "\n")


@dataclass(frozen=True)
class Plan:
    """What a training run takes, as far as it can be told without running it."""

    conversations: int
    """Examples per epoch."""
    tokens: int
    """Tokens per epoch, those without a label included."""
    steps: int
    """Optimizer steps."""
    parameters: int
    """Weights of the model."""
    trainable: int
    """Weights that are learned."""
    state_gib: float
    """Weights, gradients and the two moments of AdamW, per device, GiB."""
    activation_gib: float
    """Activations and logits of one micro-batch of the longest examples, per device, GiB; a rough upper estimate."""


def describe(data: UserData, training: Any, options: Any) -> Plan:
    """Print what a run would take; nothing is trained and no weights are read.

    Memory is estimated as in `simgym.training_plan`, all of it spread over `devices`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    name = weights_of(options.model_name_or_path)
    if data.architecture:
        fields = json.loads(data.architecture)
        config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    else:
        config = AutoConfig.from_pretrained(name, revision=options.model_revision)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if options.use_peft:
        from peft import get_peft_model

        model = get_peft_model(model, lora(options, config.vocab_size - 1))
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    else:
        trainable = parameters
    conversations, tokens = _size(data)
    each = training.per_device_train_batch_size
    batch = data.effective_batch or each * training.gradient_accumulation_steps * data.devices
    steps = training.max_steps
    if steps <= 0:
        steps = math.ceil(math.ceil(conversations / batch) * training.num_train_epochs)
    width = 2 if options.dtype in ("bfloat16", "float16") else 4
    plan = Plan(
        conversations=conversations,
        tokens=tokens,
        steps=steps,
        parameters=parameters,
        trainable=trainable,
        state_gib=estimate_state(
            frozen_bytes=(parameters - trainable) * width,
            trainable=trainable,
            width=width,
            shards=data.devices,
            stage=3,
        ),
        activation_gib=estimate_activations(
            config.get_text_config(),
            tokens=each * data.max_tokens,
            width=2 if training.bf16 or training.fp16 else width,
            checkpointing=training.gradient_checkpointing,
            logits=True,
        ),
    )
    seen = min(tokens * training.num_train_epochs, steps * batch * tokens / max(1, conversations))
    learned, schedule = f"{trainable / 1e9:.3f} B learned", f"warm-up {training.warmup_steps:g}"
    for label, text in (
        ("model", f"{options.model_name_or_path}: {parameters / 1e9:.2f} B weights, {learned}"),
        ("data", f"{conversations:,} conversations, {tokens:,} tokens an epoch{_assumed(data)}"),
        ("steps", f"{steps:,} of {batch} conversations, lr {training.learning_rate:g}, {schedule}"),
        ("tokens read", f"{seen:,.0f}"),
        ("memory", f"{plan.state_gib:.1f} GiB weights, gradients, optimizer on each of {data.devices} device(s)"),
        ("", f"{plan.activation_gib:.1f} GiB activations and logits of one micro-batch (upper estimate)"),
    ):
        print(f"{label:14} {text}")
    return plan


def _size(data: UserData) -> tuple[int, int]:
    """Conversations and tokens of an epoch; tokens are guessed: four characters each, at most `max_tokens`."""
    if data.conversations is not None and data.train_data != "chitchat" and not Path(data.train_data).is_file():
        return data.conversations, data.conversations * data.tokens_per_conversation
    logged = load_conversations(data, "train")
    lengths = [sum(len(message.content) for message in each.conversation.messages) // 4 for each in logged]
    return len(logged), sum(min(data.max_tokens, length) for length in lengths)


def _assumed(data: UserData) -> str:
    missing = data.train_data != "chitchat" and not Path(data.train_data).is_file()
    return f" (assumed: {data.train_data} is not there)" if missing else " (estimated from its characters)"


if __name__ == "__main__":
    run_script(main)
