"""A user model trained on real human turns: it completes an open *user* turn, with the intent as system message.

Works with a full model, with a LoRA adapter over a base model, and out of the box: without a model it is the adapter
that simgym ships, on the default model. The prompt comes from `chat_template.render`, the same function that makes the
training text, so any checkpoint trained on a flipped chat template fits, e.g.
`jjssuh/sftuser-base-Qwen2.5-7B-Instruct` or `microsoft/UserLM-8b`: how a user turn begins and ends is read off the
template. If the model repeats the user's previous turn word for word, it is asked again with the temperature raised by
0.05 an attempt, up to 1.0, five attempts (arXiv 2605.09808).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from simgym.conversation import END_OF_CONVERSATION, Conversation, Message, Scenario
from simgym.errors import ConfigurationError
from simgym.language_models.adapters import adapter_fingerprint
from simgym.language_models.base import AdaptableModel, LanguageModel, Request, SamplingParams
from simgym.language_models.loading import LanguageModelSpec, check_language_model, load_language_model, unwrapped
from simgym.language_models.model_spec import ModelSpec
from simgym.language_models.weights import DEFAULT_MODEL
from simgym.simulators._attempts import attempt_turns
from simgym.simulators.base import ForcedTurn, UserTurn
from simgym.simulators.role_play import real_openings, split_end

SHIPPED_ADAPTER = Path(__file__).parent / "adapters" / "smollm2-135m-assistants"
"""Trained by `agents/sft_user.py --config agents/configs/shipped_user.yaml`; its README.md is the model card."""
EARLIER_ADAPTER = Path(__file__).parent / "adapters" / "smollm2-135m-chitchat"
"""What was shipped before: trained on people who chat with people. Runs recorded with it go on with `adapter=` this."""
_TEMPERATURE_STEP, _HIGHEST_TEMPERATURE = 0.05, 1.0


class FineTuned:
    """Plays users with a model trained to; implements `UserSimulator`."""

    def __init__(
        self,
        model: LanguageModelSpec | None = None,
        *,
        adapter: str | None = "auto",
        end_token: str = END_OF_CONVERSATION,
        temperature: float = 0.7,
        top_p: float = 0.9,
        max_new_tokens: int = 1024,
        max_attempts: int = 5,
    ) -> None:
        """Choose the user model.

        Args:
            model: A model trained on user turns, or the base of `adapter`; None: the default model.
            adapter: Folder or Hugging Face id of a LoRA adapter to put on `model` (in-process models only), or
                the name under which a server offers it. `auto`: the one that simgym ships if the model is the default
                one, however it is given (a name, settings with another dtype), else none. None: none.
            end_token: What the model writes to leave the conversation, if it was trained with another mark.
            temperature: Of the first attempt.
            top_p: Nucleus.
            max_new_tokens: Bound of one user turn.
            max_attempts: Tries per turn before a fault is reported, >= 1.

        Raises:
            ConfigurationError: `max_attempts` is less than 1.
        """
        model = DEFAULT_MODEL if model is None else model
        if adapter == "auto":
            adapter = str(SHIPPED_ADAPTER) if _is_default_model(model) else None
        if max_attempts < 1:
            raise ConfigurationError(f"max_attempts is {max_attempts}, expected >= 1.")
        self.model_spec = model
        self.adapter = adapter
        self.end_token = end_token
        self.sampling = SamplingParams(temperature, top_p, max_new_tokens)
        self.max_attempts = max_attempts

    def open(self, scenarios: Sequence[Scenario], *, seeds: Sequence[int]) -> list[UserTurn]:
        """The real openings; a scenario without one is opened by the model."""
        missing = [index for index, scenario in enumerate(scenarios) if scenario.opening is None]
        if not missing:
            return real_openings(scenarios)
        written = iter(
            self.reply(
                [scenarios[i] for i in missing], [Conversation()] * len(missing), seeds=[seeds[i] for i in missing]
            )
        )
        return [UserTurn(scenario.opening) if scenario.opening else next(written) for scenario in scenarios]

    def reply(
        self, scenarios: Sequence[Scenario], conversations: Sequence[Conversation], *, seeds: Sequence[int]
    ) -> list[UserTurn]:
        return attempt_turns(
            self.language_model(),
            scenarios,
            conversations,
            seeds,
            request=self._request,
            read=partial(split_end, mark=self.end_token),
            max_attempts=self.max_attempts,
        )

    def language_model(self) -> LanguageModel:
        """The model, with the adapter loaded."""
        model = load_language_model(self.model_spec)
        inner = unwrapped(model)
        if self.adapter and isinstance(inner, AdaptableModel) and self.adapter not in inner.adapters:
            inner.load_adapter(self.adapter, self.adapter)
        return model

    def force(self, scenario: Scenario, conversation: Conversation, said: str) -> ForcedTurn:
        """The open user turn, completed."""
        return ForcedTurn(self._request(scenario, conversation, 0, 0), "", said)

    def check(self) -> None:
        """Load model and adapter, or ask the server, whose model needs a tokenizer here; see `check_ready`."""
        check_language_model(self.language_model(), "user_turns", adapter=self.adapter)

    def fingerprint(self) -> dict[str, object]:
        return {
            "simulator": "fine_tuned",
            "model": load_language_model(self.model_spec).fingerprint(),
            "adapter": adapter_fingerprint(self.adapter) if self.adapter else None,
            **({"end_token": self.end_token} if self.end_token != END_OF_CONVERSATION else {}),
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "max_new_tokens": self.sampling.max_new_tokens,
            "max_attempts": self.max_attempts,
        }

    def _request(self, scenario: Scenario, conversation: Conversation, attempt: int, seed: int) -> Request:
        first = self.sampling.temperature
        temperature = max(first, min(_HIGHEST_TEMPERATURE, first + attempt * _TEMPERATURE_STEP))
        return Request(
            (Message("system", scenario.intent), *conversation.messages),
            SamplingParams(temperature, self.sampling.top_p, self.sampling.max_new_tokens),
            seed=seed,
            next_role="user",
            adapter=self.adapter,
            kept_tokens=(self.end_token,),
        )


def _is_default_model(model: LanguageModelSpec) -> bool:
    """Whether a model is the default one, which nobody has trained on user turns."""
    spec = ModelSpec.parse(model).innermost
    if spec.instance is not None:
        return getattr(spec.instance, "name", None) == DEFAULT_MODEL
    return spec.kind == "transformers" and spec.arguments.get("model", DEFAULT_MODEL) == DEFAULT_MODEL
