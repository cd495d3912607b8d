"""A language model as assistant, with or without a system prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from simgym.assistants.base import AssistantTurn
from simgym.conversation import Conversation, Message
from simgym.errors import ConfigurationError
from simgym.language_models.base import AdaptableModel, LanguageModel, Request, SamplingParams, record_call
from simgym.language_models.loading import LanguageModelSpec, check_language_model, load_language_model, unwrapped
from simgym.language_models.weights import DEFAULT_MODEL
from simgym.plugins import unknown
from simgym.text_files import read_text
from simgym.transcripts import text_hash


class LanguageModelAssistant:
    """Answers with a language model; implements `Assistant`."""

    def __init__(
        self,
        model: LanguageModelSpec = DEFAULT_MODEL,
        *,
        system_prompt: str | None = None,
        adapter: str | None = None,
        sampling: SamplingParams = SamplingParams(max_new_tokens=2048),  # noqa: B008  # frozen
    ) -> None:
        """Choose the model.

        Args:
            model: A name, settings or instance; see `load_language_model`.
            system_prompt: Text of the system message; None: what the model's chat template does without one.
            adapter: Folder of a LoRA adapter, which is put on the model on first use, or the name of one that the model
                has already.
            sampling: How replies are sampled; default T = 1, up to 2,048 tokens (arXiv 2605.09808).
        """
        self.model_spec = model
        self.system_prompt = system_prompt
        self.adapter = adapter
        self.sampling = sampling

    def respond(self, conversations: Sequence[Conversation], *, seeds: Sequence[int]) -> list[AssistantTurn]:
        return self.answer(conversations, [self.system_prompt] * len(conversations), seeds=seeds)

    def answer(
        self, conversations: Sequence[Conversation], system_prompts: Sequence[str | None], *, seeds: Sequence[int]
    ) -> list[AssistantTurn]:
        """As `respond`, each of the N conversations with a system prompt of its own; None: without one."""
        model = self.language_model()
        requests = [
            Request(
                (*((Message("system", prompt),) if prompt else ()), *conversation.messages),
                self.sampling,
                seed=seed,
                adapter=self.adapter,
            )
            for conversation, prompt, seed in zip(conversations, system_prompts, seeds, strict=True)
        ]
        turns = []
        for conversation, request, generation in zip(conversations, requests, model.generate(requests), strict=True):
            text = re.sub(r"[\ud800-\udfff]", "�", generation.text).strip()
            fault = generation.fault or (None if text else "empty")
            call = record_call("assistant", len(conversation.said_by("assistant")), request, generation, fault)
            turns.append(AssistantTurn("" if fault else text, fault, (call,)))
        return turns

    def language_model(self) -> LanguageModel:
        """The model, with the adapter loaded."""
        model = load_language_model(self.model_spec)
        if self.adapter and Path(self.adapter).is_dir():
            inner = unwrapped(model)
            if isinstance(inner, AdaptableModel) and self.adapter not in inner.adapters:
                inner.load_adapter(self.adapter, self.adapter)
        return model

    def check(self) -> None:
        """Load the model, or ask its server for a sign of life; see `check_ready`."""
        check_language_model(self.language_model(), adapter=self.adapter)

    def fingerprint(self) -> dict[str, object]:
        from simgym.language_models.adapters import adapter_fingerprint

        return {
            "assistant": "language_model",
            "model": load_language_model(self.model_spec).fingerprint(),
            "system_prompt": self.system_prompt,
            "prompt_hash": text_hash(self.system_prompt or ""),
            "adapter": adapter_fingerprint(self.adapter) if self.adapter else None,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "max_new_tokens": self.sampling.max_new_tokens,
        }


def prompt_exists(name: str) -> bool:
    """Whether `read_prompt` finds a prompt of that name."""
    return bool(name) and (_shipped(name).is_file() or Path(name).is_file())


def read_prompt(name: str) -> str:
    """The system prompt that is shipped under that name, or the content of that file.

    Raises:
        ConfigurationError: there is neither.
    """
    shipped = _shipped(name)
    if shipped.is_file():
        return shipped.read_text(encoding="utf-8").strip()
    if not Path(name).is_file():
        folder = resources.files("simgym.assistants") / "prompts"
        known = sorted(entry.name.removesuffix(".txt") for entry in folder.iterdir() if entry.name.endswith(".txt"))
        raise ConfigurationError(f"{unknown('system prompt', name, known)} Or give the path of a text file.")
    return read_text(name).strip()


def _shipped(name: str) -> Traversable:
    return resources.files("simgym.assistants") / "prompts" / f"{name}.txt"
