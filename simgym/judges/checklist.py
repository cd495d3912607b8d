"""A language model answers yes or no to each item of a list; the score is the share of items that are satisfied.

Binary questions are easier to answer alike than grades are to give alike (WildBench, arXiv 2406.04770, has such a list
for every task; arXiv 2605.09808 counts them). Items belong to the scenario (by id) or are the same for all.
What is judged ends with the assistant's last message, which answers a user's last words where there are any
(`answer_last_words`). A reply with another number of answers than items is a fault: a partial list would be graded on a
different scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from simgym.conversation import Conversation, Message, Scenario, up_to_answer, written_out
from simgym.errors import ConfigurationError
from simgym.judges.base import Judgement
from simgym.judges.parsing import read_checklist
from simgym.judges.rubrics import load_rubric, quoted
from simgym.language_models.base import Request, SamplingParams, object_schema, record_call
from simgym.language_models.loading import LanguageModelSpec, check_language_model, load_language_model
from simgym.language_models.weights import DEFAULT_MODEL
from simgym.transcripts import text_hash

_TOKENS_PER_ITEM = 60
DEFAULT_ITEMS = (
    "Does the assistant find out, or state correctly, what this user wants?",
    "Does it give the user something concrete to act on?",
    "Is everything it states as fact correct, as far as you can tell?",
    "Is it easy to follow and no longer than needed?",
    "Does it respect the limits and preferences that the user has named?",
)
"""Asked of every conversation unless items are given."""


class ChecklistJudge:
    """Grades by the share of satisfied items; implements `Judge`."""

    def __init__(
        self,
        model: LanguageModelSpec = DEFAULT_MODEL,
        *,
        items: Sequence[str] | Mapping[str, Sequence[str]] = DEFAULT_ITEMS,
        rubric: str = "checklist",
    ) -> None:
        """Choose who checks what.

        Args:
            model: The judging model.
            items: Questions for all conversations, or by scenario id.
            rubric: Built-in name, or path of a text file with `$items` and any of `$intent`, `$conversation` (whole),
                `$history` (up to the answer), `$answer` (the assistant's last message) and `$count`.

        Raises:
            ConfigurationError: there are no items.
        """
        if not items or isinstance(items, str):
            raise ConfigurationError(
                "The checklist judge needs a list of items, or a mapping of scenario ids to lists."
            )
        self.model_spec = model
        self.items = items
        self.rubric = load_rubric(rubric, ("items",), ("intent", "conversation", "history", "answer", "count"))

    def judge(
        self, scenarios: Sequence[Scenario], conversations: Sequence[Conversation], *, seeds: Sequence[int]
    ) -> list[Judgement]:
        """Check N conversations; a scenario without items is a fault (`no_checklist`)."""
        triples = list(zip(scenarios, conversations, seeds, strict=True))
        asked = {
            index: self._request(scenario, conversation, seed)
            for index, (scenario, conversation, seed) in enumerate(triples)
            if self._items(scenario)
        }
        replies = dict(zip(asked, load_language_model(self.model_spec).generate(list(asked.values())), strict=True))
        judgements = []
        for index, (scenario, conversation, _) in enumerate(triples):
            if index not in asked:
                judgements.append(Judgement(None, fault=f"no_checklist: none for scenario {scenario.id}"))
                continue
            reply, turn = replies[index], len(conversation.said_by("assistant"))
            checked = read_checklist(reply.text, len(self._items(scenario)))
            fault = reply.fault or checked.fault
            calls = (record_call("judge", turn, asked[index], reply, fault),)
            if fault:
                judgements.append(Judgement(None, fault=fault, calls=calls))
                continue
            components = tuple(float(item) for item in checked.items)
            reasons = tuple(
                f"{'yes' if item else 'no'}: {reason}"
                for item, reason in zip(checked.items, checked.reasons, strict=True)
            )
            judgements.append(
                Judgement(sum(components) / len(components), reasons=reasons, components=components, calls=calls)
            )
        return judgements

    def check(self) -> None:
        """Load the model, or ask its server for a sign of life; see `check_ready`."""
        check_language_model(self.model_spec)

    def fingerprint(self) -> dict[str, object]:
        items = (
            {key: list(value) for key, value in self.items.items()} if isinstance(self.items, Mapping) else self.items
        )
        return {
            "judge": "checklist",
            "model": load_language_model(self.model_spec).fingerprint(),
            "items_hash": text_hash(repr(items)),
            **self.rubric.fingerprint(),
        }

    def _items(self, scenario: Scenario) -> Sequence[str]:
        return self.items.get(scenario.id, ()) if isinstance(self.items, Mapping) else self.items

    def _request(self, scenario: Scenario, conversation: Conversation, seed: int) -> Request:
        items, answered = self._items(scenario), up_to_answer(conversation).messages
        text = self.rubric.fill(
            intent=scenario.intent,
            conversation=written_out(conversation, indented=True),
            history=written_out(Conversation(answered[:-1]), indented=True),
            answer=quoted(answered[-1].content) if answered else "",
            items="\n".join(f"{number}. {item}" for number, item in enumerate(items, 1)),
            count=str(len(items)),
        )
        item = object_schema(reason={"type": "string", "maxLength": 120}, satisfied={"type": "boolean"})
        schema = object_schema(items={"type": "array", "items": item, "minItems": len(items), "maxItems": len(items)})
        sampling = SamplingParams(temperature=0.0, max_new_tokens=64 + _TOKENS_PER_ITEM * len(items))
        return Request((Message("user", text),), sampling, seed=seed, json_schema=schema)
