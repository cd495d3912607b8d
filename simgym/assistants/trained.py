"""A trained assistant from its folder: a whole model, a LoRA adapter on its base, or a policy over replies.

The folder's `simgym.json` (see `simgym.assistants.training_record`) says which base model belongs to it and with which
system prompt it was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from simgym.assistants.base import Assistant, AssistantTurn
from simgym.assistants.language_model_assistant import LanguageModelAssistant
from simgym.assistants.training_record import TrainingRecord
from simgym.conversation import Conversation
from simgym.errors import ConfigurationError
from simgym.language_models.base import SamplingParams
from simgym.language_models.model_spec import AnswerCache, ModelSpec
from simgym.plugins import check_ready, make

_ADAPTER, _POLICY = "adapter_config.json", "policy.json"


class TrainedAssistant:
    """An assistant with the record of its training; implements `Assistant`."""

    def __init__(self, assistant: Assistant, training: TrainingRecord) -> None:
        """Keep an assistant and its record together.

        Args:
            assistant: Who answers.
            training: How it was trained.
        """
        self.assistant = assistant
        self.training = training

    def respond(self, conversations: Sequence[Conversation], *, seeds: Sequence[int]) -> list[AssistantTurn]:
        return self.assistant.respond(conversations, seeds=seeds)

    def check(self) -> None:
        """Check the assistant; see `check_ready`."""
        check_ready(self.assistant)

    def fingerprint(self) -> dict[str, object]:
        """The assistant's own: its weights identify it, however they came about."""
        return self.assistant.fingerprint()


def load_trained(
    folder: str | Path,
    training: TrainingRecord,
    sampling: SamplingParams,
    *,
    system_prompt: str | None = None,
    cache: AnswerCache = AnswerCache(),  # noqa: B008  # frozen
) -> TrainedAssistant:
    """The assistant in a folder; no language model is loaded yet.

    Args:
        folder: What a trainer saved.
        training: The record in it.
        sampling: How replies are sampled; a policy over replies keeps the sampling of its training.
        system_prompt: Instead of the one of the training.
        cache: Where responses of the model are kept; default: nowhere.

    Raises:
        ConfigurationError: a policy is given a system prompt, or the base model of an adapter is not one in process.
        WeightsError: the policy cannot be read.
        MissingDependency: the folder holds a policy, and the extra `train` is not installed.
    """
    folder = Path(folder)
    if (folder / _POLICY).is_file():
        if system_prompt is not None:
            raise ConfigurationError(f"{folder} holds a policy that chooses its prompts or replies. Leave +PROMPT out.")
        return TrainedAssistant(make("assistants", "policy", {"folder": str(folder)}), training)
    is_adapter = (folder / _ADAPTER).is_file()
    spec = ModelSpec.parse(training.base_model if is_adapter else str(folder))
    if is_adapter and spec.kind != "transformers":
        raise ConfigurationError(f"{folder} holds an adapter on {spec.name}, expected a base model in this process.")
    assistant = LanguageModelAssistant(
        cache.around(spec),
        system_prompt=system_prompt if system_prompt is not None else training.system_prompt,
        adapter=str(folder) if is_adapter else None,
        sampling=sampling,
    )
    return TrainedAssistant(assistant, training)
