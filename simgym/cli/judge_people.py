"""`simgym judge validate --people`: a judge beside people, as tables and as the record that is kept with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simgym.cli.terminal import complain, facts, format_estimate, plain, print_json, shown, stderr, stdout

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
    from simgym.cli.progress import counting
    from simgym.evaluation.judge_validation import judge_pairs
    from simgym.evaluation.people_pairs import read_people_pairs, validate_by_people, without_training_prompts
    from simgym.judges.people_record import keep_record
    from simgym.rollout.readiness import check_all_ready
    from simgym.transcripts import write_json

    people = read_people_pairs(path, limit=limit, seed=seed)
    with stderr().status("Loading models"):
        check_all_ready((f"judge {name}", judge) for name, judge in judges.items())
    results = []
    for name, judge in judges.items():
        unseen = without_training_prompts(people, judge)
        with counting(name, len(unseen.pairs)) as advance:
            verdicts = judge_pairs(judge, unseen.pairs, seed=seed, batch_size=batch_size, advance=advance)
        results.append(validate_by_people(name, judge.fingerprint(), verdicts, unseen, seed=seed))
        if limit is None and results[-1].record.pairs:  # one of some pairs, or of none, must not replace one of all
            keep_record(results[-1].record)
    value = {"pairs": len(people.pairs), "judges": [result.to_json() for result in results]}
    if output is not None:
        write_json(output, value)
    if json:
        print_json(value)
        return
    for result in results:
        _show(result)


def _show(result: PeopleValidation) -> None:
    from simgym.judges.people_record import PEOPLE_BAR, people_warning

    validation, out = result.validation, stdout()
    rows = [
        ("as people, balanced for length", format_estimate(validation.length_balanced)),
        (
            "as people, all pairs",
            f"{format_estimate(validation.accuracy)}; length alone {validation.length_alone.get('all', 0.5):.2f}",
        ),
    ]
    for source, estimate in result.balanced_by_source.items():
        rows.append((plain(source), f"{format_estimate(estimate)}; length alone {validation.length_alone[source]:.2f}"))
    rows.append(("not used", ", ".join(f"{count} {why}" for why, count in result.left_out.items()) or "none"))
    rows.append(("failed", ", ".join(f"{count} {kind}" for kind, count in validation.faults.items()) or "none"))
    out.print(shown(validation.judge, "bold"))
    out.print(facts(rows))
    calibration = result.calibration
    if calibration is not None:
        slope = "cannot be told" if calibration.slope is None else f"{calibration.slope:.2f}"
        out.print(shown("Calibration: how sure the judge is, and how often people agree", "bold"))
        out.print(
            facts(
                [
                    ("expected error as it is", format_estimate(calibration.error)),
                    ("slope of Platt's map", slope),
                    ("expected error behind the map", format_estimate(calibration.error_mapped)),
                    *((f"sure {entry.confidence:.2f}", f"right {entry.accuracy:.2f} ({entry.pairs} pairs)")
                      for entry in calibration.curve),
                    *((f"mapped: sure {entry.confidence:.2f}", f"right {entry.accuracy:.2f} ({entry.pairs} pairs)")
                      for entry in calibration.curve_mapped),
                ]
            )
        )  # fmt: skip
    warning = "" if result.record.passes else people_warning(validation.fingerprint)
    if warning:
        complain(warning)
    else:
        out.print(shown(f"Above the bar of {PEOPLE_BAR:g}."))
