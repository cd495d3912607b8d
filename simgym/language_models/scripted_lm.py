"""A language model whose replies are given by a rule: for documentation, tests and debugging a prompt.

The rule sees the request and returns a text. When the request asks for JSON, the text is put into every string field of
a minimal object of that schema, and numbers get their minimum; so one rule serves every simulator and judge. Nothing
here pretends to be a model: the fingerprint says `scripted`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from simgym.language_models.base import Generation, Likelihood, Request, check_pairs
from simgym.language_models.thoughts import without_reasoning


class ScriptedLM:
    """Answers by rule; implements `LanguageModel`."""

    def __init__(self, model: str | Callable[[Request], str] = "echo") -> None:
        """Choose the rule.

        Args:
            model: A function of the request; `echo` (repeats the last message); `seed` (says a number that the
                request's seed decides); or a text that is always said.
        """
        self.rule = model

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        return [self._answer(request) for request in requests]

    def loglikelihood(
        self, prompts: Sequence[str], continuations: Sequence[str], *, adapter: str | None = None
    ) -> list[Likelihood]:
        """Two nats for a word that does not occur in the prompt, a half for one that does."""
        check_pairs(prompts, continuations)
        likelihoods = []
        for prompt, continuation in zip(prompts, continuations, strict=True):
            words = continuation.split() or [continuation]
            seen = set(prompt.split())
            likelihoods.append(Likelihood(-sum(0.5 if word in seen else 2.0 for word in words), len(words)))
        return likelihoods

    def fingerprint(self) -> dict[str, object]:
        return {"kind": "scripted", "model": self.rule if isinstance(self.rule, str) else repr(self.rule)}

    def _answer(self, request: Request) -> Generation:
        prompt = "\n".join(f"{message.role}: {message.content}" for message in request.messages)
        if callable(self.rule):
            text = self.rule(request)
        else:
            built_in = {
                "echo": request.messages[-1].content if request.messages else "",
                "seed": f"number {request.seed}",
            }
            text = built_in.get(self.rule, self.rule)
        if request.json_schema is not None:
            text = json.dumps(_fill(request.json_schema, text))
        return without_reasoning(
            Generation(
                text=text, prompt=prompt, prompt_tokens=len(prompt.split()), completion_tokens=len(text.split())
            ),
            prompt_known=False,
        )


def _fill(schema: Mapping[str, Any], text: str) -> Any:
    match schema.get("type"):
        case "object":
            return {key: _fill(part, text) for key, part in schema.get("properties", {}).items()}
        case "array":
            return [_fill(schema.get("items", {}), text)]
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return False
        case _:
            return text
