"""A language model round a language model: `CountingLM` says what an experiment cost.

It changes nothing about requests or generations. Retrying is not here: the `openai` client does it for servers, and a
model in process does not fail by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from simgym.language_models.base import Generation, LanguageModel, Likelihood, Request


@dataclass(frozen=True, slots=True)
class Counts:
    """What has been asked of a language model so far."""

    requests: int = 0
    """Generations asked for, faults included."""
    prompt_tokens: int = 0
    """Tokens read for them."""
    completion_tokens: int = 0
    """Tokens written."""
    faults: int = 0
    """Requests that ended in a fault."""
    scored: int = 0
    """Pairs of prompt and continuation whose likelihood was asked for; their tokens are not counted."""


class CountingLM:
    """Counts what goes through a language model; implements `LanguageModel`. Use it from one thread."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.counts = Counts()

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Answer N requests; see `LanguageModel.generate`."""
        generations = self.model.generate(requests)
        before = self.counts
        self.counts = replace(
            before,
            requests=before.requests + len(generations),
            prompt_tokens=before.prompt_tokens + sum(reply.prompt_tokens for reply in generations),
            completion_tokens=before.completion_tokens + sum(reply.completion_tokens for reply in generations),
            faults=before.faults + sum(reply.fault is not None for reply in generations),
        )
        return generations

    def loglikelihood(
        self, prompts: Sequence[str], continuations: Sequence[str], *, adapter: str | None = None
    ) -> list[Likelihood]:
        """Log-likelihood of each continuation after its prompt; see `LanguageModel.loglikelihood`."""
        likelihoods = self.model.loglikelihood(prompts, continuations, adapter=adapter)
        self.counts = replace(self.counts, scored=self.counts.scored + len(likelihoods))
        return likelihoods

    def fingerprint(self) -> dict[str, object]:
        """The inner model's: counting changes no reply."""
        return self.model.fingerprint()
