"""The default reward model: a linear head on what the shared base model makes of question and answer.

One forward pass over the conversation, which skips the last layers, gives hidden states. Averages over each assistant
turn, over its last tokens and over the user turn before it, and how well the words of both turns match in an early
layer (`pooling.match`), are the features from which a linear head reads a reward. The score is the mean over the
assistant turns of the reward squashed to [0, 1]. The model card beside the weights says what the head was fitted on,
and what it gets right and wrong on pairs that people judged (`people_record`). The head needs no further memory where a
simulator or assistant runs on the same base.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simgym.conversation import Conversation, Scenario
from simgym.errors import ConfigurationError, WeightsError
from simgym.extras import require_extra
from simgym.jsonl import read_json
from simgym.judges.base import Judgement, computed_call, squash
from simgym.language_models.loading import LanguageModelSpec, load_language_model, unwrapped
from simgym.language_models.pooling import Exchange, Floats, match, pool, rendered
from simgym.language_models.transformers_lm import HiddenStates, TransformersLM
from simgym.transcripts import text_hash

HEADS = Path(__file__).with_name("heads")
"""Folders of the heads that simgym ships."""
SHIPPED_HEAD = HEADS / "smollm2-135m-people"
"""Fitted by `agents/people_reward.py`; its README.md is the model card. The head of earlier versions is beside it, and
is read by its name, `smollm2-135m-helpfulness`."""
PROMPTS_NAME = "prompts.txt"
"""In a head's folder: `prompt_key` of what it was fitted on, one a line."""
TENSORS = ("mean", "deviation", "match_mean", "match_deviation", "weight")
"""What `head.safetensors` holds; see `Head`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A linear reward on pooled hidden states of size D."""

    layer: int
    """Which layer's output is averaged; 1 is the first."""
    match_layer: int
    """Which layer's output is matched word by word."""
    base: str
    """Name of the base model."""
    mean: Floats
    """Shape (3, D), of question, answer and ending in training."""
    deviation: Floats
    """Shape (3, D), standard deviations, > 0."""
    match_mean: Floats
    """Shape (3,), of the matches in training."""
    match_deviation: Floats
    """Shape (3,), > 0."""
    weight: Floats
    """Shape (3 D + 3,), for the standardized answer, its product with the question, the ending, and the matches."""
    centre: float
    """Reward that becomes 0.5."""
    scale: float
    """Reward above the centre that becomes 0.73."""
    measures: str = "whether replies are more like a strong model's than like a small model's or spoilt ones"
    """What a high reward means; hashed into plans, so heads that do not say keep these words of earlier versions."""

    def features(self, pooled: Floats, matched: Floats) -> Floats:
        """What is weighed, shape (N, 3 D + 3), of N exchanges with pooled states (N, 3, D) and matches (N, 3)."""
        question, answer, ending = np.moveaxis((pooled - self.mean) / self.deviation, 1, 0)
        fit = (matched - self.match_mean) / self.match_deviation
        return np.concatenate([answer, question * answer, ending, fit], axis=1)

    def rewards(self, pooled: Floats, matched: Floats) -> Floats:
        """Rewards of N exchanges, shape (N,)."""
        rewards: Floats = self.features(pooled, matched) @ self.weight
        return rewards


def head_folder(head: str | Path) -> Path:
    """The folder of a head: one that exists, else the shipped one of that name."""
    return Path(head) if Path(head).exists() or not (HEADS / head).is_dir() else HEADS / head


def prompt_key(prompt: str) -> str:
    """Names a prompt without telling it; case and spaces do not count."""
    return text_hash(" ".join(prompt.lower().split()))[:12]


