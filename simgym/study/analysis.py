"""From records to estimates: who is preferred, how surely, and how much that depends on choices of the analysis.

Participants, not votes, are the independent units: win rates (ties as half) have participant-cluster bootstrap
intervals, tests come from a binomial GLM with cluster-robust errors, Holm-corrected over pairs. Beside the main row of
a pair stand the rows that a sceptic asks for: everybody without exclusions, the first exchange alone (before either
assistant has shaped the conversation), both replies of equal length, and choices in which no reply gave away its model.
Pure: records in, a `StudyResults` out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from simgym.errors import ConfigurationError
from simgym.statistics.clustered import (
    Equivalence,
    RobustRate,
    equivalence,
    intraclass_correlation,
    robust_win_rate,
)
from simgym.statistics.intervals import Estimate, bootstrap_mean
from simgym.statistics.paired import Test, bradley_terry, correct_p_values, win_rate
from simgym.study.config import Rule
from simgym.study.exclusions import exclude
from simgym.study.records import Rating, Vote, distinct, participant_flow, ratings_of, votes_of

SCHEMA_VERSION = 2
"""Incremented when a field is renamed or changes its meaning. Version 1 names `p_adjusted` `p_holm`."""


@dataclass(frozen=True, slots=True)
class Row:
    """One way to estimate a pair's win rate."""

    name: str
    """Identifier."""
    title: str
    """For readers."""
    participants: int
    """Who went in."""
    votes: int
    """Choices that went in."""
    rate: Estimate | None
    """Win rate of the first assistant; None where there is none."""
    test: Test | None
    """Of a win rate of one half; None where there is none."""

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
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
    equivalence: Equivalence | None
    """Test of "indistinguishable"."""

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RatingDifference:
    """Mean ratings of two assistants by different people."""

    first: str
    """One assistant."""
    second: str
    """The other."""
    difference: Estimate
    """Mean of the first minus mean of the second, Welch's interval."""
    test: Test
    """Welch's t-test."""
    p_adjusted: float
    """Corrected for the number of pairs."""


