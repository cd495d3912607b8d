"""From records to estimates: who is preferred, how surely, and how much that depends on choices of the analysis.

Participants, not votes, are the independent units: win rates (ties count as half) have participant-cluster bootstrap
intervals, and tests come from a binomial GLM with cluster-robust errors, Holm-corrected over pairs. Beside its main
estimate, each pair has the robustness checks that a sceptic would ask for: everybody without exclusions, the first
exchange alone (before either assistant has shaped the conversation), replies of equal length, and choices in which no
reply gave away its model. Pure: records in, a `StudyResults` out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TypeVar

from simgym.errors import ConfigurationError
from simgym.statistics.clustered import Equivalence, equivalence, intraclass_correlation, robust_win_rate
from simgym.statistics.intervals import Estimate, bootstrap_mean, untold, with_interval
from simgym.statistics.paired import Test, bradley_terry, correct_p_values, win_rate
from simgym.study.config import Rule, Study
from simgym.study.exclusions import exclude
from simgym.study.records import Distinct, Rating, Vote, distinct, participant_flow, ratings_of, votes_of

SCHEMA_VERSION = 3
"""Incremented when a field is renamed or changes its meaning. Version 1 names `p_adjusted` `p_holm`; until version 2
`equivalence` holds `low` and `high` instead of `rate`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way to estimate a pair's win rate."""

    name: str
    """Identifier."""
    title: str
    """For readers."""
    participants: int
    """Participants that it rests on."""
    votes: int
    """Choices that it rests on."""
    rate: Estimate | None
    """Win rate of the first assistant; None where there is none."""
    test: Test | None
    """Of a win rate of one half; None where there is none, as with too few participants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two assistants compared."""

    first: str
    """Whose win rate it is."""
    second: str
    """The other."""
    wins: int
    """Choices for the first."""
    ties: int
    """Choices for neither."""
    losses: int
    """Choices for the second."""
    rows: tuple[Row, ...]
    """The main row first."""
    p_adjusted: float | None
    """p-value of the main row, corrected for the number of pairs."""
    icc: Estimate
    """Intraclass correlation of a participant's choices."""
    left: Row | None
    """Share of the left reply among decided choices; None if sides are not recorded."""
    equivalence: Equivalence
    """Test of "indistinguishable"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingDifference:
    """Mean ratings of two assistants by different people."""

    first: str
    """One assistant."""
    second: str
    """The other."""
    difference: Estimate
    """Mean of the first minus mean of the second, Welch's interval."""
    test: Test | None
    """Welch's t-test; None where the interval cannot be told."""
    p_adjusted: float | None
    """Corrected for the number of pairs."""


