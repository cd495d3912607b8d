"""The conversations of many jobs on a Ray cluster: the same as `collect_jobs`, on other processes and machines.

As many workers are started as the cluster has room for; each is one process (a Ray actor) that declares its CPUs and
GPUs and stays until all is done, so that a model is loaded once, and not for every batch. All jobs travel to a worker
together, so that models they share are shared there, too. An idle worker gets the next batch of any job. The driver
alone writes the files. A worker that dies is begun again, elsewhere if its machine is gone, with the batch it had; its
conversations depend on their seeds alone, so they are the same.

Workers need this package, the same models and the same versions; names of folders must mean the same to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from simgym.assistants.base import Assistant
from simgym.conversation import Scenario
from simgym.errors import BudgetReached
from simgym.rollout._collect import as_stored
from simgym.rollout._conversing import converse
from simgym.rollout.collection import Collection, Conditions
from simgym.rollout.outages import Patience
from simgym.rollout.ray_cluster import ray_cluster
from simgym.rollout.settings import DEFAULTS, Job, RunSettings
from simgym.transcripts import Transcript

if TYPE_CHECKING:
    from types import ModuleType

    from ray import ObjectRef
    from ray.actor import ActorHandle

_MAX_RETRIES = 3
"""Further attempts at a batch whose worker died, and further lives of a worker."""

_Seats = list[tuple[Assistant, Conditions]]


def ray_collect_jobs(
    jobs: Sequence[Job],
    settings: RunSettings = DEFAULTS,
    *,
    address: str = "auto",
    resources: Mapping[str, float] | None = None,
) -> list[Sequence[Transcript]]:
    """Run the conversations of all jobs.

    Args:
        jobs: What to run; assistants, simulators and judges are pickled.
        settings: How to run them. The budget counts what conversations cost when they come back, and is checked before
            a batch is submitted.
        address: Of the cluster, as `ray.init` takes it; `local` starts one here. A running connection is used.
        resources: What a worker needs, e.g. `{"num_cpus": 2, "num_gpus": 1}`; default: one CPU.

    Returns:
        Transcripts of each job, in the order of the scenarios.

    Raises:
        MissingDependency: Ray is not installed.
        ConfigurationError: there is no cluster at the address.
        BudgetReached, ServerUnavailable: as `collect`; what was begun is finished and kept.
    """
    with ExitStack() as stack:
        ray = stack.enter_context(ray_cluster(address))
        collections = [stack.enter_context(Collection(job, settings)) for job in jobs]
        with _Workers(ray, collections, dict(resources or {"num_cpus": 1})) as workers:
            _run(workers, collections, settings)
        return [as_stored(job, collection.transcripts()) for job, collection in zip(jobs, collections, strict=True)]


def _run(workers: _Workers, collections: Sequence[Collection], settings: RunSettings) -> None:
    size, budget = max(1, settings.batch_size), settings.budget
    waiting = _batches(collections, size)
    patience = Patience([part for collection in collections for part in collection.parts])
    before = sum(collection.count for collection in collections)
    lost: list[tuple[int, Transcript]] = []
    stopped: BudgetReached | None = None
    while True:
        while stopped is None and not lost and workers.have_room():
            if (following := next(waiting, None)) is None:
                break
            try:
                if budget is not None:
                    budget.check()
            except BudgetReached as error:  # raised again below, when what was begun has been kept
                stopped = error
                break
            workers.submit(*following)
        if not workers.busy:
            if stopped is not None:
                raise stopped
            if not lost:
                return
            others_answered = sum(collection.count for collection in collections) > before
            waiting = _again(patience, collections, lost, size, others_answered=others_answered)
            lost, before = [], sum(collection.count for collection in collections)
            continue
        result = workers.next_result()
        if result is None:
            continue
        number, transcripts = result
        for transcript in transcripts:
            if budget is not None:
                budget.count(transcript.calls)
            if transcript.fault is not None and transcript.fault.is_outage:
                lost.append((number, transcript))
            else:
                collections[number].add(transcript)


class _Workers:
    """Processes on the cluster, each with one batch at a time; started when there is room for them and work."""

    def __init__(self, ray: ModuleType, collections: Sequence[Collection], resources: Mapping[str, float]) -> None:
        self.ray, self.resources = ray, resources
        self.busy: dict[ObjectRef, tuple[int, ActorHandle]] = {}
        """Batches in progress: the number of each one's job, and who has it."""
        self._seats = ray.put([(collection.assistant, collection.conditions) for collection in collections])
        self._actors: list[ActorHandle] = []
        self._starting: dict[ObjectRef, ActorHandle] = {}
        self._idle: list[ActorHandle] = []

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *error: object) -> None:
        for actor in self._actors:  # with whatever they were doing
            self.ray.kill(actor)

    def have_room(self) -> bool:
        """Whether a batch can be begun; waits for the first worker, for nobody else."""
        if not self._idle and len(self._actors) < _room(self.ray, self.resources):
            options = {**self.resources, "max_restarts": _MAX_RETRIES, "max_task_retries": _MAX_RETRIES}
            actor = self.ray.remote(**options)(_Worker).remote(self._seats)
            self._actors.append(actor)
            self._starting[actor.ready.remote()] = actor
        self._welcome(timeout=0 if self.busy else None)
        return bool(self._idle)

    def submit(self, number: int, batch: Sequence[tuple[Scenario, int]]) -> None:
        """Give an idle worker a batch of the job of this number."""
        actor = self._idle.pop()
        self.busy[actor.converse.remote(number, batch)] = number, actor

    def next_result(self) -> tuple[int, list[Transcript]] | None:
        """The number of the job, and the transcripts, of the batch that is finished next; None if a worker has started
        before, which may have one now."""
        (finished, *_), _ = self.ray.wait([*self.busy, *self._starting], num_returns=1)
        if finished in self._starting:
            self._admit(finished)
            return None
        number, actor = self.busy.pop(finished)
        self._idle.append(actor)
        return number, self.ray.get(finished)

    def _welcome(self, timeout: float | None) -> None:
        """Workers that have started since are idle. One for which others leave no room keeps nobody waiting."""
        if not self._starting or self._idle:
            return
        started, _ = self.ray.wait(list(self._starting), num_returns=1, timeout=timeout)
        for task in started:
            self._admit(task)

    def _admit(self, task: object) -> None:
        """A worker that has started is idle."""
        self.ray.get(task)
        self._idle.append(self._starting.pop(task))


class _Worker:
    """On the cluster: a process that keeps what it has loaded."""

    def __init__(self, seats: _Seats) -> None:
        self.seats = seats

    def ready(self) -> None:
        """Answers when the process is there."""

    def converse(self, number: int, batch: Sequence[tuple[Scenario, int]]) -> list[Transcript]:
        """One batch of the job of this number."""
        assistant, conditions = self.seats[number]
        return list(converse(assistant, conditions, batch))


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


def _room(ray: ModuleType, resources: Mapping[str, float]) -> int:
    """Workers that the cluster has room for, as large as it is now."""
    cluster = ray.cluster_resources()
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    fitting = [cluster.get(names[name], 0) / need for name, need in resources.items() if name in names and need]
    return max(1, int(min(fitting, default=1)))
