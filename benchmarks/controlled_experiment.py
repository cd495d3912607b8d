"""The controlled experiment: only the simulator varies. Train with each, test with all, and say what follows.

    python benchmarks/controlled_experiment.py --preset laptop
    python benchmarks/controlled_experiment.py --preset paper --ray auto --ray-resources '{"num_gpus": 8}'

One file in `configs/` describes the whole study. From the same initial assistant one is trained with each simulator, by
the same recipe with the same budget, data, order and seed. Then all of them, the initial one included, hold the same
test conversations with all simulators, held-out ones included (the generalization matrix); then each answers the same
real openings once, and pairs are compared by win rate; then the report. Every stage goes on where it stopped, and a
changed setting is refused rather than mixed in. `--dry-run` says what is left to do. Conversations go to the study's
`output_dir`, what is to be kept to `results/NAME/`: `config.yaml`, `results.json`, `report.html`, `study.json` (methods
over training seeds, wall time, machine).

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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

import simgym
from simgym.cli.doctor import describe_machine
from simgym.cli.matrix import read_collector
from simgym.conversation import Scenario
from simgym.data.scenario_sets import load_scenarios
from simgym.errors import ConfigurationError
from simgym.evaluation.comparisons import compare_cells
from simgym.evaluation.contrasts import Contrast, corrected, reward_contrasts, win_contrasts
from simgym.evaluation.curves import LOG_NAME, read_curve
from simgym.evaluation.forecast import forecast
from simgym.evaluation.matrix import Matrix, MatrixRun
from simgym.integrations.recipe_runs import RecipeRun, run_recipes
from simgym.language_models.base import Sampling
from simgym.registration import register_variant
from simgym.report.html import write_report
from simgym.report.results import describe_matrix, short_name
from simgym.simulators.loading import simulator_of, takes_option
from simgym.statistics.intervals import Estimate
from simgym.transcripts import write_json

HERE = Path(__file__).resolve().parent
INITIAL = "initial"
"""Name of the assistant that the trained ones began as."""
BEGUN = "recipe.part.yaml"
"""Settings of a training run that has not come to its end."""
STAGES = ("train", "matrix", "openings", "report")


@dataclass(frozen=True)
class Study:
    """A whole study; see `configs/`."""

    question: str
    """What it is to answer."""
    output_dir: str
    """Gets conversations and results."""
    model: Any
    """Of the initial assistant: a name or settings."""
    simulators: Mapping[str, Mapping[str, Any]]
    """By name: `env_id` and arguments of the simulator. An assistant is trained with each."""
    trainer: Mapping[str, Any]
    """`kind` (ppo or grpo), `config` (file of the recipe), `output_dir`, `scenarios`, `options` (further settings)."""
    test: Mapping[str, Any]
    """Scenarios of the matrix: `scenarios`, `split`, `n`."""
    openings: Mapping[str, Any]
    """Those of the win rates; `env_id` says what opens (default: replay)."""
    contrasts: Sequence[Sequence[str]]
    """Pairs of assistants that the question is about, the first one is asked about."""
    held_out: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """As `simulators`; nobody is trained with these."""
    simulator_options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of all simulators that take them."""
    temperature: float = 1.0
    """Of the assistants."""
    max_new_tokens: int = 256
    """Longest assistant turn, tokens."""
    max_turns: int = 2
    """Assistant turns of a conversation."""
    judge: str = "reward_head"
    """Who gives the reward."""
    judge_model: Any = None
    """Its model; None: its own."""
    training_seeds: Sequence[int] = (0,)
    """Each simulator trains one assistant per seed."""
    seed: int = 0
    """Of the test conversations."""
    batch_size: int = 32
    """Test conversations held at the same time."""

    @classmethod
    def read(cls, path: Path) -> Study:
        """Read a configuration file.

        Raises:
            ConfigurationError: it cannot be read, or a setting is missing or unknown.
        """
        try:
            value = yaml.safe_load(path.read_text(encoding="utf-8"))
            if unknown := sorted(set(value) - {one.name for one in fields(cls)}):
                raise TypeError(f"unknown setting {', '.join(unknown)}")
            return cls(**value)
        except (OSError, TypeError, yaml.YAMLError) as error:
            raise ConfigurationError(f"{path} does not describe a study: {error}.") from error

    @property
    def sampling(self) -> Sampling:
        """How assistants write."""
        return Sampling(self.temperature, max_new_tokens=self.max_new_tokens)

    def column(self, name: str) -> str:
        """Environment id of a simulator, which has the study's name for it."""
        return f"UserSim-{name}-v0"

    def options_of(self, name: str) -> dict[str, Any]:
        """Arguments of a simulator."""
        own = {**self.simulators, **self.held_out}[name]
        kind = simulator_of(own["env_id"])
        shared = {key: value for key, value in self.simulator_options.items() if takes_option(kind, key)}
        return {**shared, **{key: value for key, value in own.items() if key != "env_id"}}

    def rows(self) -> dict[str, tuple[str, int]]:
        """Simulator and training seed by name of the trained assistant."""
        several = len(self.training_seeds) > 1
        return {
            f"{name} (seed {seed})" if several else name: (name, seed)
            for name in self.simulators
            for seed in self.training_seeds
        }


