"""People as a column of the matrix: what a study's participants think of the same assistants.

Records of `simgym study` (or of another app that `read_records` reads) hold ratings, in the design with one assistant,
or choices between two. A rating of 1 to 10 becomes a value of 0 to 100, and an assistant's choices its win rate x 100
over the choices it took part in; people are the independent units. Practice is left out, nobody counts twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simgym.errors import ConfigurationError
from simgym.evaluation.agreement import PeopleAgreement, PeopleRating, Reward, compare_with_people
from simgym.statistics import clustered_bootstrap_mean
from simgym.statistics.intervals import Estimate
from simgym.study.records import Rating, Vote, distinct, ratings_of, read_records, votes_of
from simgym.transcripts import Transcript, outcomes

_LOWEST, _HIGHEST = 1, 10
"""Of a study's ratings."""


@dataclass(frozen=True, slots=True)
class PeopleRatings:
    """What the participants of a study think of assistants."""

    kind: Literal["ratings", "choices"]
    """What they were asked for."""
    ratings: tuple[PeopleRating, ...]
    """On a scale of 0 to 100; several of a person are several choices."""
    left_out: Mapping[str, int]
    """Participants that cannot be used, by reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleColumn:
    """People beside the simulators of a matrix."""

    source: str
    """Name of the file."""
    kind: str
    """`ratings` (0 to 100 for 1 to 10) or `choices` (win rate x 100)."""
    estimates: Mapping[str, Estimate]
    """By assistant of the matrix, in [0, 100]; those that nobody saw are left out. `n` is the number of people."""
    agreement: Mapping[str, PeopleAgreement]
    """With each simulator, by environment id."""
    left_out: Mapping[str, int]
    """Participants that cannot be used, by reason."""


def read_people(path: str | Path) -> PeopleRatings:
    """The ratings or choices in a study's records.

    Raises:
        ConfigurationError: there is no such file, or nobody rated or chose anything.
        MalformedFile: it cannot be read, or a rating is outside its range.
    """
    if not Path(path).exists():
        raise ConfigurationError(f"There is no file {path}. Expected the records of `simgym study export`.")
    records = distinct(read_records(path))
    rated, votes = ratings_of(records.records), votes_of(records.records)
    answered = {entry.person for entry in (*_rated(rated), *_chosen(votes))}
    reasons = Counter({"repeated": records.repeated})
    reasons["without rating or choice"] = sum(str(entry["participant"]) not in answered for entry in records.records)
    left_out = {reason: count for reason, count in reasons.items() if count}
    if rated and votes:
        raise ConfigurationError(f"{path} holds ratings and choices, of two designs. Give one file of each design.")
    if rated:
        return PeopleRatings("ratings", tuple(_rated(rated)), left_out)
    if votes:
        return PeopleRatings("choices", tuple(_chosen(votes)), left_out)
    raise ConfigurationError(f"{path} has {len(records.records)} participants, and nobody rated or chose an assistant.")


def people_column(
    people: PeopleRatings,
    source: str,
    assistants: Sequence[str],
    transcripts: Mapping[tuple[str, str], Sequence[Transcript]],
    *,
    seed: int,
) -> PeopleColumn:
    """People, from a source, beside the assistants of a matrix and its conversations by (assistant, environment id).

    Raises:
        ConfigurationError: people saw none of the assistants.
    """
    seen = check_shared(people.ratings, assistants)
    simulators = dict.fromkeys(column for _, column in transcripts)
    return PeopleColumn(
        source=source,
        kind=people.kind,
        estimates={
            assistant: _estimate([rating for rating in people.ratings if rating.system == assistant], seed)
            for assistant in assistants
            if assistant in seen
        },
        agreement={
            simulator: compare_with_people(people.ratings, rewards_of(transcripts, simulator), seed=seed)
            for simulator in simulators
        },
        left_out=people.left_out,
    )


def check_shared(ratings: Sequence[PeopleRating], assistants: Sequence[str]) -> list[str]:
    """The assistants that people saw.

    Raises:
        ConfigurationError: none of them is in the matrix.
    """
    seen = list(dict.fromkeys(rating.system for rating in ratings))
    if not set(seen) & set(assistants):
        raise ConfigurationError(
            f"People saw {', '.join(seen)}, the matrix has {', '.join(assistants)}: no assistant is in both. Give them "
            "the same names."
        )
    return seen


def rewards_of(transcripts: Mapping[tuple[str, str], Sequence[Transcript]], simulator: str) -> list[Reward]:
    """Rewards x 100 of the conversations with one simulator that count."""
    return [
        Reward(assistant, 100 * outcome.reward, outcome.scenario_id)
        for (assistant, column), talks in transcripts.items()
        if column == simulator
        for outcome in outcomes(talks)
        if outcome.counts and outcome.reward is not None
    ]


def _estimate(ratings: Sequence[PeopleRating], seed: int) -> Estimate:
    return clustered_bootstrap_mean(
        [rating.value for rating in ratings], [rating.person for rating in ratings], seed=seed
    )


def _rated(ratings: Sequence[Rating]) -> list[PeopleRating]:
    return [
        PeopleRating(rating.participant, rating.assistant, 100 * (rating.rating - _LOWEST) / (_HIGHEST - _LOWEST))
        for rating in ratings
    ]


def _chosen(votes: Sequence[Vote]) -> list[PeopleRating]:
    return [
        PeopleRating(vote.participant, system, 100 * outcome)
        for vote in votes
        for system, outcome in ((vote.model1, vote.outcome), (vote.model2, 1 - vote.outcome))
    ]
