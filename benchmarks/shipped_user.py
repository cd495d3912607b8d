"""The shipped user beside the one before it and role-play on the same base, on people who talk with assistants.

    python benchmarks/shipped_user.py                     # human_ai_dev.jsonl, see `simgym data sources`

No row of it was trained on. Openings stand apart from later turns, since intents made of openings give them away:

* bits per byte of what people said, teacher-forced, with the paired difference;
* the scorecard of `simgym realism`: classifier, lengths, vocabulary, leaving;
* small talk: how many turns greet or ask how one is instead of wanting something.

About half an hour on two cores; an interrupted run goes on. Prints and writes `results/shipped_user.json`.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simgym import __version__
from simgym.data import LoggedConversation, StepOutput, data_file, preprocess, read_logged, write_topics
from simgym.evaluation import Reference, Scorecard, make_reference, score_realism, simulate_turns
from simgym.evaluation.run_file import RunFile
from simgym.evaluation.simulated_turns import SimulatedTurn, human_likelihoods
from simgym.language_models import DEFAULT_MODEL, TransformersLM
from simgym.report import realism_results
from simgym.report.realism import format_estimate, scorecard_rows
from simgym.simulators import EARLIER_ADAPTER, SHIPPED_ADAPTER, FineTuned, RolePlay
from simgym.simulators.base import UserSimulator
from simgym.statistics import Estimate, bootstrap_statistic, clustered_bootstrap_mean
from simgym.statistics.resampling import Rows
from simgym.transcripts import write_json

RESULTS = Path(__file__).parent / "results" / "shipped_user.json"
MAX_NEW_TOKENS = {"shipped": 80, "before": 80, "role-play": 192}
"""Each allows about 300 characters: the role-playing user's JSON frame and asides take up to 90 tokens."""
SMALL_TALK = re.compile(
    r"\bhow(?:'s| is| are) (?:you|it going|your day|things)\b|\bnice to meet you\b|\bwhat'?s up\b"
    r"|\A\W*(?:hi|hello|hey)(?: there)?\W*\Z",
    re.IGNORECASE,
)
"""A turn that makes conversation instead of wanting something."""