Compared = TypeVar("Compared", Pair, RatingDifference)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResults:
    """All that `simgym study analyse` finds."""

    kind: str
    """`real`, `dry_run`, `synthetic`, `unknown` (records of another app)."""
    studies: tuple[str, ...]
    """Hashes of the studies that the records come from."""
    flow: Mapping[str, int]
    """How many participants reached each step."""
    excluded: Mapping[str, int]
    """How many were left out, by reason."""
    included: int
    """Participants of the main analysis."""
    pairs: tuple[Pair, ...]
    """One for each pair."""
    strengths: Mapping[str, Estimate]
    """Bradley-Terry strengths (log-odds), where there are more than two assistants."""
    ratings: Mapping[str, Estimate]
    """Mean rating by assistant."""
    rating_differences: tuple[RatingDifference, ...]
    """Between assistants."""
    warnings: tuple[str, ...]
    """What a reader has to know."""
    seed: int
    """Of all resampling."""

    def to_json(self) -> dict[str, object]:
        """JSON values, with a schema version."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisPlan:
    """What was decided before the data were seen."""

    pairs: tuple[tuple[str, str], ...] = ()
    """Which assistant of a pair comes first; other pairs are ordered by name."""
    rules: tuple[Rule, ...] = ()
    """Exclusion rules."""
    margin: float = 0.05
    """Of the equivalence test, in (0, 0.5)."""
    study_hash: str | None = None
    """Of the study that all this comes from; records of another version are warned of. None: it comes from nowhere."""

    @classmethod
    def of(cls, study: Study) -> AnalysisPlan:
        """The plan that a study file states."""
        return cls(pairs=study.pairs, rules=study.exclusions, margin=study.equivalence_margin, study_hash=study.hash)


@dataclass(frozen=True, slots=True)
class _Resampling:
    """Of every bootstrap in one analysis."""

    seed: int
    """Of the draws."""
    resamples: int
    """Bootstrap samples."""


def analyse(
    records: Sequence[Mapping[str, object]],
    *,
    plan: AnalysisPlan | None = None,
    withdrawn: int = 0,
    seed: int = 0,
    resamples: int = 9999,
) -> StudyResults:
    """Analyse the records of a study.

    Args:
        records: As `export` or `read_records` give them.
        plan: Pairs, exclusion rules and margin; None: no rules, a margin of 0.05, pairs in the order of their names.
        withdrawn: Participants who have withdrawn, for the participant flow.
        seed: Of all resampling.
        resamples: Bootstrap samples.

    Raises:
        ConfigurationError: records of real and of other participants are mixed, or there are none.
    """
    if not records:
        raise ConfigurationError("There are no participants. Export a study first, or give another file.")
    plan, resampling = plan or AnalysisPlan(), _Resampling(seed, resamples)
    unique = distinct(records)
    kinds = sorted({str(record.get("kind", "unknown")) for record in unique.records})
    if len(kinds) > 1:
        raise ConfigurationError(f"The records are {' and '.join(kinds)}. Analyse each kind separately.")
    hashes = tuple(sorted({str(record["study_hash"]) for record in unique.records if "study_hash" in record}))
    kept, excluded = exclude(unique.records, plan.rules)
    ratings = _by_assistant(ratings_of(kept))
    strengths, problems = _strengths(votes_of(kept))
    return StudyResults(
        kind=kinds[0],
        studies=hashes,
        flow=participant_flow(unique.records, withdrawn=withdrawn),
        excluded=excluded,
        included=len(kept),
        pairs=_pairs(votes_of(kept), votes_of(unique.records), plan, resampling),
        strengths=strengths,
        ratings={name: bootstrap_mean(of, seed=seed, resamples=resamples) for name, of in ratings.items()},
        rating_differences=_rating_differences(ratings),
        warnings=(*problems, *_warnings(unique, hashes, plan.study_hash)),
        seed=seed,
    )


def _warnings(unique: Distinct, hashes: Sequence[str], study_hash: str | None) -> list[str]:
    warnings = []
    if unique.repeated:
        warnings.append(
            f"{unique.repeated} of {len(unique.records) + unique.repeated} records are repetitions (the same "
            "participant in the same study): each participant is counted once."
        )
    if len(hashes) > 1:
        warnings.append(
            f"The records come from {len(hashes)} versions of the study, which cannot be compared without a reason."
        )
    if study_hash is not None and hashes and study_hash not in hashes:
        warnings.append(
            "Pairs, exclusion rules and margin come from another version of the study than the records: they were not "
            "fixed before the data were seen."
        )
    return warnings


def _pairs(
    votes: Sequence[Vote], everybody: Sequence[Vote], plan: AnalysisPlan, resampling: _Resampling
) -> tuple[Pair, ...]:
    order = {frozenset(pair): tuple(pair) for pair in plan.pairs}
    main, all_votes = _by_pair(votes, order), _by_pair(everybody, order)
    drafts = [
        _pair(pair, main.get(pair, []), of_pair, plan.margin, resampling) for pair, of_pair in sorted(all_votes.items())
    ]
    return _corrected(drafts, [pair.rows[0].test for pair in drafts])


def _corrected(drafts: Sequence[Compared], tests: Sequence[Test | None]) -> tuple[Compared, ...]:
    """The same with the p-values of their tests, corrected for the number of tests."""
    corrected = iter(correct_p_values([test.p_value for test in tests if test is not None]))
    return tuple(
        dataclasses.replace(draft, p_adjusted=None if test is None else next(corrected))
        for draft, test in zip(drafts, tests, strict=True)
    )


def _by_pair(
    votes: Sequence[Vote], order: Mapping[frozenset[str], tuple[str, ...]]
) -> dict[tuple[str, str], list[Vote]]:
    """Votes by pair, each turned so that the pair's first assistant is `model1`."""
    by_pair: dict[tuple[str, str], list[Vote]] = {}
    for vote in votes:
        models = frozenset((vote.model1, vote.model2))
        first, second = order.get(models, tuple(sorted((vote.model1, vote.model2))))
        by_pair.setdefault((first, second), []).append(vote if vote.model1 == first else _turned(vote))
    return by_pair


def _turned(vote: Vote) -> Vote:
    lengths = None if vote.characters is None else vote.characters[::-1]
    return dataclasses.replace(
        vote, model1=vote.model2, model2=vote.model1, outcome=1 - vote.outcome, characters=lengths
    )


def _pair(
    pair: tuple[str, str], votes: list[Vote], everybody: list[Vote], margin: float, resampling: _Resampling
) -> Pair:
    people = [vote.participant for vote in votes]
    outcomes = [vote.outcome for vote in votes]
    return Pair(
        first=pair[0],
        second=pair[1],
        wins=outcomes.count(1.0),
        ties=outcomes.count(0.5),
        losses=outcomes.count(0.0),
        rows=tuple(_rows(votes, everybody, resampling)),
        p_adjusted=None,
        icc=intraclass_correlation(outcomes, people, seed=resampling.seed),
        left=_left_row(votes, resampling),
        equivalence=equivalence(outcomes, people, margin=margin),
    )


