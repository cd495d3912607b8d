"""Training recipes as processes here, or as tasks on a Ray cluster.

A recipe is a script that resumes from its output folder. On a cluster each run is one task with declared resources, in
a worker of its own that ends with it; a run whose worker or machine dies is begun again elsewhere by Ray, and goes on
from its last checkpoint. Folders and scripts must mean the same to all machines.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simgym.errors import TrainingFailed
from simgym.rollout.ray_cluster import ray_cluster

_MAX_RETRIES = 3
"""Further attempts at a run whose worker died."""


@dataclass(frozen=True, slots=True)
class RecipeRun:
    """One training run."""

    name: str
    """For messages."""
    script: str
    """Path of the recipe."""
    arguments: tuple[str, ...]
    """As on the command line."""
    log: str
    """File that gets what the recipe prints."""
    folder: str
    """Where it runs: what relative paths mean."""


def run_recipes(
    runs: Sequence[RecipeRun], *, address: str | None = None, resources: Mapping[str, float] | None = None
) -> None:
    """Run all of them: here one after the other, on a cluster as many at a time as it has room for.

    Args:
        runs: What to run.
        address: Of a Ray cluster, or `local`; None: here.
        resources: What a run needs on a cluster, e.g. `{"num_gpus": 8}`; default: one CPU.

    Raises:
        TrainingFailed: a recipe ended with an error; on a cluster the others were ended, too. What they wrote is kept.
        MissingDependency: Ray is not installed.
        ConfigurationError: there is no cluster at the address.
    """
    if address is None:
        for run in runs:
            _check(run, run_recipe(run))
        return
    with ray_cluster(address) as ray:
        # a worker serves one run: a recipe leaves models and settings behind in its process
        task = ray.remote(max_retries=_MAX_RETRIES, max_calls=1, **(resources or {"num_cpus": 1}))(run_recipe_in_worker)
        running = {task.remote(run): run for run in runs}
        try:
            while running:
                (finished, *_), _ = ray.wait(list(running), num_returns=1)
                run = running.pop(finished)
                try:
                    code = ray.get(finished)
                except ray.exceptions.RayError as error:
                    raise TrainingFailed(
                        f"Training {run.name} ended with its worker {_MAX_RETRIES + 1} times ({type(error).__name__}). "
                        f"See {run.log} and the cluster's logs; the same command goes on from the last checkpoint."
                    ) from error
                _check(run, code)
        finally:
            for left in running:
                ray.cancel(left, force=True)


def run_recipe(run: RecipeRun) -> int:
    """Run it in a process of its own; returns the exit code."""
    Path(run.log).parent.mkdir(parents=True, exist_ok=True)
    with open(run.log, "a", encoding="utf-8") as log:
        command = [sys.executable, run.script, *run.arguments]
        return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, cwd=run.folder, check=False).returncode


def run_recipe_in_worker(run: RecipeRun) -> int:
    """Run it in this process, so that a worker that is killed leaves no process behind that would go on writing."""
    import contextlib
    import runpy
    import traceback

    os.chdir(run.folder)
    Path(run.log).parent.mkdir(parents=True, exist_ok=True)
    sys.argv = [run.script, *run.arguments]
    with open(run.log, "a", encoding="utf-8") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            runpy.run_path(run.script, run_name="__main__")
        except SystemExit as error:
            if isinstance(error.code, str):
                log.write(error.code + "\n")
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        except Exception:
            traceback.print_exc(file=log)
            return 1
    return 0


def _check(run: RecipeRun, code: int) -> None:
    if code:
        log = Path(run.log)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
        raise TrainingFailed(
            f"Training {run.name} ended with code {code}; its last line: {lines[-1].strip() if lines else 'none'!r}. "
            f"See {log}; the same command goes on from the last checkpoint."
        )
