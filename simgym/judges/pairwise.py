"""A language model says which of two answers serves the user better, asked in both orders.

Judges prefer what stands first, or last (Zheng et al. 2023, "Judging LLM-as-a-judge"), so every pair is judged twice
with the answers swapped, and the outcome is the mean of the two verdicts; `consistent` says whether they agree on the
winner, and the share of pairs on which they do is the judge's position consistency. As an environment's judge, a
conversation's last assistant message is compared with the reference answer of its scenario. Where a user left with a
word, that message is the answer to the word; `answer_last_words=False` of the environment leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simgym.conversation import Conversation, Message, Scenario, up_to_answer, written_out
from simgym.errors import ConfigurationError
from simgym.judges.base import Judgement
from simgym.judges.parsing import VERDICTS, read_verdict
from simgym.judges.rubrics import load_rubric, quoted
from simgym.language_models.base import Request, SamplingParams, object_schema, record_call
from simgym.language_models.loading import LanguageModelSpec, check_language_model, load_language_model
from simgym.language_models.weights import DEFAULT_MODEL
from simgym.seeding import derive_seed
from simgym.transcripts import ModelCall, text_hash

REPLY_SCHEMA = object_schema(
    reason={"type": "string", "maxLength": 400}, choice={"enum": ["A++", "A+", "tie", "B+", "B++"]}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two answers to the same conversation."""

    outcome: float | None
    """How much better the first is, in [0, 1], 0.5 is a tie; mean over both orders. None when the judge failed."""
    verdicts: tuple[float, ...]
    """The same in each order: first answer shown as A, then as B. Empty on a fault."""
    reasons: tuple[str, ...]
    """What the judge said in each order."""
    fault: str | None
    """Why there is no outcome; None if there is one."""
    calls: tuple[ModelCall, ...]
    """Both model calls."""

    @property
    def consistent(self) -> bool | None:
        """Whether both orders name the same winner (or both a tie); None on a fault."""
        if len(self.verdicts) < 2:
            return None
        first, second = ((verdict > 0.5) - (verdict < 0.5) for verdict in self.verdicts)
        return first == second

    @property
    def winner(self) -> float | None:
        """1 the first answer, 0 the second, 0.5 a tie (as when the orders disagree); None on a fault."""
        if self.outcome is None:
            return None
        return 0.5 if not self.consistent or self.outcome == 0.5 else float(self.outcome > 0.5)


class PairwiseJudge:
    """Compares answers; with references also a `Judge`."""

    def __init__(
        self,
        model: LanguageModelSpec = DEFAULT_MODEL,
        *,
        references: Mapping[str, str] | None = None,
        rubric: str = "pairwise",
        max_new_tokens: int = 256,
    ) -> None:
        """Choose who compares.

        Args:
            model: The judging model.
            references: Answers by scenario id that conversations are compared with; None: `judge` cannot be called.
            rubric: Built-in name, or path of a text file with `$intent`, `$conversation`, `$first` and `$second`.
            max_new_tokens: Bound of one reply.
        """
        self.model_spec = model
        self.references = dict(references or {})
        self.rubric = load_rubric(rubric, ("first", "second"), ("intent", "conversation"))
        self.sampling = SamplingParams(temperature=0.0, max_new_tokens=max_new_tokens)

    def compare(
        self,
        scenarios: Sequence[Scenario],
        histories: Sequence[Conversation],
        firsts: Sequence[str],
        seconds: Sequence[str],
        *,
        seeds: Sequence[int],
    ) -> list[Comparison]:
        """Compare N pairs of answers to N conversations that end with the user; 2 N requests in one call."""
        requests = [
            self._request(scenario, history, *(pair if order == 0 else pair[::-1]), derive_seed(seed, "pair", order))
            for scenario, history, pair, seed in zip(
                scenarios, histories, zip(firsts, seconds, strict=True), seeds, strict=True
            )
            for order in (0, 1)
        ]
        replies = load_language_model(self.model_spec).generate(requests)
        comparisons = []
        for start, history in zip(range(0, len(replies), 2), histories, strict=True):
            asked, said = requests[start : start + 2], replies[start : start + 2]
            read = [read_verdict(reply.text) for reply in said]
            faults = [reply.fault or grade.fault for reply, grade in zip(said, read, strict=True)]
            turn = len(history.said_by("assistant"))
            calls = tuple(
                record_call("judge", turn, request, reply, fault)
                for request, reply, fault in zip(asked, said, faults, strict=True)
            )
            reasons = tuple(grade.thought for grade in read)
            values = [grade.value for grade in read if grade.value is not None]
            failed = any(faults) or len(values) < 2
            verdicts = () if failed else (values[0], 1 - values[1])
            comparisons.append(
                Comparison(
                    outcome=None if failed else sum(verdicts) / 2,
                    verdicts=verdicts,
                    reasons=reasons,
                    fault="; ".join(filter(None, faults)) if failed else None,
                    calls=calls,
                )
            )
        return comparisons

    def judge(
        self, scenarios: Sequence[Scenario], conversations: Sequence[Conversation], *, seeds: Sequence[int]
    ) -> list[Judgement]:
        """The last assistant message against the scenario's reference; a scenario without one is a fault.

        Raises:
            ConfigurationError: the judge has no references at all.
        """
        if not self.references:
            raise ConfigurationError("The pairwise judge has no references to compare with. Pass references=.")
        rows = [
            (scenario, up_to_answer(conversation).messages, seed)
            for scenario, conversation, seed in zip(scenarios, conversations, seeds, strict=True)
        ]
        known = [row for row in rows if row[1] and row[0].id in self.references]
        compared = iter(
            self.compare(
                [scenario for scenario, _, _ in known],
                [Conversation(said[:-1]) for _, said, _ in known],
                [said[-1].content for _, said, _ in known],
                [self.references[scenario.id] for scenario, _, _ in known],
                seeds=[seed for _, _, seed in known],
            )
        )
        judgements = []
        for scenario, said, _ in rows:
            comparison = next(compared) if said and scenario.id in self.references else None
            if comparison is None:
                why = f"no_reference: none for scenario {scenario.id}" if said else "no_turns: no answer"
                judgements.append(Judgement(None, fault=why))
            else:
                judgements.append(
                    Judgement(
                        comparison.outcome,
                        reasons=comparison.reasons,
                        fault=comparison.fault,
                        components=comparison.verdicts,
                        calls=comparison.calls,
                    )
                )
        return judgements

    def check(self) -> None:
        """Load the model, or ask its server for a sign of life; see `check_ready`."""
        check_language_model(self.model_spec)

    def fingerprint(self) -> dict[str, object]:
        return {
            "judge": "pairwise",
            "model": load_language_model(self.model_spec).fingerprint(),
            "verdicts": sorted(VERDICTS),
            "references_hash": text_hash(repr(sorted(self.references.items()))),
            **self.rubric.fingerprint(),
        }

    def _request(self, scenario: Scenario, history: Conversation, first: str, second: str, seed: int) -> Request:
        text = self.rubric.fill(
            intent=scenario.intent,
            conversation=written_out(history, indented=True),
            first=quoted(first),
            second=quoted(second),
        )
        return Request((Message("user", text),), self.sampling, seed=seed, json_schema=REPLY_SCHEMA)
