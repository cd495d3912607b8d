"""A language model grades the whole conversation from 0 to 10 against written criteria.

The rubric is a text file with our own wording of alignment with the intent, usefulness and clarity; the reply is JSON
{thought, score}; temperature 0; the value is score / 10, averaged over the judging models (two in arXiv 2605.09808),
and each model's own value is kept as a part. If one model's grade cannot be read, the whole judgement is a fault: a
mean over those that happened to answer would compare conversations by different judges.
"""

from __future__ import annotations

from collections.abc import Sequence

from simgym.conversation import Conversation, Message, Scenario, written_out
from simgym.errors import ConfigurationError
from simgym.judges.base import Judgement
from simgym.judges.parsing import HIGHEST_GRADE, LOWEST_GRADE, read_grade
from simgym.judges.rubrics import load_rubric
from simgym.language_models.base import Request, SamplingParams, object_schema, record_call
from simgym.language_models.loading import LanguageModelSpec, check_language_model, load_language_model
from simgym.language_models.weights import DEFAULT_MODEL
from simgym.seeding import derive_seed
from simgym.transcripts import ModelCall

REPLY_SCHEMA = object_schema(
    thought={"type": "string", "maxLength": 600},
    score={"type": "integer", "minimum": LOWEST_GRADE, "maximum": HIGHEST_GRADE},
)


class RubricJudge:
    """Grades by rubric with one or several models; implements `Judge`.

    A warning: prompting a 135M model for a grade is at or below chance. Use models of several billion parameters.
    """

    def __init__(
        self,
        model: LanguageModelSpec | Sequence[LanguageModelSpec] = DEFAULT_MODEL,
        *,
        rubric: str = "helpfulness",
        max_new_tokens: int = 512,
    ) -> None:
        """Choose judges and criteria.

        Args:
            model: One model or several, whose grades are averaged.
            rubric: Built-in name, or path of a text file with the placeholders `$intent` and `$conversation`.
            max_new_tokens: Bound of one reply.
        """
        is_ensemble = isinstance(model, Sequence) and not isinstance(model, str)
        self.models: list[LanguageModelSpec] = list(model) if is_ensemble else [model]  # type: ignore[arg-type,list-item]
        if not self.models:
            raise ConfigurationError("The rubric judge has no model, expected at least one.")
        self.rubric = load_rubric(rubric, ("conversation",), ("intent",))
        self.sampling = SamplingParams(temperature=0.0, max_new_tokens=max_new_tokens)

    def judge(
        self, scenarios: Sequence[Scenario], conversations: Sequence[Conversation], *, seeds: Sequence[int]
    ) -> list[Judgement]:
        graded = [
            [
                self._request(scenario, conversation, derive_seed(seed, "rubric", number))
                for scenario, conversation, seed in zip(scenarios, conversations, seeds, strict=True)
            ]
            for number in range(len(self.models))
        ]
        replies = [load_language_model(spec).generate(asked) for spec, asked in zip(self.models, graded, strict=True)]
        judgements = []
        for row, conversation in enumerate(conversations):
            turn = len(conversation.said_by("assistant"))
            grades = [read_grade(of_model[row].text) for of_model in replies]
            calls: list[ModelCall] = []
            faults: list[str] = []
            for asked, of_model, grade in zip(graded, replies, grades, strict=True):
                fault = of_model[row].fault or grade.fault
                calls.append(record_call("judge", turn, asked[row], of_model[row], fault))
                faults += [fault] if fault else []
            values = tuple(grade.value / HIGHEST_GRADE for grade in grades if grade.value is not None)
            judgements.append(
                Judgement(
                    score=None if faults else sum(values) / len(values),
                    reasons=tuple(grade.thought for grade in grades if grade.thought),
                    fault="; ".join(faults) or None,
                    components=values if len(values) > 1 and not faults else (),
                    calls=tuple(calls),
                )
            )
        return judgements

    def check(self) -> None:
        """Load the models, or ask their servers for a sign of life; see `check_ready`."""
        for spec in self.models:
            check_language_model(spec)

    def fingerprint(self) -> dict[str, object]:
        return {
            "judge": "rubric",
            "models": [load_language_model(spec).fingerprint() for spec in self.models],
            **self.rubric.fingerprint(),
        }

    def _request(self, scenario: Scenario, conversation: Conversation, seed: int) -> Request:
        text = self.rubric.fill(intent=scenario.intent, conversation=written_out(conversation, indented=True))
        return Request((Message("user", text),), self.sampling, seed=seed, json_schema=REPLY_SCHEMA)
