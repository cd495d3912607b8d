"""`simgym agree`: do a judge, or simulated users, rank assistants as people do?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simgym.cli import options
from simgym.cli.completion import complete_judge
from simgym.cli.judge import load_judges
from simgym.cli.terminal import complain, format_counts, format_estimate, gave_json, plain, print_facts
from simgym.errors import ConfigurationError
from simgym.fingerprints import Fingerprint

if TYPE_CHECKING:
    from simgym.evaluation.agreement import PeopleAgreement, RankAgreement
    from simgym.evaluation.rated_conversations import RatedConversations


@dataclass(frozen=True, slots=True)
class _Compared:
    """People beside judges, or beside the simulated users of a matrix."""

    agreement: Mapping[str, PeopleAgreement]
    """By judge, or by simulator."""
    left_out: Mapping[str, int]
    """Rows that could not be used and judgements that failed, by reason."""
    judges: Mapping[str, Fingerprint]
    """Fingerprints of the judges whose rewards these are, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scoring:
    """How judges score."""

    scores: Path | None
    """Folder of their scores; None: they are not kept."""
    seed: int
    batch_size: int
    """Conversations per call."""

    def path(self, judge: str) -> Path | None:
        """File of a judge's scores."""
        if self.scores is None:
            return None
        return self.scores / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', judge)}.jsonl"


@options.with_bundles
def agree(
    people: Annotated[
        Path,
        typer.Argument(
            help="What people think: with --judge, conversations with annotations (model, rating); with --results, "
            "records of `simgym study export`, or such conversations."
        ),
    ],
    caching: options.CacheOptions,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="Judge of the same conversations (`simgym judges` lists them) or py:module:Class. Repeatable.",
            show_default="reward_head, without --results",
            autocompletion=complete_judge,
        ),
    ] = None,
    judge_model: options.JudgeModel = None,
    judge_option: options.JudgeOption = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Folder of `simgym matrix`: its simulated users, on the assistants that people saw."),
    ] = None,
    rating: Annotated[
        list[str] | None,
        typer.Option(
            help="Key of the rating in the annotations. Repeatable: the first that is there counts.",
            show_default="rating, overall_rating, overall_interaction_rating",
        ),
    ] = None,
    scale: Annotated[tuple[float, float], typer.Option(help="Smallest and largest rating.")] = (1.0, 10.0),
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", min=1, help="Rated conversations, drawn by the seed.", show_default="all"),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="Folder of the judges' scores, one file per judge; the same command resumes from it."),
    ] = None,
    output: options.ResultsFile = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 8,
    json: options.Json = False,
) -> None:
    """Compare people's ratings with a judge on the same conversations, or with the simulated users of a matrix.

    Reports rank correlations over conversations and over assistants, with intervals, the noise in people's own
    ratings, and how many units would be needed.
    """
    from simgym.judges.people_record import people_warning

    if scale[0] >= scale[1]:
        raise ConfigurationError(f"The scale goes from {scale[0]:g} to {scale[1]:g}, expected a smaller number first.")
    if results is not None:
        if judge or scores or limit:
            given = "--judge" if judge else "--scores" if scores else "--limit"
            raise ConfigurationError(f"Give either {given} or --results: a matrix has its own judge and conversations.")
        compared = _with_matrix(people, results, rating, scale, seed)
    else:
        from simgym.cli.progress import load_models
        from simgym.evaluation.rated_conversations import RATING_KEYS, read_rated_conversations

        rated = read_rated_conversations(people, keys=rating or RATING_KEYS, scale=scale, limit=limit, seed=seed)
        judges = load_judges(judge or ["reward_head"], judge_model, judge_option, caching)
        load_models((f"judge {name}", loaded) for name, loaded in judges.items())
        compared = _with_judges(rated, judges, _Scoring(scores=scores, seed=seed, batch_size=batch_size))
    agreement = compared.agreement
    value = {
        "left_out": compared.left_out,
        "judges": compared.judges,
        "agreement": {name: entry.to_json() for name, entry in agreement.items()},
    }
    if gave_json(value, output, json):
        return
    print_facts([("rows left out", format_counts(compared.left_out))])
    for name, entry in agreement.items():
        print_facts(agreement_rows(entry), f"{plain(name)} and people")
    if not any(tells(entry) for entry in agreement.values()):
        complain("These data cannot tell whether the two agree.")
    for name, fingerprint in compared.judges.items():
        if warning := people_warning(fingerprint):
            complain(f"{plain(name)}: {warning}")


