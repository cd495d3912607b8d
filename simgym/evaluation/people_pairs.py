"""Pairs of answers of which people said which is better, and what they make of a judge.

A row has the answers by name and whom people prefer (`answers`, `better`, `worse`, `label_by: people`, `source`), or is
a pair of `simgym judge validate` (`instruction`, `chosen`, `rejected`). Rows whose label is something else, that hold
earlier turns or tool calls, or that are tied are left out and counted: they say nothing of first answers, or nothing of
people. Labels of `simgym view --web` are read as well, as pairs of whole conversations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simgym.conversation import has_surrogates
from simgym.errors import ConfigurationError
from simgym.evaluation._counted_rows import drawn, read_counted
from simgym.evaluation.calibration import Calibration, calibrate
from simgym.evaluation.judge_validation import Pair, Validation, Verdict, label_pairs, read_pairs, validate
from simgym.evaluation.labels import holds_labels
from simgym.fingerprints import Fingerprint
from simgym.judges.people_record import PEOPLE_BAR, PeopleRecord, judge_identity, logit_margin
from simgym.statistics import Estimate
from simgym.statistics.intervals import untold


@dataclass(frozen=True, slots=True)
class PeoplePairs:
    """The usable rows of a file."""

    pairs: tuple[Pair, ...]
    """In the order of the file; `subset` is the source."""
    left_out: Mapping[str, int]
    """Rows by why they are not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleValidation:
    """A judge beside people."""

    validation: Validation
    """Accuracy, in all and by source."""
    balanced_by_source: Mapping[str, Estimate]
    """Accuracy balanced for length, in [0, 1], by source."""
    calibration: Calibration | None
    """How sure the judge is and may be; None for judges that compare: they give no scores."""
    record: PeopleRecord
    """What is kept with the judge."""
    left_out: Mapping[str, int]
    """Rows that are not used, by reason."""

    def to_json(self) -> dict[str, object]:
        """JSON values; what does not exist is None, never NaN."""
        return {**asdict(self), "bar": PEOPLE_BAR, "passes": self.record.passes}


def read_people_pairs(path: str | Path, *, limit: int | None = None, seed: int = 0) -> PeoplePairs:
    """Pairs that people judged.

    Args:
        path: JSONL, see above.
        limit: Take so many, drawn by the seed; None: all.
        seed: Of the drawing.

    Raises:
        ConfigurationError: there is no such file, or no pair in it that people judged; the message counts the reasons.
        MalformedFile: a line is not a JSON object.
    """
    pairs: Sequence[Pair]
    if holds_labels(path):
        pairs, left_out = tuple(read_pairs(path)), label_pairs(path)[1]
    else:
        pairs, left_out = read_counted(
            path,
            lambda row, number: _read_row(row, str(number)),
            what="pair that people judged",
            expected="JSONL of pairs with label_by: people, or labels of simgym view --web",
        )
    return PeoplePairs(tuple(drawn(pairs, limit, seed, "people")), left_out)


def without_training_prompts(people: PeoplePairs, judge: object) -> PeoplePairs:
    """The pairs whose instruction a judge was not fitted on, as far as it says (`fitted_on(prompt)`); others count.

    Raises:
        ConfigurationError: it was fitted on all of them.
    """
    fitted_on = getattr(judge, "fitted_on", None)
    if fitted_on is None:
        return people
    pairs = tuple(pair for pair in people.pairs if not fitted_on(pair.instruction))
    if not pairs:
        raise ConfigurationError(
            "The judge was fitted on all of these pairs, which say nothing of others. Give others."
        )
    seen = len(people.pairs) - len(pairs)
    return PeoplePairs(pairs, {**people.left_out, **({"the judge was fitted on": seen} if seen else {})})


def validate_by_people(
    name: str, fingerprint: Fingerprint, verdicts: Sequence[Verdict], people: PeoplePairs, *, seed: int = 0
) -> PeopleValidation:
    """Summarise a judge's verdicts on the pairs of `read_people_pairs`.

    Args:
        name: What to call the judge.
        fingerprint: Of the judge; its record is kept by it.
        verdicts: `judge_pairs` of them.
        people: The pairs.
        seed: Of the intervals.
    """
    validation = validate(name, fingerprint, verdicts, seed=seed)
    subsets = sorted({verdict.pair.subset for verdict in verdicts})
    balanced = {
        subset: validate(
            name, fingerprint, [verdict for verdict in verdicts if verdict.pair.subset == subset], seed=seed
        ).length_balanced
        for subset in subsets
    }
    graded = [(logit_margin(*verdict.values), verdict.pair.instruction) for verdict in verdicts if verdict.values]
    calibration = None
    if graded:
        calibration = calibrate(np.array([margin for margin, _ in graded]), [prompt for _, prompt in graded], seed=seed)
    record = PeopleRecord(
        judge=name,
        identity=judge_identity(fingerprint),
        accuracy=validation.length_balanced,
        length_alone=validation.length_alone.get("all", 0.5),
        slope=calibration.slope if calibration is not None else None,
        calibration_error=(
            calibration.error_mapped if calibration is not None else untold(None, 0, "the judge gives no scores", 0.95)
        ),
        pairs=sum(verdict.correct is not None for verdict in verdicts),
        sources=tuple(subsets),
    )
    return PeopleValidation(
        validation=validation,
        balanced_by_source=balanced,
        calibration=calibration,
        record=record,
        left_out=people.left_out,
    )


def _read_row(row: Mapping[str, Any], number: str) -> Pair | str:
    """The pair, or why it cannot be used."""
    if row.get("label_by", "people") != "people":
        return "not judged by people"
    answers, better, worse = row.get("answers"), row.get("better"), row.get("worse")
    if isinstance(answers, Mapping):
        if better == worse:
            return "tied"
        chosen, rejected = answers.get(better), answers.get(worse)
    else:
        chosen, rejected = row.get("chosen"), row.get("rejected")
    instruction = row.get("instruction")
    if instruction is None and isinstance(row.get("messages"), list):
        messages = row["messages"]
        if len(messages) != 1 or not isinstance(messages[0], Mapping):
            return "with earlier turns"
        if messages[0].get("role") != "user":
            return "without user"
        instruction = messages[0].get("content")
    texts = (instruction, chosen, rejected)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        return "without instruction or two answers"
    if has_surrogates("".join(map(str, texts))):
        return "not Unicode"
    if chosen == rejected:
        return "two equal answers"
    source = str(row.get("source") or row.get("subset") or row.get("rejected_model") or "all")
    return Pair(number, str(instruction), str(chosen), str(rejected), source)
