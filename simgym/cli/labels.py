"""`simgym labels`: what people said of conversations in `simgym view --web`, as figures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simgym.cli import options
from simgym.cli.terminal import format_counts, format_estimate, plain, print_facts, print_json
from simgym.errors import ConfigurationError

if TYPE_CHECKING:
    from simgym.evaluation.labels import Label


def labels(
    files: Annotated[
        list[Path],
        typer.Argument(help="Files written by `simgym view --web`, by one or more people.", metavar="FILE..."),
    ],
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Summarise labels: who was preferred, and a Turing test of the simulated users.

    Labels given while names and rewards were in sight are left out and counted. `simgym judge validate FILE` and
    `simgym agree FILE` read the same files.
    """
    from simgym.evaluation.labels import holds_labels, labels_that_count
    from simgym.evaluation.turing_test import turing_test

    preferences: list[Label] = []
    origins: list[Label] = []
    left_out: Counter[str] = Counter()
    for file in files:
        if not file.is_file():
            raise ConfigurationError(f"There is no file {file}. `simgym view --web RUN` says where it writes labels.")
        if not holds_labels(file):
            raise ConfigurationError(f"{file} holds no labels of `simgym view --web`.")
        counted = labels_that_count(file)
        preferences += counted.preferences
        origins += counted.origins
        left_out.update(counted.left_out)
    wins = _wins(preferences, seed)
    test = turing_test(origins, seed=seed) if origins else None
    if json:
        print_json(
            {
                "left_out": left_out,
                "preferred": {name: estimate.to_json() for name, estimate in wins.items()},
                "turing_test": test.to_json() if test else None,
            }
        )
        return
    counts = [("better, worse or tie", str(len(preferences))), ("human or simulated", str(len(origins)))]
    print_facts([*counts, ("left out", format_counts(left_out))])
    if wins:
        print_facts([(plain(name), format_estimate(share)) for name, share in wins.items()], "Preferred, ties half")
    if test is not None:
        rows = [
            (f"{plain(name)} taken for human", format_estimate(estimate))
            for name, estimate in test.taken_for_human.items()
        ]
        rows.append(
            ("people taken for human", "nobody is among them" if test.people is None else format_estimate(test.people))
        )
        rows += [
            (f"{plain(name)} told from people", format_estimate(estimate)) for name, estimate in test.accuracy.items()
        ]
        readers = f"{test.readers} reader{'s' * (test.readers != 1)}"
        print_facts(rows, f"Turing test: {readers}, intervals over {test.units}")


def _wins(preferences: Any, seed: int) -> dict[str, Any]:
    """Share of comparisons that each assistant won, by name; comparisons of an assistant with itself are left out."""
    from simgym.statistics import clustered_bootstrap_mean

    value = {"better": 1.0, "worse": 0.0, "tie": 0.5}
    outcomes: dict[str, list[tuple[float, str]]] = {}
    for label in preferences:
        first, second = label.conversations
        if first.assistant != second.assistant:
            outcomes.setdefault(first.assistant, []).append((value[label.answer], label.person))
            outcomes.setdefault(second.assistant, []).append((1 - value[label.answer], label.person))
    return {
        name: clustered_bootstrap_mean([won for won, _ in entries], [person for _, person in entries], seed=seed)
        for name, entries in sorted(outcomes.items())
    }