def _rows(votes: Sequence[Vote], everybody: Sequence[Vote], resampling: _Resampling) -> list[Row]:
    """All estimates of one win rate, the main row first."""
    subsets = {
        ("main", "After exclusions"): votes,
        ("everybody", "Everybody, no exclusions"): everybody,
        ("first_exchange", "First exchange only"): [vote for vote in votes if vote.turn == 1],
        ("unflagged", "No reply names its model"): [vote for vote in votes if not vote.flagged],
    }
    measured = [vote for vote in votes if vote.characters is not None and min(vote.characters) > 0]
    log_ratios = [math.log(vote.characters[0] / vote.characters[1]) for vote in measured if vote.characters]
    return [
        *(_row(name, title, subset, resampling) for (name, title), subset in subsets.items()),
        _robust_row("robust", "GLM, cluster-robust", votes),
        _robust_row("equal_length", "Replies of equal length (GLM)", measured, log_ratios),
    ]


def _left_row(votes: Sequence[Vote], resampling: _Resampling) -> Row | None:
    decided = [
        vote if vote.left == vote.model1 else _turned(vote)
        for vote in votes
        if vote.left is not None and vote.outcome != 0.5
    ]
    return _row("left", "Left reply, decided choices", decided, resampling) if decided else None


def _row(name: str, title: str, votes: Sequence[Vote], resampling: _Resampling) -> Row:
    """Bootstrap interval, robust test."""
    rate = None
    if votes:
        outcomes, people = [vote.outcome for vote in votes], [vote.participant for vote in votes]
        rate = win_rate(outcomes, people, seed=resampling.seed, resamples=resampling.resamples)
    return dataclasses.replace(_robust_row(name, title, votes), rate=rate)


def _robust_row(name: str, title: str, votes: Sequence[Vote], covariate: list[float] | None = None) -> Row:
    people = [vote.participant for vote in votes]
    robust = None
    if covariate is None or len(set(covariate)) > 1:
        robust = robust_win_rate([vote.outcome for vote in votes], people, covariate=covariate)
    return Row(
        name=name,
        title=title,
        participants=len(set(people)),
        votes=len(votes),
        rate=robust.rate if robust else None,
        test=robust.test if robust else None,
    )


def _strengths(votes: Sequence[Vote]) -> tuple[Mapping[str, Estimate], list[str]]:
    names = sorted({name for vote in votes for name in (vote.model1, vote.model2)})
    if len(names) < 3:
        return {}, []
    games = [(vote.model1, vote.model2, vote.outcome) for vote in votes]
    try:
        return bradley_terry(games, reference=names[0], clusters=[vote.participant for vote in votes]).strengths, []
    except ValueError as error:
        return {}, [f"No Bradley-Terry strengths: {error}"]


def _by_assistant(ratings: Sequence[Rating]) -> dict[str, list[int]]:
    by_name: dict[str, list[int]] = {}
    for rating in sorted(ratings, key=lambda rating: rating.assistant):
        by_name.setdefault(rating.assistant, []).append(rating.rating)
    return by_name


def _rating_differences(by_name: Mapping[str, Sequence[int]]) -> tuple[RatingDifference, ...]:
    drafts = [_welch(first, second, by_name) for first, second in combinations(by_name, 2)]
    return _corrected(drafts, [draft.test for draft in drafts])


def _welch(first: str, second: str, by_name: Mapping[str, Sequence[int]]) -> RatingDifference:
    """Two assistants, the p-value not yet corrected; fewer or equal ratings of either carry no interval."""
    sides = [by_name[name] for name in (first, second)]
    n = sum(map(len, sides))
    mean = sum(sides[0]) / len(sides[0]) - sum(sides[1]) / len(sides[1])
    if equal := [name for name, ratings in zip((first, second), sides, strict=True) if len(set(ratings)) == 1]:
        doubt = untold(mean, n, f"all ratings of {' and of '.join(equal)} are equal", 0.95)
        return RatingDifference(first=first, second=second, difference=doubt, test=None, p_adjusted=None)
    from scipy.stats import ttest_ind

    result = ttest_ind(*sides, equal_var=False)
    interval = result.confidence_interval(0.95)
    difference = with_interval(
        mean, float(interval.low), float(interval.high), n=min(map(len, sides)), units="ratings", method="Welch"
    )
    test = Test(statistic=float(result.statistic), p_value=float(result.pvalue), n=n, method="Welch's t-test")
    return RatingDifference(
        first=first,
        second=second,
        difference=dataclasses.replace(difference, n=n),
        test=test if difference.reliable else None,
        p_adjusted=None,
    )