def read_head(folder: str | Path) -> Head:
    """The head in a folder: `head.safetensors` and `head.json`; or the shipped one of that name.

    Raises:
        WeightsError: a file is missing or does not hold a head.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = head_folder(folder)
    try:
        tensors = load_file(folder / "head.safetensors")
        settings = read_json(folder / "head.json")
        head = Head(
            layer=int(settings["layer"]),
            match_layer=int(settings["match_layer"]),
            base=str(settings["base"]),
            centre=float(settings["centre"]),
            scale=float(settings["scale"]),
            measures=str(settings.get("measures", Head.__dataclass_fields__["measures"].default)),
            **{name: tensors[name].astype(np.float32) for name in TENSORS},
        )
        if not (head.deviation > 0).all() or not (head.match_deviation > 0).all():
            raise ValueError("a deviation is not positive")
        head.rewards(np.zeros((1, *head.mean.shape), dtype=np.float32), np.zeros((1, 3), dtype=np.float32))
    except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError, SafetensorError) as error:
        raise WeightsError(
            f"{folder} holds no reward head: {error!r}. Make one with agents/embedded_reward.py."
        ) from error
    return head


class RewardHeadJudge:
    """Grades every assistant turn by the shipped reward model; implements `Judge`. The intent is not read."""

    def __init__(self, model: LanguageModelSpec | None = None, *, head: str | None = None) -> None:
        """Choose the head; it is loaded on the first call.

        Args:
            model: The base model the head was trained on, in process; None: the one the head names.
            head: Folder of the head, or the name of a shipped one; None: the default one.

        Raises:
            MissingDependency: the extra `local` is not installed.
        """
        require_extra("local", "The judge reward_head, which reads the hidden states of a model in this process,")
        self.folder = head_folder(head) if head is not None else SHIPPED_HEAD
        self.model_spec = model
        self._head: Head | None = None

    def judge(
        self, scenarios: Sequence[Scenario], conversations: Sequence[Conversation], *, seeds: Sequence[int]
    ) -> list[Judgement]:
        """Judge N conversations in one batched pass; no randomness. `components` are the scores of the assistant turns.

        A conversation whose turns do not all fit the context, or in which the assistant says nothing, is a fault.
        """
        head, model = self._ready()
        texts_N, exchanges_N = [], []
        for _, conversation in zip(scenarios, conversations, strict=True):
            text, exchanges = rendered(model.tokenizer, conversation.messages)
            texts_N.append(text)
            exchanges_N.append(exchanges)
        judged = [index for index, exchanges in enumerate(exchanges_N) if exchanges]
        states_N = model.hidden_states([texts_N[index] for index in judged], layers=[head.layer, head.match_layer])
        read = dict(zip(judged, states_N, strict=True))
        return [
            self._judgement(head, text, exchanges, read.get(index))
            for index, (text, exchanges) in enumerate(zip(texts_N, exchanges_N, strict=True))
        ]

    def check(self) -> None:
        """Load head and model; see `check_ready`."""
        _, model = self._ready()
        model.check()

    def fingerprint(self) -> dict[str, object]:
        head, model = self._ready()
        return {
            "judge": "reward_head",
            "measures": head.measures,
            "head": self.folder.name,
            "weights": text_hash(head.weight.tobytes().hex()),
            "model": model.fingerprint(),
            "layer": head.layer,
            "centre": head.centre,
            "scale": head.scale,
        }

    def fitted_on(self, prompt: str) -> bool:
        """Whether the head was fitted on answers to a prompt, which then says nothing of others."""
        path = self.folder / PROMPTS_NAME
        return path.is_file() and prompt_key(prompt) in path.read_text(encoding="ascii").split()

    def _judgement(self, head: Head, text: str, exchanges: list[Exchange], read: HiddenStates | None) -> Judgement:
        features = (
            [(pool(read, exchange, 0), match(read, exchange, 1)) for exchange in exchanges] if read is not None else []
        )
        kept = [(pooled, matched) for pooled, matched in features if pooled is not None and matched is not None]
        fault = None
        if read is None:
            fault = "unparsable: the assistant said nothing"
        elif len(kept) < len(exchanges):
            fault = f"context_overflow: only the last {len(read.offsets)} tokens were read"
        rewards = [] if fault else head.rewards(*(np.concatenate(side) for side in zip(*kept, strict=True))).tolist()
        if not all(map(math.isfinite, rewards)):
            fault = f"out_of_range: the rewards are {rewards}"
        tokens = len(read.offsets) if read is not None else 0
        output = ", ".join(f"{reward:+.3f}" for reward in rewards)
        call = computed_call(text, output, turn=len(exchanges), tokens=tokens, fault=fault)
        if fault:
            return Judgement(None, fault=fault, calls=(call,))
        values = [squash((reward - head.centre) / head.scale) for reward in rewards]
        reason = f"Rewards of the turns: {output}."
        return Judgement(sum(values) / len(values), reasons=(reason,), components=tuple(values), calls=(call,))

    def _ready(self) -> tuple[Head, TransformersLM]:
        if self._head is None:
            self._head = read_head(self.folder)
        model = unwrapped(load_language_model(self.model_spec if self.model_spec is not None else self._head.base))
        if not isinstance(model, TransformersLM):
            raise ConfigurationError(
                f"The judge reward_head reads hidden states and needs its base model {self._head.base} in process, "
                f"not a {type(model).__name__}. Leave the judge's model out."
            )
        if model.name != self._head.base:
            raise ConfigurationError(
                f"The reward head {self.folder.name} was trained on {self._head.base}, not on {model.name}. Leave the "
                "judge's model out, or train a head for it with agents/embedded_reward.py."
            )
        return self._head, model
