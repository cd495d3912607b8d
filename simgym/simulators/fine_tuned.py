"""A user model trained on real human turns: it completes an open *user* turn, with the intent as system message.

Works with a full model or with a LoRA adapter over a base model. The prompt comes from `flip.render`, the same function
that makes the training text. If the model repeats the user's previous turn word for word, it is asked again with the
temperature raised by 0.05 an attempt, up to 1.0, five attempts (arXiv 2605.09808).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simgym.conversation import Conversation, Message, Scenario
from simgym.errors import ConfigurationError
from simgym.language_models.base import Request, Sampling
from simgym.language_models.loading import LanguageModelSpec, load_language_model
from simgym.language_models.transformers_lm import TransformersLM
from simgym.simulators.attempts import attempt_turns
from simgym.simulators.base import UserTurn
from simgym.simulators.role_play import real_openings, split_end

_TEMPERATURE_STEP, _HIGHEST_TEMPERATURE = 0.05, 1.0


class FineTuned:
    """Plays users with a model trained to; implements `UserSimulator`."""

    def __init__(
        self,
        model: LanguageModelSpec | None = None,
        *,
        adapter: str | None = None,
        temperature: float = 0.7,
        top_p: float = 0.9,
        max_new_tokens: int = 1024,
        max_attempts: int = 5,
    ) -> None:
        """Choose the user model.

        Args:
            model: A model trained on user turns, or the base of `adapter`.
            adapter: Folder or Hugging Face id of a LoRA adapter to put on `model` (in-process models only), or
                the name under which a server offers it.
            temperature: Of the first attempt.
            top_p: Nucleus.
            max_new_tokens: Bound of one user turn.
            max_attempts: Tries per turn before a fault is reported, >= 1.

        Raises:
            ConfigurationError: no model is given: this version ships none.
        """
        if model is None:
            raise ConfigurationError(
                "UserSim-FineTuned needs a user model, and this version of simgym ships none. Pass model=... "
                "(e.g. 'microsoft/UserLM-8b', or a folder), and adapter=... in simulator_options for a LoRA adapter."
            )
        if max_attempts < 1:
            raise ConfigurationError(f"max_attempts is {max_attempts}, expected >= 1.")
        self.model_spec = model
        self.adapter = adapter
        self.sampling = Sampling(temperature, top_p, max_new_tokens)
        self.max_attempts = max_attempts
        self._adapter_ready = False

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
        model = load_language_model(self.model_spec)
        if self.adapter and not self._adapter_ready:
            if isinstance(model, TransformersLM) and self.adapter not in model.adapters:
                model.load_adapter(self.adapter, self.adapter)
            self._adapter_ready = True
        return attempt_turns(
            model,
            scenarios,
            conversations,
            seeds,
            request=self._request,
            read=split_end,
            max_attempts=self.max_attempts,
        )

    def fingerprint(self) -> dict[str, Any]:
        return {
            "simulator": "fine_tuned",
            "model": load_language_model(self.model_spec).fingerprint(),
            "adapter": self.adapter,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "max_new_tokens": self.sampling.max_new_tokens,
            "max_attempts": self.max_attempts,
        }

    def _request(self, scenario: Scenario, conversation: Conversation, attempt: int) -> Request:
        first = self.sampling.temperature
        temperature = (
            first if attempt == 0 else max(first, min(_HIGHEST_TEMPERATURE, first + attempt * _TEMPERATURE_STEP))
        )
        return Request(
            (Message("system", scenario.intent), *conversation.messages),
            Sampling(temperature, self.sampling.top_p, self.sampling.max_new_tokens),
            next_role="user",
            adapter=self.adapter,
            keep_special_tokens=True,
        )
