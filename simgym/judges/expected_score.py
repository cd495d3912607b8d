"""The grade a language model expects to give: the mean of the digits 0 to 9, weighted by how likely it finds each.

One forward pass over the prompt instead of a written reply, and a value that moves smoothly where a written grade jumps
(G-Eval, Liu et al. 2023, arXiv 2303.16634, weighs scores by probability). Needs a model that tells probabilities of
first tokens (`ChoosingModel`: models in process). If the digits together are unlikely, the model was not about to
grade, and the judgement is a fault.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from simgym.conversation import Conversation, Message, Scenario, written_out
from simgym.errors import ConfigurationError
from simgym.judges.base import Judgement
from simgym.judges.rubrics import load_rubric
from simgym.language_models.base import ChoosingModel, Request, SamplingParams
from simgym.language_models.loading import LanguageModelSpec, check_language_model, load_language_model, unwrapped
from simgym.language_models.weights import DEFAULT_MODEL
from simgym.transcripts import ModelCall

DIGITS = tuple("0123456789")
LEAST_MASS = 0.1
"""Probability that the digits together must have."""


class ExpectedScoreJudge:
    """Grades by expected digit; implements `Judge`. A 135M model cannot do it; use several billion parameters."""

    def __init__(self, model: LanguageModelSpec = DEFAULT_MODEL, *, rubric: str = "expected_score") -> None:
        """Choose who grades by what.

        Args:
            model: The judging model, in process.
            rubric: Built-in name, or path of a text file with `$intent` and `$conversation` that asks for a digit.
        """
        self.model_spec = model
        self.rubric = load_rubric(rubric, ("conversation",), ("intent",))

    def judge(
        self, scenarios: Sequence[Scenario], conversations: Sequence[Conversation], *, seeds: Sequence[int]
    ) -> list[Judgement]:
        """Judge N conversations; no randomness.

        Raises:
            ConfigurationError: the model does not tell probabilities of tokens.
        """
        model = unwrapped(load_language_model(self.model_spec))
        if not isinstance(model, ChoosingModel):
            raise ConfigurationError(
                "The expected_score judge needs a model in this process, which tells how likely each digit is. Use the "
                "rubric judge with a server."
            )
        requests = [self._request(*pair) for pair in zip(scenarios, conversations, strict=True)]
        judgements = []
        for conversation, request, logprobs in zip(
            conversations, requests, model.choose(requests, DIGITS), strict=True
        ):
            chances = [math.exp(logprob) for logprob in logprobs]
            mass = sum(chances)
            value = sum(digit * chance for digit, chance in enumerate(chances)) / mass / 9 if mass else 0.0
            fault = None if mass >= LEAST_MASS else f"unparsable: the digits have {mass:.3f} of the probability"
            fault = fault if logprobs else "context_overflow: the conversation does not fit the model's context"
            call = ModelCall(
                role="judge",
                turn=len(conversation.said_by("assistant")),
                seed=request.seed,
                prompt=request.messages[0].content,
                output=" ".join(f"{digit}:{chance:.3f}" for digit, chance in zip(DIGITS, chances, strict=False)),
                prompt_tokens=0,
                completion_tokens=0,
                fault=fault,
            )
            judgements.append(Judgement(None if fault else min(1.0, value), fault=fault, calls=(call,)))
        return judgements

    def check(self) -> None:
        """Load the model, or ask its server for a sign of life; see `check_ready`."""
        check_language_model(self.model_spec)

    def fingerprint(self) -> dict[str, object]:
        return {
            "judge": "expected_score",
            "model": load_language_model(self.model_spec).fingerprint(),
            "least_mass": LEAST_MASS,
            **self.rubric.fingerprint(),
        }

    def _request(self, scenario: Scenario, conversation: Conversation) -> Request:
        text = self.rubric.fill(intent=scenario.intent, conversation=written_out(conversation, indented=True))
        return Request((Message("user", text),), SamplingParams(temperature=0.0, max_new_tokens=1))