@dataclass(frozen=True, slots=True)
class StudyResults:
    """All that `simgym study analyse` finds."""

    kind: str
    """`real`, `dry_run`, `synthetic`, `unknown` (records of another app)."""
    studies: tuple[str, ...]
    """Hashes of the studies that the records come from."""
    flow: Mapping[str, int]
    """How many took each step."""
    excluded: Mapping[str, int]
    """How many were left out, by reason."""
    included: int
    """Participants of the main analysis."""
    pairs: tuple[Pair, ...]
    """One a pair."""
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

    def to_json(self) -> dict[str, Any]:
        """JSON values, with a schema version."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


def analyse(
    records: Sequence[Mapping[str, Any]],
    *,
    pairs: Sequence[tuple[str, str]] = (),
    rules: Sequence[Rule] = (),
    margin: float = 0.05,
    withdrawn: int = 0,
    study_hash: str | None = None,
    seed: int = 0,
    resamples: int = 9999,
) -> StudyResults:
    """Analyse the records of a study.

    Args:
        records: As `export` or `read_records` give them.
        pairs: Which assistant of a pair comes first; others are ordered by name.
        rules: Exclusion rules.
        margin: Of the equivalence test.
        withdrawn: How many have withdrawn, for the participant flow.
        study_hash: Of the study that pairs, rules and margin come from; another one than the records' is warned of.
        seed: Of all resampling.
        resamples: Bootstrap samples.

    Raises:
        ConfigurationError: there are records of real and of other participants together, or none at all.
    """
    if not records:
        raise ConfigurationError("There are no participants. Export a study first, or give another file.")
    once = distinct(records)
    records = once.records
    kinds = sorted({str(record.get("kind", "unknown")) for record in records})
    if len(kinds) > 1:
        raise ConfigurationError(f"The records are {' and '.join(kinds)}. Analyse them apart.")
    hashes = tuple(sorted({str(record["study_hash"]) for record in records if "study_hash" in record}))
    kept, excluded = exclude(records, rules)
    found = _pairs(kept, records, pairs, margin, seed, resamples)
    votes, ratings = votes_of(kept), ratings_of(kept)
    strengths, problem = _strengths(votes)
    warnings = [*problem]
    if once.repeated:
        warnings.append(
            f"{once.repeated} of {len(records) + once.repeated} records came more than once (the same participant in "
            "the same study): each is counted once."
        )
    if len(hashes) > 1:
        warnings.append(f"The records come from {len(hashes)} versions of the study: not comparable without a reason.")
    if study_hash is not None and hashes and study_hash not in hashes:
        warnings.append(
            "Pairs, exclusion rules and margin come from another version of the study than the records: they were not "
            "fixed before the data were seen."
        )
    return StudyResults(
        kinds[0],
        hashes,
        participant_flow(records, withdrawn=withdrawn),
        excluded,
        len(kept),
        found,
        strengths,
        _mean_ratings(ratings, seed, resamples),
        _rating_differences(ratings),
        tuple(warnings),
        seed,
    )


def _pairs(
    kept: Sequence[Mapping[str, Any]],
    everybody: Sequence[Mapping[str, Any]],
    wanted: Sequence[tuple[str, str]],
    margin: float,
    seed: int,
    resamples: int,
) -> tuple[Pair, ...]:
    order = {frozenset(pair): tuple(pair) for pair in wanted}
    main, all_votes = _by_pair(votes_of(kept), order), _by_pair(votes_of(everybody), order)
    drafts = [
        _pair(pair, main.get(pair, []), votes, margin, seed, resamples) for pair, votes in sorted(all_votes.items())
    ]
    tested = [pair for pair in drafts if pair.rows[0].test is not None]
    corrected = correct_p_values([pair.rows[0].test.p_value for pair in tested if pair.rows[0].test is not None])
    by_pair = {(pair.first, pair.second): value for pair, value in zip(tested, corrected, strict=True)}
    return tuple(dataclasses.replace(pair, p_adjusted=by_pair.get((pair.first, pair.second))) for pair in drafts)


def _by_pair(
    votes: Sequence[Vote], order: Mapping[frozenset[str], tuple[str, ...]]
) -> dict[tuple[str, str], list[Vote]]:
    """Votes by pair, each turned so that the pair's first assistant is `model1`."""
    found: dict[tuple[str, str], list[Vote]] = {}
    for vote in votes:
        both = frozenset((vote.model1, vote.model2))
        first, second = order.get(both, tuple(sorted((vote.model1, vote.model2))))
        found.setdefault((first, second), []).append(vote if vote.model1 == first else _turned(vote))
    return found


def _turned(vote: Vote) -> Vote:
    lengths = None if vote.characters is None else vote.characters[::-1]
    return Vote(
        vote.participant, vote.model2, vote.model1, 1 - vote.outcome, vote.turn, vote.left, lengths, vote.flagged
    )


def _pair(
    pair: tuple[str, str], votes: list[Vote], everybody: list[Vote], margin: float, seed: int, resamples: int
) -> Pair:
    def row(name: str, title: str, chosen: Sequence[Vote]) -> Row:
        return _bootstrap_row(name, title, chosen, seed, resamples)

    measured = [vote for vote in votes if vote.characters is not None and min(vote.characters) > 0]
    rows = [
        row("main", "After exclusions", votes),
        row("everybody", "Everybody, no exclusions", everybody),
        row("first_exchange", "First exchange only", [vote for vote in votes if vote.turn == 1]),
        row("unflagged", "No reply names its model", [vote for vote in votes if not vote.flagged]),
        _robust_row("robust", "GLM, cluster-robust", votes, None),
        _robust_row("equal_length", "Replies of equal length (GLM)", measured, _log_ratios(measured)),
    ]
    people = [vote.participant for vote in votes]
    outcomes = [vote.outcome for vote in votes]
    decided = [vote for vote in votes if vote.left is not None and vote.outcome != 0.5]
    left = None
    if decided:
        sided = [(vote.outcome if vote.left == vote.model1 else 1 - vote.outcome) for vote in decided]
        left = _row(
            "left", "Left reply, decided choices", sided, [vote.participant for vote in decided], seed, resamples
        )
    return Pair(
        pair[0],
        pair[1],
        outcomes.count(1.0),
        outcomes.count(0.5),
        outcomes.count(0.0),
        tuple(rows),
        None,
        intraclass_correlation(outcomes, people, seed=seed),
        left,
        equivalence(outcomes, people, margin=margin),
    )