def main() -> None:
    """Score likelihoods, simulate, compare, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--people", type=Path, default=None, help="a log in WildChat's columns")
    parser.add_argument("--adapter", default=str(SHIPPED_ADAPTER))
    parser.add_argument("--before", default=str(EARLIER_ADAPTER))
    parser.add_argument("--dtype", default="bfloat16-mixed", help="of all three; float32 takes twice as long")
    parser.add_argument(
        "--speak", nargs="*", choices=MAX_NEW_TOKENS, default=["shipped", "before"], help="of the others, likelihoods"
    )
    parser.add_argument("--conversations", type=int, default=30)
    parser.add_argument("--later_turns", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beside", nargs="*", choices=MAX_NEW_TOKENS, default=["before", "role-play"])
    parser.add_argument("--only", default="", help="shipped, before or role-play: work on this one, compare later")
    parser.add_argument("--folder", type=Path, default=Path("runs/shipped_user"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    people = options.people or data_file("human_ai_dev.jsonl")
    logged = with_topics(people, options.folder)
    model = TransformersLM(DEFAULT_MODEL, dtype=options.dtype)
    simulators: dict[str, UserSimulator] = {
        "shipped": FineTuned(model, adapter=options.adapter, max_new_tokens=MAX_NEW_TOKENS["shipped"]),
        "before": FineTuned(model, adapter=options.before, max_new_tokens=MAX_NEW_TOKENS["before"]),
        "role-play": RolePlay(model, max_new_tokens=MAX_NEW_TOKENS["role-play"]),
    }
    chosen = [options.only] if options.only else ["shipped", *options.beside]
    simulators = {name: simulator for name, simulator in simulators.items() if name in chosen}
    moments = make_reference(
        logged, people.name, conversations=options.conversations, later_turns=options.later_turns, seed=options.seed
    )
    nats = {}
    turns, cards = {}, []
    for name, simulator in simulators.items():
        if name not in options.speak:
            nats[name] = likelihoods(simulator, moments, options.folder / f"likelihoods_{name}.jsonl")
            continue
        path = options.folder / f"turns_{name}.jsonl"
        turns[name] = simulate_turns(
            simulator, moments, seed=options.seed, path=path, batch_size=16, advance=_report(name)
        )
        nats[name] = {turn.key: -turn.logprob for turn in turns[name] if turn.logprob is not None}
    if options.only:
        return
    for name, own in turns.items():
        cards.append(score_realism(name, simulators[name].fingerprint(), moments, own, seed=options.seed))
    results = {
        **realism_results(moments, cards, seed=options.seed, version=__version__),
        "bits_per_byte": bits_per_byte(moments, nats, options.seed),
        "small_talk": small_talk(moments, turns, options.seed),
    }
    write_json(options.output, results)
    show(results, cards)


def _report(name: str) -> Callable[[int], None]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if done % 16 == 0:
            print(f"{name}: {done} moments", flush=True)

    return advance


def with_topics(people: Path, folder: Path) -> list[LoggedConversation]:
    """The usable conversations of a log, with intents by rule."""
    if not (folder / "topics.jsonl").is_file():
        preprocess(str(people), folder / "clean.jsonl")
        with StepOutput(folder / "topics.jsonl") as step:
            write_topics(read_logged(folder / "clean.jsonl"), step)
    return list(read_logged(folder / "topics.jsonl"))


def likelihoods(simulator: UserSimulator, reference: Reference, path: Path) -> dict[str, float]:
    """Nats of every turn that a person said, by moment; nothing is simulated."""
    header = {"simulator": simulator.fingerprint(), "reference": reference.content_hash()}
    with RunFile(path, header) as file:
        pending = [moment for moment in reference.moments if moment.said and moment.key not in file.rows]
        for batch in (pending[start : start + 8] for start in range(0, len(pending), 8)):
            for moment, known in zip(batch, human_likelihoods(simulator, batch), strict=True):
                file.append({"key": moment.key, "nats": -known.logprob if known else None})
            print(f"{path.stem}: {len(file.rows)} turns", flush=True)
        return {key: row["nats"] for key, row in file.rows.items()}


def bits_per_byte(reference: Reference, nats: Mapping[str, Mapping[str, float]], seed: int) -> dict[str, Any]:
    """Of openings and later turns: each simulator's, and by how many percent fewer the shipped one needs."""
    table: dict[str, Any] = {}
    for kind, moments in (("openings", reference.first), ("later", reference.later)):
        spoken = [moment for moment in moments if moment.said]
        persons = [moment.person for moment in spoken]
        sizes = np.array([len((moment.said or "").strip().encode()) for moment in spoken])
        own = {name: np.array([known[moment.key] for moment in spoken]) for name, known in nats.items()}

        def bits(rows: Rows, values: Any, sizes: Any = sizes) -> float:
            return float(values[rows].sum() / sizes[rows].sum() / math.log(2))

        def fewer(rows: Rows, ours: Any, theirs: Any) -> float:
            return float(100 * (1 - ours[rows].sum() / theirs[rows].sum()))

        def estimate(statistic: Any, *values: Any, persons: Any = persons) -> dict[str, Any]:
            return bootstrap_statistic(
                lambda rows: statistic(rows, *values), persons, seed=seed, resamples=1999
            ).to_json()

        table[kind] = {
            "turns": len(spoken),
            "bits": {name: estimate(bits, values) for name, values in own.items()},
            "fewer_percent_than": {
                name: estimate(fewer, own["shipped"], values) for name, values in own.items() if name != "shipped"
            },
        }
    return table


def small_talk(reference: Reference, turns: Mapping[str, Sequence[SimulatedTurn]], seed: int) -> dict[str, Any]:
    """Share of later turns that make conversation, of people and simulators."""
    said: dict[str, list[tuple[str, str]]] = {
        "people": [(moment.said, moment.person) for moment in reference.later if moment.said]
    }
    for name, own in turns.items():
        pairs = zip(reference.moments, own, strict=True)
        said[name] = [(turn.text, moment.person) for moment, turn in pairs if moment.history.messages and turn.text]
    return {
        name: clustered_bootstrap_mean(
            [float(bool(SMALL_TALK.search(text))) for text, _ in pairs], [person for _, person in pairs], seed=seed
        ).to_json()
        for name, pairs in said.items()
    }


def show(results: Mapping[str, Any], cards: Sequence[Scorecard]) -> None:
    """Every figure, a line each."""
    for kind, row in results["bits_per_byte"].items():
        for what in ("bits", "fewer_percent_than"):
            for name, value in row[what].items():
                print(f"{kind}, {what} {name}", _text(value), sep="\t")
    for name, value in results["small_talk"].items():
        print(f"small talk, {name}", _text(value), sep="\t")
    print("metric", *(card.simulator for card in cards), "people", sep="\t")
    for row in scorecard_rows(cards):
        estimates = [*(metric.simulated for metric in row.simulated), row.metric.human]
        print(row.metric.title, *(" ".join(format_estimate(estimate)) for estimate in estimates), sep="\t")


def _text(value: Mapping[str, Any]) -> str:
    return " ".join(format_estimate(Estimate.from_json(value)))


if __name__ == "__main__":
    main()