def main(
    name: str = "controlled_experiment", question: str | None = __doc__, arguments: Sequence[str] | None = None
) -> None:
    """The command line of a study; `name` is that of its configurations and of its results."""
    parser = argparse.ArgumentParser(description=question, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=["laptop", "paper"], default="laptop")
    parser.add_argument("--config", type=Path, help="another file instead of a preset")
    parser.add_argument("--results", type=Path, default=HERE / "results" / name, help="what is kept goes there")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--ray", metavar="ADDRESS", help="of a Ray cluster, or `local`")
    parser.add_argument("--ray-resources", metavar="JSON", help='of a training run or a batch; default {"num_cpus": 1}')
    parser.add_argument("--dry-run", action="store_true", help="say what is left to do, and leave")
    given = parser.parse_args(arguments)
    path = given.config or HERE / "configs" / f"{name}_{given.preset}.yaml"
    try:
        study = Study.read(path)
        register_columns(study)
        if given.dry_run:
            show_plan(study)
            return
        if "train" in given.stages:
            with timed(study, "train"):
                train(study, given.ray, json.loads(given.ray_resources or '{"num_cpus": 1}'))
        collector = read_collector(given.ray, given.ray_resources, free_running=False)
        for stage, plan in (("matrix", plan_matrix), ("openings", plan_openings)):
            if stage in given.stages:
                with timed(study, stage):
                    plan(study).hold(batch_size=study.batch_size, collector=collector, progress=say)
        if "report" in given.stages:
            report(study, given.results, path)
    except simgym.SimgymError as error:
        raise SystemExit(f"{error}") from error


def register_columns(study: Study) -> None:
    """An environment id for each simulator of the study, with its name in it."""
    for name, own in {**study.simulators, **study.held_out}.items():
        if study.column(name) != own["env_id"]:
            register_variant(study.column(name), own["env_id"])


def train(study: Study, address: str | None, resources: Mapping[str, float]) -> None:
    """Train what has not been trained."""
    runs = recipe_runs(study)
    run_recipes(runs, address=address, resources=resources)
    for run in runs:  # from here on these settings count as done
        path = Path(run.arguments[-1])
        path.replace(path.with_name("recipe.yaml"))


def recipe_runs(study: Study) -> list[RecipeRun]:
    """The training runs that are missing; the settings of each, the recipe's and the study's, are written down.

    What is trained is not begun again, unless its settings have changed: then the recipe goes on, or refuses.
    """
    runs = []
    for row, (simulator, seed) in study.rows().items():
        folder = Path(study.trainer["output_dir"]) / f"{simulator}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        settings = yaml.safe_load(Path(study.trainer["config"]).read_text(encoding="utf-8"))
        settings |= {**recipe_settings(study, simulator, seed, folder), **study.trainer.get("options", {})}
        text, done = yaml.safe_dump(settings, sort_keys=False), folder / "recipe.yaml"
        if is_trained(study, simulator, seed) and done.is_file() and done.read_text(encoding="utf-8") == text:
            continue
        path = folder / BEGUN
        path.write_text(text, encoding="utf-8")
        script = HERE.parent / "agents" / f"{study.trainer['kind']}.py"
        log = str(folder.resolve() / "recipe.log")
        runs.append(RecipeRun(row, str(script), ("--config", str(path)), log, str(Path.cwd())))
    return runs


