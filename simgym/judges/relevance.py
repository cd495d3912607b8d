"""How much the assistant's words make the user's need more likely: relevance, not helpfulness.

A 135M model cannot grade by prompt, but it can tell which question a text answers: the likelihood of the need *given
the answer*, minus its likelihood without, is high for an answer on the topic and near zero for one off it (query
likelihood, as in retrieval). The gain per token, in nats, is squashed to [0, 1] by a logistic curve whose two constants
are fitted by `benchmarks/relevance/run.py`. The score knows nothing of correctness, tone or effort: an answer that
parrots the question scores high. Use it to see that a pipeline works, not to choose between good assistants.
"""

from __future__ import annotations

from collections.abc import Sequence

from simgym.conversation import Conversation, Scenario
from simgym.judges.base import Judgement, computed_call, squash
from simgym.language_models.base import LanguageModel, Likelihood
from simgym.language_models.loading import LanguageModelSpec, check_language_model, load_language_model
from simgym.language_models.weights import DEFAULT_MODEL

_BEFORE_NEED = "This is a helpful reply to somebody who asked: "
_LONGEST_ANSWER, _LONGEST_NEED = 1500, 400
"""Characters; reading more costs time and changes the gain little."""


class RelevanceJudge:
    """Grades how well the answer fits the need; implements `Judge`."""

    CENTRE = 0.45
    """Gain in nats per token at which the value is 0.5."""
    SCALE = 0.17
    """Gain in nats per token that moves the value from 0.5 to 0.73."""

    def __init__(self, model: LanguageModelSpec = DEFAULT_MODEL) -> None:
        """Choose whose likelihoods are used.

        Args:
            model: A model that can compute `loglikelihood`: in process, or a server that echoes log-probabilities.
        """
        self.model_spec = model
        self._without: dict[str, Likelihood] = {}

    def judge(
        self, scenarios: Sequence[Scenario], conversations: Sequence[Conversation], *, seeds: Sequence[int]
    ) -> list[Judgement]:
        """Judge N conversations: the assistant's turns together against the user's need; no randomness.

        The need is the opening if the scenario has one (people's own words), else the goal of the intent.
        """
        model = load_language_model(self.model_spec)
        needs = [need_of(scenario) for scenario, _ in zip(scenarios, conversations, strict=True)]
        answers = ["\n".join(conversation.said_by("assistant")) for conversation in conversations]
        given = self._given(model, needs, answers)
        judgements = []
        for likelihood, need, answer, conversation in zip(given, needs, answers, conversations, strict=True):
            gain = self._gain(likelihood, need)
            tokens = likelihood.prompt_tokens + likelihood.token_count
            output = f"gain {gain:.4f} nats per token"
            turn = len(conversation.said_by("assistant"))
            call = computed_call(f"{_prompt(answer)}{need}", output, turn=turn, tokens=tokens)
            reason = f"The reply makes the user's words {gain:+.2f} nats per token more likely."
            judgements.append(Judgement(squash((gain - self.CENTRE) / self.SCALE), reasons=(reason,), calls=(call,)))
        return judgements

    def gains(self, model: LanguageModel, needs: Sequence[str], answers: Sequence[str]) -> list[float]:
        """log p(need | answer) - log p(need), nats per token of the need, for N pairs."""
        given = self._given(model, needs, answers)
        return [self._gain(likelihood, need) for likelihood, need in zip(given, needs, strict=True)]

    def check(self) -> None:
        """Load the model, or ask its server for a sign of life; see `check_ready`."""
        check_language_model(self.model_spec, "likelihoods")

    def fingerprint(self) -> dict[str, object]:
        return {
            "judge": "relevance",
            "measures": "relevance of the reply to the user's need, not helpfulness",
            "model": load_language_model(self.model_spec).fingerprint(),
            "centre": self.CENTRE,
            "scale": self.SCALE,
        }

    def _given(self, model: LanguageModel, needs: Sequence[str], answers: Sequence[str]) -> list[Likelihood]:
        """Likelihoods of N needs given their answers; those without an answer are computed once and kept."""
        new = [need for need in dict.fromkeys(needs) if need not in self._without]
        self._without.update(zip(new, model.loglikelihood([_BEFORE_NEED] * len(new), new), strict=True))
        return model.loglikelihood([_prompt(answer) for answer in answers], needs)

    def _gain(self, given: Likelihood, need: str) -> float:
        return (given.logprob - self._without[need].logprob) / given.token_count


def need_of(scenario: Scenario) -> str:
    """What the answer has to fit: the user's own opening, else the goal; bounded in length."""
    return " ".join((scenario.opening or scenario.goal).split())[:_LONGEST_NEED]


def _prompt(answer: str) -> str:
    return f"{answer.strip()[:_LONGEST_ANSWER]}\n\n{_BEFORE_NEED}"
