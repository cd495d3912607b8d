"""Exclusion rules of the main analysis: they see what a participant did, and cannot see whom they preferred.

`blind` drops names, the order of the assistants and preferences before a rule looks: a rule gets sides, times, lengths
and texts. All analyses are given with and without exclusions.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from simgym.errors import ConfigurationError
from simgym.study.config import Rule, RuleName
from simgym.study.records import ParticipantRecord, real_turns
from simgym.words import count_words, words

_GRAM = 5
"""Words in a row that count as copied."""

_OF_TEXTS: tuple[RuleName, ...] = ("document_words", "reason_words", "copied_share")
"""Rules that need the texts themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindRecord:
    """What a rule may know of a participant."""

    document: str | None
    """The final text; None if there is none."""
    picks: tuple[str, ...]
    """`left`, `right` or `tie`, real exchanges in order; empty if sides are not recorded."""
    reasons: tuple[str, ...]
    """Reasons given."""
    seconds: tuple[float, ...]
    """From the replies' appearance to the choice."""
    replies: tuple[str, ...]
    """All replies shown, sorted, so that their order says nothing."""


def blind(record: ParticipantRecord) -> BlindRecord:
    """A record without names and preferences."""
    turns = [turn for talk in record["conversations"] for turn in real_turns(record, talk)]
    replies = [turn.get(f"model{number}_response") for turn in turns for number in (1, 2)]
    document = record.get("document")
    return BlindRecord(
        document=document if isinstance(document, str) else None,
        picks=tuple(str(turn["pick"]) for turn in turns if turn.get("pick")),
        reasons=tuple(str(turn["reason"]) for turn in turns if isinstance(turn.get("reason"), str)),
        seconds=tuple(float(turn["seconds_to_choice"]) for turn in turns if turn.get("seconds_to_choice") is not None),
        replies=tuple(sorted(reply for reply in replies if isinstance(reply, str))),
    )


def _document_words(record: BlindRecord) -> float | None:
    return None if record.document is None else count_words(record.document)


def _same_side_share(record: BlindRecord) -> float | None:
    sides = [pick for pick in record.picks if pick != "tie"]
    return max(sides.count("left"), sides.count("right")) / len(sides) if len(sides) >= 3 else None


def _tie_share(record: BlindRecord) -> float | None:
    return record.picks.count("tie") / len(record.picks) if record.picks else None


def _reason_words(record: BlindRecord) -> float | None:
    return statistics.fmean(count_words(reason) for reason in record.reasons) if record.reasons else None


def _seconds_per_choice(record: BlindRecord) -> float | None:
    return statistics.median(record.seconds) if record.seconds else None


def _copied_share(record: BlindRecord) -> float | None:
    if record.document is None or len(own := _grams(record.document)) == 0:
        return None
    shown = {gram for reply in record.replies for gram in _grams(reply)}
    return sum(gram in shown for gram in own) / len(own)


def _grams(text: str) -> list[tuple[str, ...]]:
    own = words(text.lower())
    return [tuple(own[at : at + _GRAM]) for at in range(len(own) - _GRAM + 1)]


_VALUES: Mapping[RuleName, tuple[str, Callable[[BlindRecord], float | None]]] = {
    "document_words": ("words in the final text", _document_words),
    "same_side_share": ("share of the more frequent side among three or more decided choices", _same_side_share),
    "tie_share": ("share of ties", _tie_share),
    "reason_words": ("mean words of a reason", _reason_words),
    "seconds_per_choice": ("median seconds from replies to choice", _seconds_per_choice),
    "copied_share": ("share of the text's five-word runs that stand in a reply", _copied_share),
}


def format_rule(rule: Rule) -> str:
    """A rule as a phrase."""
    ends = (("below", rule.minimum), ("above", rule.maximum))
    bounds = [f"{word} {bound:g}" for word, bound in ends if bound is not None]
    return f"{_VALUES[rule.rule][0]} {' or '.join(bounds)}"


def exclude(
    records: Sequence[Mapping[str, object]], rules: Sequence[Rule]
) -> tuple[list[Mapping[str, object]], dict[str, int]]:
    """Who stays, and how many each reason excludes; a participant counts for the first that applies.

    Whoever did not complete the study is excluded first, where a record says so; a rule whose value is not recorded
    excludes nobody.

    Raises:
        ConfigurationError: a rule looks at texts, and the records were exported without them.
    """
    of_texts = [rule for rule in rules if rule.rule in _OF_TEXTS]
    if of_texts and any(_without_texts(record) for record in records):
        raise ConfigurationError(
            f"The records were exported without texts, so the rule {of_texts[0].rule} cannot be applied. Export them "
            "with texts, or take the rules on texts out of the study file."
        )
    kept, counts = [], {"did not complete": 0, **{format_rule(rule): 0 for rule in rules}}
    for record in records:
        reason = _reason(record, rules)
        if reason is None:
            kept.append(record)
        else:
            counts[reason] += 1
    return kept, counts


def _without_texts(record: ParticipantRecord) -> bool:
    turns = [turn for talk in record["conversations"] for turn in talk["turns"]]
    names = ("reason", "model1_response", "model2_response")
    texts = [record.get("document"), *(turn.get(name) for turn in turns for name in names)]
    return any(isinstance(text, int) for text in texts)


def _reason(record: ParticipantRecord, rules: Sequence[Rule]) -> str | None:
    if "steps" in record and "completed" not in record["steps"]:
        return "did not complete"
    seen = blind(record)
    for rule in rules:
        value = _VALUES[rule.rule][1](seen)
        if value is None:
            continue
        if (rule.minimum is not None and value < rule.minimum) or (rule.maximum is not None and value > rule.maximum):
            return format_rule(rule)
    return None
