"""A reward model grades: any `AutoModelForSequenceClassification` with one output, from a folder or the Hub.

The conversation goes through the reward model's own chat template, its single logit is the reward, and the logistic
function makes it a value in [0, 1], centred where you say: reward models are trained on differences, so their zero
means nothing. Weights are safetensors; code that comes with them runs only if you ask for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from simgym._forks import ForkSafeLock
from simgym.chat_template import render
from simgym.conversation import Conversation, Scenario, up_to_answer
from simgym.errors import ConfigurationError
from simgym.extras import require_extra
from simgym.judges.base import Judgement, computed_call, squash
from simgym.language_models.pretrained import device_of, dtype_of, load_pretrained
from simgym.language_models.threads import check_fork, settle_threads
from simgym.language_models.weights import local_chat_template, local_files, resolve_weights
from simgym.transcripts import text_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DTYPES = ("float32", "bfloat16", "float16")


class RewardModelJudge:
    """Grades by reward model; implements `Judge`. The hidden intent is not shown: reward models have not seen any."""

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        centre: float = 0.0,
        scale: float = 1.0,
        max_batch_size: int = 16,
        device: str = "auto",
        dtype: str = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        """Describe the model; it is loaded on the first call.

        Args:
            model: Folder or Hugging Face id (`owner/model@revision`).
            revision: Hub revision to pin.
            centre: Reward that becomes 0.5.
            scale: Reward above the centre that becomes 0.73, > 0.
            max_batch_size: Conversations per forward pass, >= 1.
            device: What torch calls it; `auto`: a GPU if there is one.
            dtype: `float32`, `bfloat16` or `float16`; `auto`: bfloat16 on a GPU, else float32.
            trust_remote_code: Run code that comes with the weights.

        Raises:
            MissingDependency: the extra `local` is not installed.
            ConfigurationError: a number is out of range.
        """
        require_extra("local", f"The reward model {model!r}")
        if not 0 < scale < math.inf or not math.isfinite(centre) or max_batch_size < 1:
            raise ConfigurationError(
                f"centre is {centre}, scale {scale}, max_batch_size {max_batch_size}; expected finite, > 0, >= 1."
            )
        if dtype not in ("auto", *_DTYPES):
            raise ConfigurationError(f"dtype is {dtype!r}, expected auto, {', '.join(_DTYPES)}.")
        self.name, self.revision = model, revision
        self.centre, self.scale = centre, scale
        self.max_batch_size, self.device, self.dtype = max_batch_size, device, dtype
        self.trust_remote_code = trust_remote_code
        self._lock = ForkSafeLock()
        self._loaded: tuple[PreTrainedTokenizerBase, PreTrainedModel] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_lock": None, "_loaded": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _lock=ForkSafeLock())

    def judge(
        self, scenarios: Sequence[Scenario], conversations: Sequence[Conversation], *, seeds: Sequence[int]
    ) -> list[Judgement]:
        """Judge N conversations up to the assistant's last turn; no randomness.

        One that is longer than the context is a fault (`context_overflow`).
        """
        with self._lock:
            model, tokenizer = self._ready()
            texts = [
                render(tokenizer, up_to_answer(conversation).messages, None)
                for _, conversation in zip(scenarios, conversations, strict=True)
            ]
            ids_N = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
            longest = getattr(model.config, "max_position_embeddings", None) or math.inf
            fitting = sorted((i for i, ids in enumerate(ids_N) if len(ids) <= longest), key=lambda i: len(ids_N[i]))
            rewards: dict[int, float] = {}
            for start in range(0, len(fitting), self.max_batch_size):
                batch = fitting[start : start + self.max_batch_size]
                rewards.update(zip(batch, self._rewards(model, [ids_N[i] for i in batch]), strict=True))
        return [
            self._judgement(rewards.get(index), texts[index], len(ids_N[index]), conversation)
            for index, conversation in enumerate(conversations)
        ]

    def check(self) -> None:
        """Load the model; see `check_ready`."""
        with self._lock:
            self._ready()

    def fingerprint(self) -> dict[str, object]:
        template = local_chat_template(self.name)
        return {
            "judge": "reward_model",
            "model": self.name,
            **local_files(self.name),
            **({"chat_template": text_hash(template)} if template else {}),
            "revision": self.revision,
            "centre": self.centre,
            "scale": self.scale,
            **({} if self.dtype == "auto" else {"dtype": self.dtype}),
        }

    def _judgement(self, reward: float | None, text: str, tokens: int, conversation: Conversation) -> Judgement:
        fault = None
        if reward is None:
            fault = f"context_overflow: {tokens} tokens"
        elif not math.isfinite(reward):
            fault = f"out_of_range: the reward is {reward}"
        output = "" if reward is None else f"reward {reward:.4f}"
        call = computed_call(text, output, turn=len(conversation.said_by("assistant")), tokens=tokens, fault=fault)
        if fault or reward is None:
            return Judgement(None, fault=fault, calls=(call,))
        score = squash((reward - self.centre) / self.scale)
        return Judgement(score, reasons=(f"Reward {reward:+.2f}.",), calls=(call,))

    def _rewards(self, model: PreTrainedModel, ids_N: list[list[int]]) -> list[float]:
        import torch

        longest = max(map(len, ids_N))
        pad = model.config.pad_token_id
        # right padding: classification heads of decoders read the last token that is not padding
        padded = torch.tensor([ids + [pad] * (longest - len(ids)) for ids in ids_N], device=model.device)
        mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in ids_N], device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=padded, attention_mask=mask).logits
        return [float(value) for value in logits[:, 0].float()]

    def _ready(self) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
        settle_threads()
        check_fork(self.device)
        if self._loaded is None:
            from transformers import AutoModelForSequenceClassification

            device = device_of(self.device)
            dtype = dtype_of(self.dtype, device)
            weights = resolve_weights(self.name, revision=self.revision)
            common: dict[str, object] = {"revision": weights.revision, "trust_remote_code": self.trust_remote_code}
            tokenizer, model = load_pretrained(
                AutoModelForSequenceClassification, self.name, weights, common, dtype=dtype
            )
            if model.config.num_labels != 1:
                raise ConfigurationError(
                    f"{self.name} has {model.config.num_labels} outputs, expected one. Is it a reward model?"
                )
            if model.config.pad_token_id is None:
                model.config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
            self._loaded = (model.to(device).eval(), tokenizer)
        return self._loaded