def _bootstrap_row(name: str, title: str, votes: Sequence[Vote], seed: int, resamples: int) -> Row:
    return _row(name, title, [vote.outcome for vote in votes], [vote.participant for vote in votes], seed, resamples)


def _row(name: str, title: str, outcomes: list[float], people: list[str], seed: int, resamples: int) -> Row:
    """Bootstrap interval, robust test."""
    rate = win_rate(outcomes, people, seed=seed, resamples=resamples) if outcomes else None
    robust = robust_win_rate(outcomes, people)
    return Row(name, title, len(set(people)), len(outcomes), rate, robust.test if robust else None)


def _robust_row(name: str, title: str, votes: Sequence[Vote], covariate: list[float] | None) -> Row:
    people = [vote.participant for vote in votes]
    found: RobustRate | None = None
    if covariate is None or len(set(covariate)) > 1:
        found = robust_win_rate([vote.outcome for vote in votes], people, covariate=covariate)
    return Row(name, title, len(set(people)), len(votes), found.rate if found else None, found.test if found else None)


def _log_ratios(votes: Sequence[Vote]) -> list[float]:
    return [math.log(vote.characters[0] / vote.characters[1]) for vote in votes if vote.characters is not None]


def _strengths(votes: Sequence[Vote]) -> tuple[Mapping[str, Estimate], list[str]]:
    names = sorted({name for vote in votes for name in (vote.model1, vote.model2)})
    if len(names) < 3:
        return {}, []
    games = [(vote.model1, vote.model2, vote.outcome) for vote in votes]
    try:
        return bradley_terry(games, reference=names[0], clusters=[vote.participant for vote in votes]).strengths, []
    except ValueError as error:
        return {}, [f"No Bradley-Terry strengths: {error}"]


def _mean_ratings(ratings: Sequence[Rating], seed: int, resamples: int) -> dict[str, Estimate]:
    names = sorted({one.assistant for one in ratings})
    return {
        name: bootstrap_mean([one.rating for one in ratings if one.assistant == name], seed=seed, resamples=resamples)
        for name in names
    }


def _rating_differences(ratings: Sequence[Rating]) -> tuple[RatingDifference, ...]:
    from scipy.stats import ttest_ind

    by_name: dict[str, list[int]] = {}
    for one in sorted(ratings, key=lambda one: one.assistant):
        by_name.setdefault(one.assistant, []).append(one.rating)
    found = []
    for first, second in combinations([name for name, values in by_name.items() if len(set(values)) > 1], 2):
        result = ttest_ind(by_name[first], by_name[second], equal_var=False)
        interval = result.confidence_interval(0.95)
        n = len(by_name[first]) + len(by_name[second])
        mean = sum(by_name[first]) / len(by_name[first]) - sum(by_name[second]) / len(by_name[second])
        difference = Estimate(mean, float(interval.low), float(interval.high), n, "Welch", None)
        test = Test(float(result.statistic), float(result.pvalue), n, "Welch's t-test")
        found.append((first, second, difference, test))
    corrected = correct_p_values([test.p_value for *_, test in found])
    return tuple(RatingDifference(*one, p_adjusted) for one, p_adjusted in zip(found, corrected, strict=True))
