"""Can a judge be trusted? Its verdicts on pairs of answers of which people, or much better models, know the better.

A judge that grades is right on a pair if it gives the chosen answer the higher score, a judge that compares if it names
it. Equal scores count as half. Accuracy is given by subset (the rejected answer's origin) and balanced for length: the
mean of the accuracy where the chosen answer is the longer and where it is the shorter one, so that a judge that only
likes length gets 0.5. Besides: length alone as a judge, position consistency (comparing judges), test-retest with
another seed, and agreement between judges.

Labels of `simgym view --web` are pairs, too, of whole conversations of one scenario: a judge grades each whole, and a
judge that compares is asked only where they differ in nothing but their last answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simgym.conversation import INTENT_PREFIX, Conversation, Scenario, up_to_answer
from simgym.errors import ConfigurationError, MalformedFile
from simgym.evaluation._counted_rows import drawn
from simgym.evaluation.labels import holds_labels, labels_that_count
from simgym.faults import count_faults
from simgym.fingerprints import Fingerprint
from simgym.jsonl import read_jsonl
from simgym.judges.base import Judge, Judgement
from simgym.judges.pairwise import PairwiseJudge
from simgym.seeding import derive_seed
from simgym.statistics import Agreement, agreement
from simgym.statistics.intervals import Estimate
from simgym.statistics.resampling import Rows, bootstrap_statistic

_EARLIER_KEYS = {"better": "chosen", "worse": "rejected", "worse_model": "rejected_model"}
"""Keys of pairs in files for earlier versions."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers of which one is known to be preferred."""

    id: str
    """Unique within a file."""
    instruction: str
    """What the user asked."""
    chosen: str
    """The preferred answer."""
    rejected: str
    """The other one."""
    subset: str
    """Where the rejected answer comes from; results are given by it."""
    scenario: Scenario | None = None
    """What the user wanted; None: the instruction says it."""
    conversations: tuple[Conversation, Conversation] | None = None
    """The preferred conversation and the other one, where whole conversations were compared; `chosen` and `rejected`
    are what the assistant said in them."""

    def asked(self) -> Scenario:
        """The scenario that judges are given."""
        if self.scenario is not None:
            return self.scenario
        return Scenario(self.id, INTENT_PREFIX + " ".join(self.instruction.split()), opening=self.instruction)

    def talks(self) -> tuple[Conversation, Conversation]:
        """Both conversations, the preferred one first."""
        if self.conversations is not None:
            return self.conversations
        asked = Conversation().add("user", self.instruction)
        return asked.add("assistant", self.chosen), asked.add("assistant", self.rejected)

    def last_answers(self) -> tuple[Conversation, str, str] | None:
        """What both conversations begin with, and the answers that follow; None if they differ before the last."""
        first, second = (up_to_answer(talk).messages for talk in self.talks())
        if not first or not second or first[:-1] != second[:-1]:
            return None
        return Conversation(first[:-1]), first[-1].content, second[-1].content


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge on one pair."""

    pair: Pair
    """What was judged."""
    correct: float | None
    """1 right, 0 wrong, 0.5 undecided; None if the judge failed on one of the answers."""
    values: tuple[float, float] | None
    """Scores of the chosen and the rejected answer; None for judges that compare, and on a fault."""
    consistent: bool | None
    """Whether both orders agree; None for judges that grade, and on a fault."""
    fault: str | None
    """Why there is no verdict; None if there is one."""


@dataclass(frozen=True, slots=True)
class Validation:
    """What is known of a judge."""

    judge: str
    """Its name."""
    accuracy: Estimate
    """Over all pairs, in [0, 1]; interval over instructions."""
    length_balanced: Estimate
    """Mean of the accuracies where the chosen answer is longer and where it is shorter."""
    by_subset: Mapping[str, Estimate]
    """Accuracy by origin of the rejected answer."""
    length_alone: Mapping[str, float]
    """Accuracy of preferring the longer answer, over all pairs (`all`) and by subset."""
    position_consistency: Estimate | None
    """Share of pairs on which both orders agree; None for judges that grade."""
    retest: Agreement | None
    """Values of the same answers under two seeds; None if it was not asked for or the judge compares."""
    retest_same: float | None
    """Share of pairs with the same verdict under two seeds; None if it was not asked for."""
    faults: Mapping[str, int]
    """Pairs without a verdict, by kind of fault."""
    pairs: int
    """Pairs asked."""
    fingerprint: Mapping[str, object]
    """Of the judge."""

    def to_json(self) -> dict[str, object]:
        """JSON values; what does not exist is None, never NaN."""
        return asdict(self)


def read_pairs(path: str | Path, *, limit: int | None = None, seed: int = 0) -> list[Pair]:
    """Pairs from a JSONL file with `instruction`, `chosen`, `rejected` and optionally `rejected_model` (or `subset`).

    Files for earlier versions, which say `better`, `worse` and `worse_model`, are read as well, and labels of
    `simgym view --web`: those that count and prefer one of two conversations.

    Args:
        path: The file.
        limit: Take so many, drawn by the seed; None: all.
        seed: Of the drawing.

    Raises:
        ConfigurationError: there is no such file, or it is empty.
        MalformedFile: a line is not a pair; the message names it.
    """
    if not Path(path).is_file():
        raise ConfigurationError(f"There is no file {path}. Expected JSONL with instruction, chosen and rejected.")
    if holds_labels(path):
        labelled, left_out = label_pairs(path)
        if not labelled:
            listed = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
            raise ConfigurationError(f"{path} has no label that prefers one of two conversations ({listed}).")
        return drawn(labelled, limit, seed, "pairs")
    pairs = []
    for number, row in read_jsonl(path):
        try:
            row = {_EARLIER_KEYS.get(key, key): value for key, value in row.items()}
            instruction, chosen, rejected = (row[key] for key in ("instruction", "chosen", "rejected"))
            if not all(isinstance(text, str) and text.strip() for text in (instruction, chosen, rejected)):
                raise TypeError("instruction, chosen and rejected must be texts that are not empty")
            (instruction + chosen + rejected).encode()  # a lone surrogate could not be written anywhere
            subset = str(row.get("rejected_model") or row.get("subset") or "all")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MalformedFile(f"{path}, line {number}: not a pair ({error!r}).") from error
        pairs.append(Pair(str(number), instruction, chosen, rejected, subset))
    if not pairs:
        raise ConfigurationError(f"{path} holds no pairs.")
    return drawn(pairs, limit, seed, "pairs")


def label_pairs(path: str | Path) -> tuple[list[Pair], dict[str, int]]:
    """Pairs of conversations from a file of labels, and how many labels are not used, by reason.

    Raises:
        MalformedFile: a line is not a label; the message names it.
    """
    labels = labels_that_count(path)
    pairs, reasons = [], labels.unpaired()
    for number, label in enumerate(labels.preferences, 1):
        if label.answer == "tie":
            reasons["tied"] += 1
            continue
        chosen, rejected = label.conversations if label.answer == "better" else label.conversations[::-1]
        answer, other = ("\n\n".join(entry.conversation.said_by("assistant")) for entry in (chosen, rejected))
        if not answer.strip() or not other.strip():
            reasons["without two answers"] += 1
            continue
        scenario = chosen.scenario
        pairs.append(
            Pair(
                f"label {number}",
                scenario.opening or scenario.goal,
                answer,
                other,
                rejected.assistant,
                scenario,
                (chosen.conversation, rejected.conversation),
            )
        )
    return pairs, dict(reasons)


def judge_pairs(
    judge: Judge | PairwiseJudge,
    pairs: Sequence[Pair],
    *,
    seed: int = 0,
    batch_size: int = 32,
    advance: Callable[[int], object] = lambda count: None,
) -> list[Verdict]:
    """Verdicts on N pairs; a `PairwiseJudge` compares the answers, any other judge grades each."""
    verdicts = []
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        seeds = [derive_seed(seed, "validate", pair.id) for pair in batch]
        if isinstance(judge, PairwiseJudge):
            verdicts += _compared(judge, batch, seeds)
        else:
            talks = [talk for pair in batch for talk in pair.talks()]
            scenarios = [pair.asked() for pair in batch for _ in (0, 1)]
            judged = judge.judge(scenarios, talks, seeds=[value for value in seeds for _ in (0, 1)])
            verdicts += [_graded(pair, *judged[2 * i : 2 * i + 2]) for i, pair in enumerate(batch)]
        advance(len(batch))
    return verdicts


def validate(
    name: str,
    fingerprint: Fingerprint,
    verdicts: Sequence[Verdict],
    again: Sequence[Verdict] | None = None,
    *,
    seed: int = 0,
    resamples: int = 1999,
) -> Validation:
    """Summarise a judge.

    Args:
        name: What to call it.
        fingerprint: Of the judge, for the record.
        verdicts: On the pairs.
        again: On the same pairs (or the first of them) with another seed; None: no test-retest.
        seed: Of the intervals.
        resamples: Bootstrap samples per interval.
    """
    decided = [verdict for verdict in verdicts if verdict.correct is not None]
    correct = np.array([verdict.correct for verdict in decided], dtype=np.float64)
    longer = np.array([np.sign(len(verdict.pair.chosen) - len(verdict.pair.rejected)) for verdict in decided])
    clusters = [verdict.pair.instruction for verdict in decided]

    def mean(rows: Rows) -> float:
        return float(correct[rows].mean())

    def balanced(rows: Rows) -> float:
        sides = [correct[rows][longer[rows] == side] for side in (1, -1)]
        return math.nan if any(not side.size for side in sides) else float(np.mean([side.mean() for side in sides]))

    def estimate(statistic: Callable[[Rows], float], chosen: Sequence[int] | None = None) -> Estimate:
        rows = np.arange(len(decided)) if chosen is None else np.array(chosen, dtype=np.intp)
        labels = [clusters[row] for row in rows]
        return bootstrap_statistic(
            lambda resampled: statistic(rows[resampled]), labels, seed=seed, resamples=resamples, bounds=(0.0, 1.0)
        )

    subsets = sorted({verdict.pair.subset for verdict in verdicts})
    compared = [verdict.consistent for verdict in verdicts if verdict.consistent is not None]
    consistency = (
        bootstrap_statistic(
            lambda rows: float(np.mean(np.array(compared)[rows])), range(len(compared)), seed=seed, resamples=resamples
        )
        if compared
        else None
    )
    return Validation(
        judge=name,
        accuracy=estimate(mean),
        length_balanced=estimate(balanced),
        by_subset={
            subset: estimate(mean, [row for row, verdict in enumerate(decided) if verdict.pair.subset == subset])
            for subset in subsets
        },
        length_alone=_length_alone(verdicts, subsets),
        position_consistency=consistency,
        **_retest(verdicts, again, seed),
        faults=count_faults(verdict.fault for verdict in verdicts if verdict.fault),
        pairs=len(verdicts),
        fingerprint=dict(fingerprint),
    )


def judge_agreement(
    first: Sequence[Verdict], second: Sequence[Verdict], *, seed: int = 0, resamples: int = 999
) -> Agreement:
    """Do two judges prefer the same answers? Of their verdicts on the same pairs (nominal: right, wrong, undecided)."""
    ours, theirs = (
        [math.nan if verdict.correct is None else verdict.correct for verdict in verdicts]
        for verdicts in (first, second)
    )
    clusters = [verdict.pair.instruction for verdict in first]
    return agreement(ours, theirs, clusters, level_of_measurement="nominal", seed=seed, resamples=resamples)


def _compared(judge: PairwiseJudge, pairs: Sequence[Pair], seeds: Sequence[int]) -> list[Verdict]:
    answers = [pair.last_answers() for pair in pairs]
    comparable = [index for index, entry in enumerate(answers) if entry is not None]
    outcomes = judge.compare(
        [pairs[index].asked() for index in comparable],
        *([entry[part] for entry in answers if entry is not None] for part in (0, 1, 2)),  # type: ignore[arg-type]
        seeds=[seeds[index] for index in comparable],
    )
    by_index = dict(zip(comparable, outcomes, strict=True))
    fault = "not_comparable: the conversations differ before their last answers"
    return [
        Verdict(pair, by_index[index].winner, None, by_index[index].consistent, by_index[index].fault)
        if index in by_index
        else Verdict(pair, None, None, None, fault)
        for index, pair in enumerate(pairs)
    ]


def _graded(pair: Pair, chosen: Judgement, rejected: Judgement) -> Verdict:
    if chosen.score is None or rejected.score is None:
        return Verdict(pair, None, None, None, chosen.fault or rejected.fault)
    correct = 0.5 if chosen.score == rejected.score else float(chosen.score > rejected.score)
    return Verdict(pair, correct, (chosen.score, rejected.score), None, None)


def _length_alone(verdicts: Sequence[Verdict], subsets: Sequence[str]) -> dict[str, float]:
    def accuracy(chosen: Sequence[Verdict]) -> float:
        gaps = [len(verdict.pair.chosen) - len(verdict.pair.rejected) for verdict in chosen]
        return sum(0.5 if not gap else float(gap > 0) for gap in gaps) / len(gaps)

    accuracies = {
        subset: accuracy([verdict for verdict in verdicts if verdict.pair.subset == subset]) for subset in subsets
    }
    return {"all": accuracy(verdicts), **accuracies} if verdicts else {}


def _retest(verdicts: Sequence[Verdict], again: Sequence[Verdict] | None, seed: int) -> dict[str, Any]:
    if not again:
        return {"retest": None, "retest_same": None}
    first = {verdict.pair.id: verdict for verdict in verdicts}
    pairs = [(first[verdict.pair.id], verdict) for verdict in again]
    decided = [(a.correct, b.correct) for a, b in pairs if a.correct is not None and b.correct is not None]
    values = [
        (x, y, a.pair.id) for a, b in pairs if a.values and b.values for x, y in zip(a.values, b.values, strict=True)
    ]
    return {
        "retest": agreement(
            [x for x, _, _ in values], [y for _, y, _ in values], [key for _, _, key in values], seed=seed
        )
        if values
        else None,
        "retest_same": sum(a == b for a, b in decided) / len(decided) if decided else None,
    }
