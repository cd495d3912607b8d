"""`simgym judge validate --people`: a judge beside people, as tables and as the record that is kept with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simgym.cli.terminal import complain, format_counts, format_estimate, gave_json, plain, print_facts, shown, stdout

if TYPE_CHECKING:
    from simgym.evaluation.people_pairs import PeopleValidation


def compare_with_people(
    judges: Mapping[str, Any],
    path: Path,
    *,
    limit: int | None,
    seed: int,
    batch_size: int,
    output: Path | None,
    json: bool,
) -> None:
    """Judge the pairs, keep a record of each judge, print."""
    from simgym.cli.progress import counting, load_models
    from simgym.evaluation.judge_validation import judge_pairs
    from simgym.evaluation.people_pairs import read_people_pairs, validate_by_people, without_training_prompts
    from simgym.judges.people_record import keep_record

    people = read_people_pairs(path, limit=limit, seed=seed)
    load_models((f"judge {name}", judge) for name, judge in judges.items())
    results = []
    for name, judge in judges.items():
        unseen = without_training_prompts(people, judge)
        with counting(name, len(unseen.pairs)) as advance:
            verdicts = judge_pairs(judge, unseen.pairs, seed=seed, batch_size=batch_size, advance=advance)
        results.append(validate_by_people(name, judge.fingerprint(), verdicts, unseen, seed=seed))
        if limit is None and results[-1].record.pairs:  # one of some pairs, or of none, must not replace one of all
            keep_record(results[-1].record)
    value = {"pairs": len(people.pairs), "judges": [result.to_json() for result in results]}
    if gave_json(value, output, json):
        return
    for result in results:
        _show(result)


def _show(result: PeopleValidation) -> None:
    from simgym.judges.people_record import PEOPLE_BAR, people_warning

    validation = result.validation
    rows = [
        ("as people, balanced for length", format_estimate(validation.length_balanced)),
        (
            "as people, all pairs",
            f"{format_estimate(validation.accuracy)}; length alone {validation.length_alone.get('all', 0.5):.2f}",
        ),
    ]
    for source, estimate in result.balanced_by_source.items():
        rows.append((plain(source), f"{format_estimate(estimate)}; length alone {validation.length_alone[source]:.2f}"))
    rows.append(("not used", format_counts(result.left_out)))
    rows.append(("failed", format_counts(validation.faults)))
    print_facts(rows, validation.judge)
    calibration = result.calibration
    if calibration is not None:
        rows = [
            ("expected error as it is", format_estimate(calibration.error)),
            ("slope of Platt's map", "cannot be told" if calibration.slope is None else f"{calibration.slope:.2f}"),
            ("expected error behind the map", format_estimate(calibration.error_mapped)),
        ]
        for mark, curve in (("", calibration.curve), ("mapped: ", calibration.curve_mapped)):
            for entry in curve:
                right = f"right {entry.accuracy:.2f} ({entry.pairs} pairs)"
                rows.append((f"{mark}sure {entry.confidence:.2f}", right))
        print_facts(rows, "Calibration: how sure the judge is, and how often people agree")
    warning = "" if result.record.passes else people_warning(validation.fingerprint)
    if warning:
        complain(warning)
    else:
        stdout().print(shown(f"Above the bar of {PEOPLE_BAR:g}."))