def is_trained(study: Study, simulator: str, seed: int) -> bool:
    """Whether the recipe has come to its end."""
    last = "policy/policy.json" if study.trainer["kind"] == "ppo" else "checkpoint.json"
    return (run_folder(study, simulator, seed) / last).is_file()


def recipe_settings(study: Study, simulator: str, seed: int, folder: Path) -> dict[str, Any]:
    """What the study says about a training run, in the recipe's words."""
    options = study.options_of(simulator)
    user_model = options.pop("model", None)
    shared = {
        "env_id": study.simulators[simulator]["env_id"],
        "seed": seed,
        "output_dir": str(folder),
        "scenarios": study.trainer["scenarios"],
        "max_turns": study.max_turns,
        "temperature": study.temperature,
        "judge": study.judge,
        "simulator_options": options,
    }
    models = {"user_model": user_model, "judge_model": study.judge_model}
    if study.trainer["kind"] == "ppo":
        own = {"model": study.model, "max_new_tokens": study.max_new_tokens, "compare": False}
        return {**shared, **own, **models}
    if study.trainer["kind"] == "grpo":
        name = study.model["model"] if isinstance(study.model, Mapping) else study.model
        texts = {key: json.dumps(one) if isinstance(one, Mapping) else one for key, one in models.items()}
        return {**shared, "model_name_or_path": name, "max_completion_length": study.max_new_tokens, **texts}
    raise ConfigurationError(f"trainer.kind is {study.trainer['kind']!r}, expected ppo or grpo.")


def run_folder(study: Study, simulator: str, seed: int) -> Path:
    """Where the recipe has put its log and what it trained."""
    folder = Path(study.trainer["output_dir"]) / f"{simulator}-{seed}"
    if study.trainer["kind"] == "ppo":
        return folder / f"{study.simulators[simulator]['env_id']}-seed{seed}"
    return folder


def load_assistants(study: Study) -> dict[str, Any]:
    """The initial assistant, and those that were trained.

    Raises:
        WeightsError: one has not been trained yet.
    """
    found: dict[str, Any] = {INITIAL: simgym.LanguageModelAssistant(study.model, sampling=study.sampling)}
    for row, (simulator, seed) in study.rows().items():
        folder = run_folder(study, simulator, seed)
        if study.trainer["kind"] == "ppo":
            from simgym.integrations.stable_baselines3 import load_policy

            found[row] = load_policy(folder / "policy", study.model)
        else:  # the checkpoint at the onset of the plateau, see agents/grpo.py
            chosen = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))["checkpoint"]
            settings = study.model if isinstance(study.model, Mapping) else {"model": study.model}
            weights = settings if chosen == "base model" else {**settings, "model": str(folder / (chosen or "final"))}
            found[row] = simgym.LanguageModelAssistant(weights, sampling=study.sampling)
    return found


def env_options(study: Study, max_turns: int) -> dict[str, Any]:
    """Arguments of every environment."""
    judge = {} if study.judge_model is None else {"judge_model": study.judge_model}
    return {"max_turns": max_turns, "judge": study.judge, **judge}


def plan_matrix(study: Study) -> MatrixRun:
    """Every assistant with every simulator."""
    names = [*study.simulators, *study.held_out]
    return MatrixRun(
        load_assistants(study),
        [study.column(name) for name in names],
        read_scenarios(study.test),
        folder=Path(study.output_dir) / "matrix",
        seed=study.seed,
        env_options=env_options(study, study.max_turns),
        simulator_options={study.column(name): study.options_of(name) for name in names},
    )


def plan_openings(study: Study) -> MatrixRun:
    """Every assistant once on each real opening."""
    return MatrixRun(
        load_assistants(study),
        [study.openings.get("env_id", "UserSim-Replay-v0")],
        read_scenarios(study.openings),
        folder=Path(study.output_dir) / "openings",
        seed=study.seed,
        env_options=env_options(study, 1),
    )


def read_scenarios(source: Mapping[str, Any]) -> list[Scenario]:
    """The scenarios that a part of the configuration names."""
    return load_scenarios(source["scenarios"], split=source.get("split"), limit=source.get("n"))


