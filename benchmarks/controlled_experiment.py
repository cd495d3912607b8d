"""The controlled experiment: only the simulator varies. Train with each, test with all, and say what follows.

    python benchmarks/controlled_experiment.py --preset laptop
    python benchmarks/controlled_experiment.py --preset paper --ray auto --training-resources '{"num_gpus": 8}'

One file in `configs/` describes the whole study. From the same initial assistant one is trained with each simulator, by
the same recipe with the same budget, data, order and seed. Then all of them, the initial one included, hold the same
test conversations with all simulators, held-out ones included (the generalization matrix); then each answers the same
real openings once, and pairs are compared by win rate; then the report. Every stage goes on where it stopped, and a
changed setting is refused rather than mixed in. `--dry-run` says what is left to do. Conversations go to the study's
`output_dir`, what is to be kept to `results/NAME/`: `config.yaml`, `results.json`, `report.html`, two heatmaps,
`study.json` (methods over training seeds, wall time, machine).

How the patterns of arXiv 2605.09808 are read off here. (1) A fine-tuned user makes a better partner: win rates and the
held-out column, FineTuned against RolePlay and both against the initial assistant. (2) Realistic role-play improves
and does not close the gap: RolePlayOpening and Persona against RolePlay, FineTuned against Persona. (3) Assistants
trained with role-play generalise badly: the generalization gap of each assistant.

`scaling.py` and `persona.py` are other studies of the same make.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from experiment_config import INITIAL, Study
from experiment_training import is_done, load_assistants, run_folder, train

import simgym
from simgym.errors import ConfigurationError
from simgym.evaluation.axes import read_resources
from simgym.evaluation.comparisons import compare_cells, rewards_of
from simgym.evaluation.config import ExperimentConfig
from simgym.evaluation.contrasts import Contrast, corrected, reward_contrasts, win_contrasts
from simgym.evaluation.curves import LOG_NAME, read_curve
from simgym.evaluation.experiment import Experiment
from simgym.evaluation.matrix import Matrix
from simgym.jsonl import read_jsonl
from simgym.machine import describe_machine
from simgym.registration import register_variant
from simgym.report.figures import difference_heatmap_svg, matrix_heatmap_svg
from simgym.report.html import write_report
from simgym.report.results import describe_matrix, short_name
from simgym.statistics.intervals import Estimate
from simgym.transcripts import write_json

HERE = Path(__file__).resolve().parent
STAGES = ("train", "matrix", "openings", "report")


def main(
    name: str = "controlled_experiment",
    question: str | None = __doc__,
    *,
    prepare: Callable[[], None] | None = None,
) -> None:
    """The command line of a study.

    Args:
        name: Of its configurations and of its results.
        question: What `--help` says.
        prepare: Called before the trainings of the laptop preset, to make what they need.
    """
    parser = argparse.ArgumentParser(description=question, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=["laptop", "paper"], default="laptop")
    parser.add_argument("--config", type=Path, help="another file instead of a preset")
    parser.add_argument("--results", type=Path, help="what is kept goes there; default: results/ and the study's name")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--ray", metavar="ADDRESS", help="of a Ray cluster, or `local`")
    parser.add_argument("--training-resources", metavar="JSON", help='of a run on it; default {"num_cpus": 1}')
    parser.add_argument("--batch-resources", metavar="JSON", help="the same of a batch of conversations")
    parser.add_argument("--dry-run", action="store_true", help="say what is left to do, and leave")
    given = parser.parse_args()
    path = given.config or HERE / "configs" / f"{name}_{given.preset}.yaml"
    shipped = given.config is None and given.preset == "laptop"
    results = given.results or HERE / "results" / (name if shipped else path.stem)
    try:
        study = Study.read(path)
        study.check()
        register_columns(study)
        if given.dry_run:
            show_plan(study)
            return
        if "train" in given.stages:
            if prepare is not None and shipped:
                prepare()
            with timed(study, "train"):
                train(study, given.ray, read_resources(given.training_resources))
        for stage, planned in (("matrix", plan_matrix), ("openings", plan_openings)):
            if stage in given.stages:
                with timed(study, stage):
                    simgym.evaluate(planned(study, ray=given.ray, ray_resources=given.batch_resources), progress=say)
        if "report" in given.stages:
            report(study, results, path)
    except simgym.SimgymError as error:
        raise SystemExit(f"{error}") from error


def register_columns(study: Study) -> None:
    """An environment id for each simulator of the study, with its name in it."""
    for name, own in {**study.simulators, **study.held_out}.items():
        if study.column(name) != own["env_id"]:
            register_variant(study.column(name), own["env_id"])


def plan_matrix(study: Study, **running: Any) -> Experiment:
    """Every assistant with every simulator."""
    names = [*study.simulators, *study.held_out]
    options = {f"{study.column(name)}:{key}": value for name in names for key, value in study.options_of(name).items()}
    return plan(study, "matrix", [study.column(name) for name in names], study.test, study.max_turns, options, running)


def plan_openings(study: Study, **running: Any) -> Experiment:
    """Every assistant once on each real opening."""
    columns = [study.openings.get("env_id", "UserSim-Replay-v0")]
    return plan(study, "openings", columns, study.openings, 1, {}, running)


def plan(
    study: Study,
    folder: str,
    columns: list[str],
    scenarios: Mapping[str, Any],
    max_turns: int,
    simulator_options: Mapping[str, Any],
    running: Mapping[str, Any],
) -> Experiment:
    """An experiment of the study, in a folder of its own; `running` says where it runs."""
    return Experiment(
        ExperimentConfig(
            assistants=load_assistants(study),
            output=str(Path(study.output_dir) / folder),
            envs=tuple(columns),
            simulator_options=simulator_options,  # type: ignore[arg-type]  # a mapping is read, too
            user_max_new_tokens=None,
            scenarios=scenarios["scenarios"],
            split=scenarios.get("split"),
            n=scenarios.get("n"),
            max_turns=max_turns,
            judge=study.judge,
            judge_model=as_text(study.judge_model),
            seed=study.seed,
            batch_size=study.batch_size,
            **running,
        )
    )


def as_text(model: str | Mapping[str, Any] | None) -> str | None:
    """A model as the command line takes it."""
    return json.dumps(model) if isinstance(model, Mapping) else model


def report(study: Study, results: Path, config: Path) -> None:
    """Compare, and write what is kept."""
    with timed(study, "report"):
        matrix, openings = completed(plan_matrix(study)), completed(plan_openings(study))
        trained_on = {row: study.column(simulator) for row, (simulator, _) in study.rows().items()}
        methods = {row: simulator for row, (simulator, _) in study.rows().items()}
        contrasts = contrasts_of(study, matrix, openings, methods)
        times = [row for _, row in read_jsonl(Path(study.output_dir) / "times.jsonl")]
        seconds = role_seconds(matrix)
        filled = describe_matrix(
            matrix, question=study.question, scenarios=where(study.test), seed=study.seed, seconds=seconds
        )
        described = replace(
            filled,
            title="A controlled experiment with user simulators",
            notes=(
                *filled.notes,
                f"Assistants against each other: win rates are on {openings.cells[0].conversations} openings "
                f"({where(study.openings)}), each answered once; differences are on the conversations of the matrix.",
            ),
            comparisons=compare_cells(matrix, reference=INITIAL, trained_on=trained_on, seed=study.seed),
            contrasts=tuple(contrasts),
            curves=tuple(
                read_curve(folder, row)
                for row, (simulator, seed) in study.rows().items()
                if ((folder := run_folder(study, simulator, seed)) / LOG_NAME).is_file()
            ),
        )
        by_method = compare_cells(
            matrix,
            reference=INITIAL,
            trained_on={name: study.column(name) for name in study.simulators},
            methods=methods,
            seed=study.seed,
        )
    pairs = [pair for pair in study.contrasts if {*pair} <= {cell.assistant for cell in openings.cells}]
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / "results.json", described.to_json())
    write_report(results / "report.html", described, matrix.transcripts, max_conversations=2)
    pictures = {"matrix": matrix_heatmap_svg(described), "differences": difference_heatmap_svg(described)}
    for name, picture in pictures.items():
        if picture is not None:  # alone, a picture has no page behind it
            (results / f"{name}.svg").write_text(picture.replace("<svg ", '<svg style="background: #fff" ', 1), "utf-8")
    shutil.copyfile(config, results / "config.yaml")
    summary = {
        "methods": asdict(by_method) if by_method is not None else None,
        "training_seeds": list(study.training_seeds),
        "openings": {
            "scenarios": where(study.openings),
            **mean_rewards(openings),
            "wins_ties_losses": {f"{first} - {second}": outcomes(openings, first, second) for first, second in pairs},
        },
        "seconds": {
            **seconds_of(study, times),
            "roles": {"matrix": round(seconds, 1), "openings": round(role_seconds(openings), 1)},
        },
        "machine": {**describe_machine(), "platform": platform.platform(), "python": platform.python_version()},
        "versions": versions(),
    }
    write_json(results / "study.json", summary)
    show(described.contrasts, by_method)


def completed(experiment: Experiment) -> Matrix:
    """The matrix of a complete experiment.

    Raises:
        ConfigurationError: conversations are missing.
    """
    if not experiment.complete:
        missing = experiment.forecast().missing
        raise ConfigurationError(
            f"{experiment.folder} lacks {missing} conversations. Give the stages `matrix openings` first."
        )
    return experiment.run_matrix()


def contrasts_of(study: Study, matrix: Matrix, openings: Matrix, methods: Mapping[str, str]) -> list[Contrast]:
    """Win rates on the openings, then differences with each held-out simulator."""
    pairs = [(first, second) for first, second in study.contrasts]
    column = study.openings.get("env_id", "UserSim-Replay-v0")
    contrasts = win_contrasts(openings, pairs, column, methods=methods, seed=study.seed)
    for name in study.held_out:
        contrasts += reward_contrasts(matrix, pairs, study.column(name), methods=methods, seed=study.seed)
    return corrected(contrasts)


def mean_rewards(openings: Matrix) -> dict[str, Any]:
    """Reward x 100 of each assistant on the openings."""
    return {"reward": {cell.assistant: cell.estimate.to_json() for cell in openings.cells}}


def outcomes(openings: Matrix, first: str, second: str) -> list[int]:
    """On how many openings the first assistant's reward is higher, equal, lower; equal are mostly the same replies."""
    own, other = rewards_of(openings, [first, second], [openings.cells[0].simulator])[:, 0]
    return [int((own > other).sum()), int((own == other).sum()), int((own < other).sum())]


