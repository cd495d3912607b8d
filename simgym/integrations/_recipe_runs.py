"""Training recipes as processes here, or as tasks on a Ray cluster.

A recipe is a script that resumes from its output folder. On a cluster each run is one task with declared resources; a
run whose worker or machine dies is begun again elsewhere by Ray, and goes on from its last checkpoint. Folders and
scripts must mean the same to all machines. A run has a lock, and on Linux a recipe ends with the process that has begun
it, so that a run that is started again never has two writers.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simgym.errors import OutputInUse, TrainingFailed
from simgym.output_files import lock_output
from simgym.rollout.ray_cluster import ray_cluster

_MAX_RETRIES = 3
"""Further attempts at a run whose worker died."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
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
    launcher: tuple[str, ...] = ()
    """What starts the script, e.g. `("accelerate", "launch")`; empty: this Python."""


def run_recipes(
    runs: Sequence[RecipeRun], *, address: str | None = None, resources: Mapping[str, float] | None = None
) -> None:
    """Run all of them: here one after the other, on a cluster as many at a time as it has room for.

    Args:
        runs: What to run.
        address: Of a Ray cluster, or `local`; None: here.
        resources: What a run needs on a cluster, e.g. `{"num_gpus": 8}`; default: one CPU.

    Raises:
        TrainingFailed: a recipe ended with an error, or is running already; on a cluster the others were ended, too.
            What they wrote is kept.
        MissingDependency: Ray is not installed.
        ConfigurationError: there is no cluster at the address.
    """
    if address is None:
        for run in runs:
            _check(run, run_recipe(run))
        return
    with ray_cluster(address) as ray:
        task = ray.remote(max_retries=_MAX_RETRIES, **(resources or {"num_cpus": 1}))(run_recipe)
        running = {task.remote(run): run for run in runs}
        try:
            while running:
                (finished, *_), _ = ray.wait(list(running), num_returns=1)
                run = running.pop(finished)
                _check(run, _result(ray, finished, run))
        finally:
            for left in running:
                ray.cancel(left, force=True)


def run_recipe(run: RecipeRun) -> int:
    """Run it in a process of its own; returns the exit code.

    Raises:
        TrainingFailed: it is running already.
    """
    command = [*(run.launcher or (sys.executable,)), run.script, *run.arguments]
    try:
        with lock_output(run.log), open(run.log, "a", encoding="utf-8") as log:
            return subprocess.run(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=run.folder,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
                check=False,
            ).returncode
    except OutputInUse as error:
        raise TrainingFailed(f"Training {run.name} is running already: {error}") from error


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:  # the parent was gone before
        os._exit(1)


def _result(ray: Any, finished: Any, run: RecipeRun) -> int:
    try:
        return int(ray.get(finished))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error  # what `run_recipe` has raised
    except ray.exceptions.RayError as error:
        raise TrainingFailed(
            f"Training {run.name} lost its worker {_MAX_RETRIES + 1} times ({type(error).__name__}). See {run.log} and "
            "the cluster's logs; the same command goes on from the last checkpoint."
        ) from error


def _check(run: RecipeRun, code: int) -> None:
    if code:
        log = Path(run.log)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
        raise TrainingFailed(
            f"Training {run.name} ended with code {code}; its last line: {lines[-1].strip() if lines else 'none'!r}. "
            f"See {log}; the same command goes on from the last checkpoint."
        )