def tells(agreement: PeopleAgreement) -> bool:
    """Whether there is an interval for conversations, or for the order of the assistants."""
    conversations = agreement.instances is not None and agreement.instances.spearman.reliable
    return conversations or agreement.ordered_alike.reliable


def agreement_rows(agreement: PeopleAgreement) -> list[tuple[str, str]]:
    """Names and values, as the terminal shows them."""
    rows = [("people, assistants", f"{agreement.n_people}, {len(agreement.people)}")]
    for title, level in (("conversations", agreement.instances), ("assistants", agreement.systems)):
        if level is not None:
            rows += _level_rows(title, level)
    rows.append(("pairs of assistants in the same order", format_estimate(agreement.ordered_alike)))
    for system, value in sorted(agreement.people.items(), key=lambda entry: -entry[1]):
        rows.append((f"  {plain(system)}", f"people {value:.2f}, reward {agreement.rewards[system]:.2f}"))
    if agreement.left_out:
        rows.append(("left out", format_counts(agreement.left_out)))
    return rows


def _level_rows(title: str, level: RankAgreement) -> list[tuple[str, str]]:
    rows = [
        (f"{title}: Spearman", format_estimate(level.spearman)),
        (f"{title}: Kendall", format_estimate(level.kendall)),
    ]
    if level.reliability is None:
        rows.append((f"{title}: reliability of people", "cannot be told: nobody rated the same twice"
                     if title == "conversations" else "cannot be told"))  # fmt: skip
    else:
        without = "" if level.without_noise is None else f"; Spearman without their noise {level.without_noise:.2f}"
        rows.append((f"{title}: reliability of people", f"{level.reliability:.2f}{without}"))
    if level.needed is not None:
        rows.append((f"{title}: needed to tell such a Spearman from 0", f"{level.needed:,}"))
    return rows


def _with_judges(rated: RatedConversations, judges: Mapping[str, Any], scoring: _Scoring) -> _Compared:
    """Every judge on the conversations that people rated."""
    from simgym.cli.progress import counting
    from simgym.evaluation.agreement import compare_with_people
    from simgym.evaluation.rated_conversations import judge_rated

    agreement, left_out = {}, dict(rated.left_out)
    for name, judge in judges.items():
        path = scoring.path(name)
        with counting(name, len(rated.conversations)) as advance:
            rewards, faults = judge_rated(
                judge, rated.conversations, seed=scoring.seed, batch_size=scoring.batch_size, path=path, advance=advance
            )
        for kind, count in faults.items():
            left_out[f"{name} failed ({kind})"] = count
        agreement[name] = compare_with_people(
            [entry.rating for entry in rated.conversations], rewards, seed=scoring.seed
        )
    return _Compared(agreement, left_out, {name: judge.fingerprint() for name, judge in judges.items()})


def _with_matrix(path: Path, folder: Path, keys: list[str] | None, scale: tuple[float, float], seed: int) -> _Compared:
    """The simulated users of a finished matrix, beside records of a study or rated conversations."""
    from simgym.evaluation.agreement import compare_with_people
    from simgym.evaluation.rated_conversations import RATING_KEYS, has_annotations, read_rated_conversations
    from simgym.experiment import Results
    from simgym.report.people import check_shared, read_people, rewards_of

    results = Results.load(folder)
    if has_annotations(path):
        rated = read_rated_conversations(path, keys=keys or RATING_KEYS, scale=scale)
        ratings, left_out = [entry.rating for entry in rated.conversations], dict(rated.left_out)
    else:
        read = read_people(path)
        ratings, left_out = list(read.ratings), dict(read.left_out)
    check_shared(ratings, results.matrix.assistants)
    agreement = {
        simulator: compare_with_people(ratings, rewards_of(results.transcripts, simulator), seed=seed)
        for simulator in results.matrix.simulators
    }
    return _Compared(agreement, left_out, {results.matrix.judge: results.matrix.fingerprints["judge"]})