def role_seconds(matrix: Matrix) -> float:
    """Time of users, assistants and judges by the transcripts, s: whatever was killed, all that is kept is in it."""
    return sum(sum(cell.role_seconds.values()) for cell in matrix.cells)


def seconds_of(study: Study, times: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Wall time, s: of the trainings' updates by the recipes' logs, of the rest by ours; what was killed is missing."""
    training = {}
    for row, (simulator, seed) in study.rows().items():
        log = run_folder(study, simulator, seed) / LOG_NAME
        lines = [row for _, row in read_jsonl(log, allow_nan=True)] if log.is_file() else []
        spent = sum(line.get("seconds", line.get("step_time", 0.0)) for line in lines)
        training[row] = round(spent, 1) if lines else None
    stages = {
        stage: round(sum(entry["seconds"] for entry in times if entry["stage"] == stage), 1)
        for stage in ("matrix", "openings")
    }
    return {"training": training, **stages}


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("simgym", "torch", "transformers", "gymnasium", "numpy", "scipy")}


def where(source: Mapping[str, Any]) -> str:
    """A source of scenarios in words."""
    return source["scenarios"] + (f", {source['split']} split" if "split" in source else "")


@contextmanager
def timed(study: Study, stage: str) -> Iterator[None]:
    """Write down how long a stage has taken, interrupted ones too."""
    began = time.monotonic()
    try:
        yield
    finally:
        Path(study.output_dir).mkdir(parents=True, exist_ok=True)
        row = {"stage": stage, "seconds": round(time.monotonic() - began, 1)}
        with (Path(study.output_dir) / "times.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def show_plan(study: Study) -> None:
    """What is left to do."""
    missing = []
    for row, (simulator, seed) in study.rows().items():
        trained = is_done(study, simulator, seed)
        log = run_folder(study, simulator, seed) / LOG_NAME
        logged = len(log.read_text(encoding="utf-8").splitlines()) if log.is_file() else 0
        print(f"train {row}: {'done' if trained else f'{logged} updates or steps done' if logged else 'not begun'}")
        missing += [] if trained else [row]
    if missing:
        print("The conversations can be planned when all assistants are trained.")
        return
    for planned in (plan_matrix, plan_openings):
        experiment = planned(study)
        print(experiment.folder.name, json.dumps(asdict(experiment.forecast())))


def say(row: str, column: str, transcript: Any) -> None:
    """One line a conversation."""
    reward = "none" if transcript.reward is None else f"{transcript.reward:.3f}"
    print(row, short_name(column), transcript.scenario.id, transcript.end_reason, reward, sep="\t", flush=True)


def show(contrasts: Sequence[Contrast], by_method: Any) -> None:
    """The answers, in a terminal."""
    for contrast in contrasts:
        unit = "win rate %" if contrast.kind == "win_rate" else "reward x 100"
        print(
            f"{contrast.first} - {contrast.second}",
            short_name(contrast.simulator),
            unit,
            format_estimate(contrast.estimate),
            sep="\t",
        )
    for name, gap in (by_method.gaps if by_method is not None else {}).items():
        print(f"generalization gap of {name}", format_estimate(gap), sep="\t")


def format_estimate(estimate: Estimate) -> str:
    """Value and interval."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "no data"
    return f"{estimate.value:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"


if __name__ == "__main__":
    main()
