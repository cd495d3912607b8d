"""An experiment that is planned: its participants are named, its environments made, and nothing has been run.

    ExperimentConfig -> Experiment (assistants, columns, scenarios, plan) -> forecast, or run -> Matrix

Everything that can be wrong with an `ExperimentConfig` is said when the `Experiment` is made, before a model is loaded
or a file is written. `simgym.evaluate` and the command line are on top of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium

from simgym.assistants.base import Assistant
from simgym.assistants.language_model_assistant import LanguageModelAssistant
from simgym.assistants.loading import load_assistant
from simgym.conversation import Scenario
from simgym.data.scenario_sets import load_scenarios
from simgym.envs.settings import ConversationSettings
from simgym.errors import ConfigurationError
from simgym.evaluation import axes
from simgym.evaluation.comparisons import Comparisons, compare_cells
from simgym.evaluation.config import FILE_NAME, ExperimentConfig
from simgym.evaluation.forecast import Forecast, forecast
from simgym.evaluation.matrix import Matrix, MatrixRun, Progress
from simgym.evaluation.plan import keep_plan
from simgym.language_models.base import SamplingParams
from simgym.language_models.model_spec import AnswerCache, ModelSpec, check_named_model, is_language_model
from simgym.output_files import lock_output, write_whole
from simgym.rollout.budget import Budget
from simgym.rollout.settings import RunSettings


class Experiment:
    """A planned `ExperimentConfig`."""

    def __init__(self, config: ExperimentConfig) -> None:
        """Name the participants and make the plan.

        Raises:
            ConfigurationError: a name, a model, an option or a scenario does not exist or does not fit.
        """
        self.config = config
        self.folder = Path(config.output)
        self._cache = AnswerCache(Path(config.response_cache) if config.response_cache else None, config.cache_mode)
        self._assistants = self._load_assistants()
        self._columns = axes.fill_columns(
            axes.name_columns(config.envs, config.simulators),
            config.models,
            config.simulator_options,
            max_new_tokens=config.user_max_new_tokens,
            cache=self._cache,
        )
        self.training_simulators = axes.read_training_simulators(
            config.trained_on, self._assistants, self._columns, reference=config.reference
        )
        """Environment id by assistant."""
        if config.reference is not None and config.reference not in self._assistants:
            raise ConfigurationError(
                f"The reference is {config.reference!r}, expected one of {', '.join(self._assistants)}."
            )
        self.prices = axes.read_prices(config.prices)
        """By role."""
        self._collector = axes.read_collector(config.ray, config.ray_resources, config.asynchronous)
        self.scenarios = self._load_scenarios()
        """In the order in which they are run."""
        self.run = self._plan(self.scenarios)
        """The planned matrix."""
        self._ready = False

    @property
    def conversations(self) -> int:
        """Of all cells together."""
        return len(self.run.paths) * len(self.scenarios)

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to run."""
        if self.config.retry_faults:
            return False
        return sum(map(len, self.run.completed().values())) == self.conversations

    def run_pilot(self, scenarios: int, progress: Progress | None = None) -> None:
        """Run each cell's first scenarios, so that there is something to forecast from; errors as in `run_matrix`."""
        pilot = self._plan(self.scenarios[:scenarios])
        with self._writing(pilot):
            pilot.run(self._run_settings(), progress=progress, collector=self._collector)

    def forecast(self) -> Forecast:
        """What is left, and what it will take, judging by the conversations that are there."""
        return forecast(self.run, self.prices)

    def check_ready(self) -> None:
        """Load or ask the models that are needed, once; those on a cluster are not here. Errors as in `MatrixRun`."""
        if self.config.ray is None and not self._ready:
            self.run.check_ready()
        self._ready = True

    def run_matrix(self, progress: Progress | None = None) -> Matrix:
        """Run what is missing, and put the matrix together; errors as in `MatrixRun.run`."""
        with self._writing(self.run):
            return self.run.run(self._run_settings(), progress=progress, collector=self._collector)

    def compare(self, matrix: Matrix) -> Comparisons | None:
        """Differences from the reference assistant, and the generalization gap."""
        return compare_cells(
            matrix, reference=self.config.reference, trained_on=self.training_simulators, seed=self.config.seed
        )

    @contextmanager
    def _writing(self, run: MatrixRun) -> Iterator[None]:
        """Have the folder to oneself, and in it what the run belongs to."""
        with lock_output(self.folder, folder=True):
            keep_plan(run.plan, self.folder)  # refuses the folder of another experiment, whose settings stay there
            self._keep_config()
            yield

    def _run_settings(self) -> RunSettings:
        """With a budget that has counted nothing yet."""
        limited = self.config.max_tokens is not None or self.config.max_cost is not None
        return RunSettings(
            batch_size=self.config.batch_size,
            asynchronous=self.config.asynchronous,
            budget=Budget(self.config.max_tokens, self.config.max_cost, self.prices) if limited else None,
            retried_faults=frozenset(self.config.retry_faults),
        )

    def _keep_config(self) -> None:
        """Write the experiment down, for whoever wants to run or resume it; objects have no file."""
        try:
            text = self.config.to_yaml()
        except ConfigurationError:
            return
        write_whole(self.folder / FILE_NAME, text)

    def _plan(self, scenarios: list[Scenario]) -> MatrixRun:
        common = {
            "judge": self.config.judge,
            "judge_model": self._judge_model(),
            "judge_options": axes.read_pairs(self.config.judge_options, "--judge-option") or None,
            "max_turns": self.config.max_turns,
            "answer_last_words": self.config.answer_last_words,
        }
        return MatrixRun(
            self._assistants,
            [column.env_id for column in self._columns],
            scenarios,
            folder=self.folder,
            seed=self.config.seed,
            env_options={name: value for name, value in common.items() if value is not None},
            simulator_options={column.env_id: column.options for column in self._columns},
        )

    def _judge_model(self) -> object:
        if self.config.judge_model is None:
            return None
        check_named_model(self.config.judge_model)
        return self._cache.around(ModelSpec.parse(self.config.judge_model)).to_json()

    def _load_scenarios(self) -> list[Scenario]:
        registered = gymnasium.registry.get(self._columns[0].env_id)
        default = registered.kwargs.get("scenarios") if registered is not None else None
        name = self.config.scenarios or default or str(ConversationSettings.scenarios)
        return load_scenarios(name, limit=self.config.n, split=self.config.split)

    def _load_assistants(self) -> dict[str, Assistant]:
        sampling = SamplingParams(temperature=self.config.temperature, max_new_tokens=self.config.max_new_tokens)
        assistants: dict[str, Assistant] = {}
        for key, value in self.config.assistants.items():
            name, assistant = self._load_assistant(key, value, sampling)
            if name in assistants:
                raise ConfigurationError(f"Two assistants are called {name!r}. Name them: NAME=MODEL[+PROMPT].")
            assistants[name] = assistant
        return assistants

    def _load_assistant(self, key: str, value: Any, sampling: SamplingParams) -> tuple[str, Assistant]:
        """Name and assistant; one that is listed without a name has its text for a key."""
        if isinstance(value, Mapping):
            value = json.dumps(value)
        if isinstance(value, str):
            named = load_assistant(value if key == value else f"{key}={value}", sampling, cache=self._cache)
            return named.name, named.assistant
        if is_language_model(value):
            return key, LanguageModelAssistant(value, sampling=sampling)
        if isinstance(value, Assistant):
            return key, value
        raise ConfigurationError(
            f"The assistant {key!r} is a {type(value).__name__}, expected MODEL[+PROMPT], settings of a model, or an "
            "object with respond and fingerprint."
        )
