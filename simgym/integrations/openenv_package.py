"""An environment as a package for the Hugging Face Hub (a Space), as OpenEnv reads it.

    simgym export UserSim-Persona-v0 --to openenv -o persona --setting max_turns=4
    openenv validate persona --level static --skip-build && openenv push persona

The package pins what its rewards mean: simgym's version, the judge's fingerprint, which the server compares before it
starts, the range of the rewards, and the scenarios (a file of scenarios is copied). Settings are written as they are
given; a model's key never is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template

import yaml

from simgym._version import __version__
from simgym.data.logged import StepSummary
from simgym.data.training_files import ExportOptions
from simgym.envs.shared_simulation import shared_simulation
from simgym.integrations._scenario_rows import json_settings
from simgym.language_models.model_spec import ModelSpec
from simgym.output_files import lock_output, write_whole
from simgym.simulation import Simulation

_TEMPLATES = {
    "__init__.py": "init.txt",
    "client.py": "client.txt",
    "server/app.py": "app.txt",
    "Dockerfile": "Dockerfile.txt",
    "pyproject.toml": "pyproject.txt",
    "README.md": "README.txt",
}
_RESOURCES = {"cpu": 2.0, "memory_mb": 4096, "disk_mb": 8192, "episode_timeout_s": 600.0}
"""Enough for the default models; a server's models need less."""


def write_openenv(source: str | Path, output: str | Path, options: ExportOptions) -> StepSummary:
    """Write a package of the environment with the id `source`, and with the arguments in `options.settings`.

    Raises:
        ConfigurationError: there is no such environment, or a setting is wrong or no JSON value.
        OutputInUse, TranscriptError: see `lock_output`.
    """
    env_id, output = str(source), Path(output)
    settings = json_settings(options.settings)
    simulation = shared_simulation(env_id, settings)
    slug = re.sub(r"[^a-z0-9]+", "-", env_id.lower()).strip("-")
    names = {"env_id": env_id, "slug": slug, "module": slug.replace("-", "_"), "version": __version__,
             "extras": "openenv,local" if _runs_models(settings) else "openenv"}  # fmt: skip
    judge = dict(simulation.judge.fingerprint())
    files = {name: Template(_template(template)).substitute(names) for name, template in _TEMPLATES.items()}
    files["models.py"] = (resources.files("simgym.integrations") / "openenv_models.py").read_text(encoding="utf-8")
    files["server/__init__.py"] = ""
    files["openenv.yaml"] = yaml.safe_dump(_manifest(names["module"], settings, simulation, judge), sort_keys=False)
    copied = isinstance(path := settings.get("scenarios"), str) and Path(path).is_file()
    kept = {name: value for name, value in settings.items() if not (copied and name == "scenarios")}
    files["simgym.json"] = json.dumps({"env_id": env_id, "settings": kept, "judge": judge}, indent=1) + "\n"
    with lock_output(output, folder=True):
        (output / "server").mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_whole(output / name, text)
        if copied:
            rows = [json.dumps(each.to_json()) for each in simulation.scenarios.values()]
            write_whole(output / "scenarios.jsonl", "".join(f"{row}\n" for row in rows))
    number = len(simulation.scenarios)
    return StepSummary(read=number, kept=number, skipped={}, details={"judge": _digest(judge), "environment": env_id})


def _manifest(
    module: str, settings: Mapping[str, object], simulation: Simulation, judge: Mapping[str, object]
) -> dict[str, object]:
    """`openenv.yaml`: what is served, and what its rewards mean."""
    scenarios = [scenario.to_json() for scenario in simulation.scenarios.values()]
    name = str(settings.get("judge", "reward_head"))
    return {
        "spec_version": 1,
        "name": module,
        "version": "0.1.0",
        "type": "space",
        "runtime": "fastapi",
        "app": "server.app:app",
        "port": 8000,
        "validation": {
            # The same conversation is judged alike; the margin is for models behind a server.
            "reward": {"range": [0.0, 1.0], "oracle_tolerance": 0.0, "floor_margin": 0.1, "variance_tolerance": 0.05},
            "judge": {"model": name, "version": _digest(judge), "params": {"simgym": __version__, **judge}},
            "resources": _RESOURCES,
            "task_distribution": {"dataset_version": _digest(scenarios)},
            "capabilities": {
                "verifier": {"kind": "reward_channel"},
                "llm_judged": True,
                "task_api": True,
                "declared_task_count": {"train": len(scenarios)},
            },
            "types": {"tags": ["conversation", "simulated-user"]},
        },
    }


def _runs_models(settings: Mapping[str, object]) -> bool:
    """Whether a model runs in the server's process: the default ones do."""
    named = [settings.get("model"), settings.get("judge_model")]
    return any(model is None or ModelSpec.parse(model).kind == "transformers" for model in named)


def _template(name: str) -> str:
    return (resources.files("simgym.integrations") / "openenv_files" / name).read_text(encoding="utf-8")


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
