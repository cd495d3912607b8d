"""The conversations of many jobs on a Ray cluster: the same as `collect_jobs`, on other processes and machines.

A task holds one batch of one job; it declares its CPUs and GPUs, and Ray does the scheduling. All jobs travel in one
object, so that models they share are shared in each worker, too, which keeps them from task to task. The driver alone
writes the files. A batch whose worker or machine dies is held again elsewhere by Ray; its conversations depend on their
seeds alone, so they are the same.

Workers need this package, the same models and the same versions; names of folders must mean the same to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from simgym.assistants.base import Assistant
from simgym.conversation import Scenario
from simgym.errors import BudgetReached
from simgym.rollout._collect import converse
from simgym.rollout.budget import Budget
from simgym.rollout.collection import Collection, Conditions, Job
from simgym.rollout.outages import Patience
from simgym.rollout.ray_cluster import ray_cluster
from simgym.transcripts import Transcript

_MAX_RETRIES = 3
"""Further attempts at a batch whose worker died."""
_QUEUED = 2
"""Tasks submitted for each that can run at a time: none waits for the driver, and a budget stops soon."""

_Seats = list[tuple[Assistant, Conditions]]
_known: dict[str, _Seats] = {}
"""In a worker: the jobs it has been sent; the last ones only."""


def ray_collect_jobs(
    jobs: Sequence[Job],
    *,
    seed: int = 0,
    batch_size: int = 32,
    budget: Budget | None = None,
    address: str = "auto",
    resources: Mapping[str, float] | None = None,
) -> list[list[Transcript]]:
    """Hold the conversations of all jobs, each scenario once.

    Args:
        jobs: What to hold; assistants, simulators and judges are pickled.
        seed: Decides everything random.
        batch_size: Conversations per task, held in step.
        budget: Counts what conversations cost when they come back, and is checked before a batch is submitted.
        address: Of the cluster, as `ray.init` takes it; `local` starts one here. A running connection is used.
        resources: What a task needs, e.g. `{"num_cpus": 2, "num_gpus": 1}`; default: one CPU.

    Returns:
        Transcripts of each job, in the order of the scenarios.

    Raises:
        MissingDependency: Ray is not installed.
        ConfigurationError: there is no cluster at the address.
        BudgetReached, ServerUnavailable: as `collect`; what was begun is finished and kept.
    """
    with ExitStack() as stack:
        ray = stack.enter_context(ray_cluster(address))
        collections = [
            stack.enter_context(
                Collection(
                    job.assistant,
                    job.env,
                    seed=seed,
                    path=job.path,
                    progress=job.progress,
                    retried_faults=job.retried_faults,
                )
            )
            for job in jobs
        ]
        _hold(ray, collections, batch_size, budget, dict(resources or {"num_cpus": 1}))
        return [collection.transcripts() for collection in collections]


def _hold(
    ray: Any,
    collections: Sequence[Collection],
    batch_size: int,
    budget: Budget | None,
    resources: dict[str, Any],
) -> None:
    seats: _Seats = [(collection.assistant, collection.conditions) for collection in collections]
    sent = ray.put(seats)
    task = ray.remote(max_retries=_MAX_RETRIES, **resources)(_hold_batch)
    waiting = _batches(collections, max(1, batch_size))
    patience = Patience([part for collection in collections for part in collection.parts])
    before = sum(collection.count for collection in collections)
    running: dict[Any, int] = {}
    lost: list[tuple[int, Transcript]] = []
    stopped: BudgetReached | None = None
    try:
        while True:
            while stopped is None and not lost and len(running) < _room(ray, resources):
                if (following := next(waiting, None)) is None:
                    break
                try:
                    if budget is not None:
                        budget.check()
                except BudgetReached as error:  # raised again below, when what was begun has been kept
                    stopped = error
                    break
                number, batch = following
                running[task.remote([sent], sent.hex(), number, batch)] = number
            if not running:
                if stopped is not None or not lost:
                    break
                others_answered = sum(collection.count for collection in collections) > before
                waiting = _again(patience, collections, lost, max(1, batch_size), others_answered=others_answered)
                lost, before = [], sum(collection.count for collection in collections)
                continue
            (finished, *_), _ = ray.wait(list(running), num_returns=1)
            number = running.pop(finished)
            for transcript in ray.get(finished):
                if budget is not None:
                    budget.count(transcript.calls)
                if transcript.fault is not None and transcript.fault.is_outage:
                    lost.append((number, transcript))
                else:
                    collections[number].add(transcript)
    finally:
        for left in running:
            ray.cancel(left)
    if stopped is not None:
        raise stopped


def _again(
    patience: Patience,
    collections: Sequence[Collection],
    lost: Sequence[tuple[int, Transcript]],
    size: int,
    *,
    others_answered: bool,
) -> Iterator[tuple[int, list[tuple[Scenario, int]]]]:
    """After a pause, batches of all that is missing; if the servers answer, what was lost is recorded as faults."""
    progress = "; ".join(dict.fromkeys(collections[number].describe_progress() for number, _ in lost))
    if not patience.try_again([transcript.fault for _, transcript in lost], progress, others_answered=others_answered):
        for number, transcript in lost:
            collections[number].add(transcript)
    return _batches(collections, size)


def _batches(collections: Sequence[Collection], size: int) -> Iterator[tuple[int, list[tuple[Scenario, int]]]]:
    for number, collection in enumerate(collections):
        missing = collection.missing
        for start in range(0, len(missing), size):
            yield number, missing[start : start + size]


def _room(ray: Any, resources: Mapping[str, float]) -> int:
    """Tasks that may be submitted at a time, by what the cluster has now."""
    cluster = ray.cluster_resources()
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    fitting = [cluster.get(names[name], 0) / need for name, need in resources.items() if name in names and need]
    return max(1, int(min(fitting, default=1))) * _QUEUED


def _hold_batch(sent: list[Any], name: str, number: int, batch: Sequence[tuple[Scenario, int]]) -> list[Transcript]:
    """In a worker: one batch of one job."""
    import ray

    if name not in _known:
        _known.clear()
        _known[name] = ray.get(sent[0])
    assistant, conditions = _known[name][number]
    return list(converse(assistant, conditions, batch))