def report(study: Study, results: Path, config: Path) -> None:
    """Compare, and write what is kept."""
    with timed(study, "report"):
        matrix = plan_matrix(study).hold(batch_size=study.batch_size)
        openings = plan_openings(study).hold(batch_size=study.batch_size)
        home = {row: study.column(simulator) for row, (simulator, _) in study.rows().items()}
        methods = {row: simulator for row, (simulator, _) in study.rows().items()}
        found = contrasts_of(study, matrix, openings, methods)
        times = [json.loads(line) for line in (Path(study.output_dir) / "times.jsonl").read_text().splitlines()]
        seconds = sum(one["seconds"] for one in times if one["stage"] in ("matrix", "openings"))
        described = replace(
            describe_matrix(
                matrix, question=study.question, scenarios=where(study.test), seed=study.seed, seconds=seconds
            ),
            title="A controlled experiment with user simulators",
            comparisons=compare_cells(matrix, reference=INITIAL, trained_on=home, seed=study.seed),
            contrasts=tuple(found),
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
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / "results.json", described.to_json())
    write_report(results / "report.html", described, matrix.transcripts, max_conversations=2)
    shutil.copyfile(config, results / "config.yaml")
    summary = {
        "methods": asdict(by_method) if by_method is not None else None,
        "training_seeds": list(study.training_seeds),
        "openings": {"scenarios": where(study.openings), **mean_rewards(openings)},
        "seconds": seconds_of(study, times),
        "machine": {**describe_machine(), "platform": platform.platform(), "python": platform.python_version()},
        "versions": versions(),
    }
    write_json(results / "study.json", summary)
    show(described.contrasts, by_method)


def contrasts_of(study: Study, matrix: Matrix, openings: Matrix, methods: Mapping[str, str]) -> list[Contrast]:
    """Win rates on the openings, then differences with each held-out simulator."""
    pairs = [(first, second) for first, second in study.contrasts]
    column = study.openings.get("env_id", "UserSim-Replay-v0")
    found = win_contrasts(openings, pairs, column, methods=methods, seed=study.seed)
    for name in study.held_out:
        found += reward_contrasts(matrix, pairs, study.column(name), methods=methods, seed=study.seed)
    return corrected(found)


def mean_rewards(openings: Matrix) -> dict[str, Any]:
    """Reward x 100 of each assistant on the openings."""
    return {"reward": {cell.assistant: cell.estimate.to_json() for cell in openings.cells}}


def seconds_of(study: Study, times: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Wall time: of training by the recipes' own logs, which count what other sessions did; of the rest by ours."""
    training = {}
    for row, (simulator, seed) in study.rows().items():
        log = run_folder(study, simulator, seed) / LOG_NAME
        lines = map(json.loads, log.read_text(encoding="utf-8").splitlines()) if log.is_file() else ()
        training[row] = round(sum(line.get("seconds", 0.0) for line in lines), 1)
    stages = {stage: round(sum(one["seconds"] for one in times if one["stage"] == stage), 1) for stage in STAGES[1:]}
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
        trained = is_trained(study, simulator, seed)
        log = run_folder(study, simulator, seed) / LOG_NAME
        logged = len(log.read_text(encoding="utf-8").splitlines()) if log.is_file() else 0
        print(f"train {row}: {'done' if trained else f'{logged} updates or steps done' if logged else 'not begun'}")
        missing += [] if trained else [row]
    if missing:
        print("The conversations can be planned when all assistants are trained.")
        return
    for plan in (plan_matrix, plan_openings):
        run = plan(study)
        print(run.folder.name, json.dumps(asdict(forecast(run, {}))))


def say(row: str, column: str, transcript: Any) -> None:
    """One line a conversation."""
    reward = "none" if transcript.reward is None else f"{transcript.reward:.3f}"
    print(row, short_name(column), transcript.scenario.id, transcript.end_reason, reward, sep="\t", flush=True)


def show(contrasts: Sequence[Contrast], by_method: Any) -> None:
    """The answers, in a terminal."""
    for one in contrasts:
        unit = "win rate %" if one.kind == "win_rate" else "reward x 100"
        print(f"{one.first} - {one.second}", short_name(one.simulator), unit, in_words(one.estimate), sep="\t")
    for name, gap in (by_method.gaps if by_method is not None else {}).items():
        print(f"generalization gap of {name}", in_words(gap), sep="\t")


def in_words(estimate: Estimate) -> str:
    """Value and interval."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "no data"
    return f"{estimate.value:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"


if __name__ == "__main__":
    main()
