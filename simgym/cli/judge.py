"""`simgym judge validate` and `simgym rescore`: is a judge right, and what does another one say?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simgym.cli import options
from simgym.cli.completion import complete_judge
from simgym.cli.terminal import format_counts, format_estimate, gave_json, plain, print_facts, stderr
from simgym.errors import ConfigurationError
from simgym.extras import require_extra

if TYPE_CHECKING:
    from simgym.evaluation.judge_validation import Validation

judge = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Judges: validate them on pairs of answers.")


def load_judges(
    names: Sequence[str], model: str | None, given: Sequence[str] | None, caching: options.CacheOptions
) -> dict[str, Any]:
    """Judges by name, as `--judge-model` and `--judge-option` say."""
    from simgym.evaluation.axes import read_pairs
    from simgym.judges.loading import load_judge

    arguments = read_pairs(given or (), "--judge-option")
    return {name: load_judge(name, caching.model(model), arguments) for name in dict.fromkeys(names)}


@judge.command()
@options.with_bundles
def validate(
    caching: options.CacheOptions,
    pairs: Annotated[
        Path | None,
        typer.Argument(
            help="JSONL with instruction, chosen, rejected and optionally rejected_model.", show_default=False
        ),
    ] = None,
    people: Annotated[
        Path | None,
        typer.Option(
            help="JSONL of pairs that people judged: accuracy balanced for length, by source, and calibration. The "
            "record is kept, and results of this judge refer to it.",
            show_default=False,
        ),
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="Judge: a name (`simgym judges` lists them) or py:module:Class. Repeatable.",
            show_default="reward_head",
            autocompletion=complete_judge,
        ),
    ] = None,
    judge_model: options.JudgeModel = None,
    judge_option: options.JudgeOption = None,
    n: Annotated[int | None, typer.Option("-n", min=1, help="Use N pairs, drawn by the seed.")] = None,
    retest: Annotated[int, typer.Option(min=0, help="Judge N pairs a second time, with another seed.")] = 0,
    output: options.ResultsFile = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 16,
    json: options.Json = False,
) -> None:
    """Measure how often a judge is right: by subset, balanced for length, in both orders, on retest, beside another."""
    from simgym.cli.judge_people import compare_with_people
    from simgym.cli.progress import load_models
    from simgym.evaluation.judge_validation import judge_agreement, judge_pairs, read_pairs
    from simgym.evaluation.judge_validation import validate as summarise

    names = list(dict.fromkeys(judge or ["reward_head"]))
    if retest or len(names) > 1:
        require_extra("stats", "Agreement between judgements")
    judges = load_judges(names, judge_model, judge_option, caching)
    if (pairs is None) == (people is None):
        raise ConfigurationError("Give either a file of pairs or --people FILE.")
    if people is not None:
        if retest:
            raise ConfigurationError("--retest needs a file of pairs; --people asks once.")
        compare_with_people(judges, people, limit=n, seed=seed, batch_size=batch_size, output=output, json=json)
        return
    assert pairs is not None
    chosen = read_pairs(pairs, limit=n, seed=seed)
    load_models((f"judge {name}", loaded) for name, loaded in judges.items())
    verdicts, validations = {}, []
    for name, loaded in judges.items():
        with stderr().status(f"{plain(name)}: {len(chosen)} pairs"):
            verdicts[name] = judge_pairs(loaded, chosen, seed=seed, batch_size=batch_size)
            again = judge_pairs(loaded, chosen[:retest], seed=seed + 1, batch_size=batch_size) if retest else None
        validations.append(summarise(name, loaded.fingerprint(), verdicts[name], again, seed=seed))
    agreements = {
        f"{first} and {second}": judge_agreement(verdicts[first], verdicts[second], seed=seed)
        for first, second in itertools.combinations(names, 2)
    }
    value = {
        "pairs": len(chosen),
        "judges": [validation.to_json() for validation in validations],
        "agreement": {key: agreement.to_json() for key, agreement in agreements.items()},
    }
    if gave_json(value, output, json):
        return
    for validation in validations:
        print_facts(_validation_rows(validation), validation.judge)
    for pair, figures in agreements.items():
        estimates = {"agreement": figures.raw, "kappa": figures.kappa, "alpha": figures.alpha}
        print_facts([(name, format_estimate(estimate)) for name, estimate in estimates.items()], pair)


def _validation_rows(validation: Validation) -> list[tuple[str, str]]:
    """What a judge got right, as names and values."""
    rows = [
        ("accuracy", format_estimate(validation.accuracy)),
        ("length-balanced", format_estimate(validation.length_balanced)),
    ]
    for subset, estimate in validation.by_subset.items():
        alone = validation.length_alone[subset]
        rows.append((f"against {subset}", f"{format_estimate(estimate)}; length alone {alone:.2f}"))
    rows.append(("length alone", f"{validation.length_alone['all']:.2f}"))
    if validation.position_consistency is not None:
        rows.append(("same in both orders", format_estimate(validation.position_consistency)))
    if validation.retest_same is not None:
        rows.append(("same a second time", f"{validation.retest_same:.2f}"))
    rows.append(("failed", format_counts(validation.faults)))
    return rows


@options.with_bundles
def rescore(
    transcripts: Annotated[Path, typer.Argument(help="JSONL file of a rollout or a matrix.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File of the new transcripts; continued if it exists.")
    ],
    judge: Annotated[
        str,
        typer.Option(
            help="The new judge: a name (`simgym judges` lists them) or py:module:Class.", autocompletion=complete_judge
        ),
    ],
    caching: options.CacheOptions,
    judge_model: options.JudgeModel = None,
    judge_option: options.JudgeOption = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 32,
) -> None:
    """Judge stored conversations again: those that this version of the judge has not scored yet."""
    from simgym.cli.progress import load_models, say_nothing_to_do
    from simgym.evaluation.rescore import is_left
    from simgym.evaluation.rescore import rescore as judge_again
    from simgym.rollout import count_exclusions
    from simgym.statistics import spearman
    from simgym.statistics.intervals import bootstrap_mean
    from simgym.transcripts import read_transcripts

    loaded = load_judges([judge], judge_model, judge_option, caching)[judge]
    if is_left(transcripts, loaded, output):
        load_models([("judge", loaded)])
    else:
        say_nothing_to_do(len(list(read_transcripts(transcripts))), "judgements", output)
    with stderr().status("judging"):
        rescored = judge_again(transcripts, loaded, output, batch_size=batch_size)
    before = {transcript.key: transcript.reward for transcript in read_transcripts(transcripts) if transcript.counts}
    after = [(each.key, each.reward) for each in rescored if each.counts and each.reward is not None]
    rewards = [100 * reward for _, reward in after]
    pairs = [(earlier, reward) for key, reward in after if (earlier := before.get(key)) is not None]
    ranks = spearman([a for a, _ in pairs], [b for _, b in pairs], seed=seed)
    rows = [
        ("mean reward x 100", format_estimate(bootstrap_mean(rewards, seed=seed))),
        ("rank correlation with the stored rewards", format_estimate(ranks) if ranks.value is not None else ""),
        ("excluded", format_counts(count_exclusions(rescored))),
        ("written to", str(output)),
    ]
    print_facts(rows)
