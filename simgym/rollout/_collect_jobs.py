"""The conversations of several jobs (the cells of a matrix) in this process.

One job follows the other. Asynchronous ones share one queue of conversations, so that those of the next cell fill the
places that the last ones of a cell leave empty: a matrix of small cells then asks its models as a large one does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from simgym.conversation import Scenario
from simgym.envs.unwrapping import simulation_of
from simgym.rollout._collect import Batches, at_their_own_pace, collect
from simgym.rollout.budget import Budget
from simgym.rollout.collection import Collection, Job
from simgym.transcripts import Transcript


def collect_jobs(
    jobs: Sequence[Job],
    *,
    seed: int = 0,
    batch_size: int = 32,
    asynchronous: bool = False,
    budget: Budget | None = None,
) -> list[list[Transcript]]:
    """`collect` for several jobs: each scenario once. `ray_collect_jobs` does the same on a cluster.

    One job is done after the other; with `asynchronous`, `batch_size` conversations run at the same time whichever job
    they belong to. `progress` of the jobs is called by one thread at a time.
    """
    if asynchronous:
        return _collect_together(jobs, seed, batch_size, budget)
    return [
        collect(
            job.assistant,
            job.env,
            seed=seed,
            path=job.path,
            batch_size=batch_size,
            progress=job.progress or False,
            budget=budget,
            retried_faults=job.retried_faults,
        )
        for job in jobs
    ]


def _collect_together(jobs: Sequence[Job], seed: int, at_once: int, budget: Budget | None) -> list[list[Transcript]]:
    stopping, opened = threading.Event(), _OpenJobs(jobs, seed)

    def tasks() -> Iterator[Callable[[], None]]:
        for number in range(len(jobs)):
            collection = opened.enter(number)
            missing = collection.missing
            work = Batches(collection, budget, stopping)
            for conversation in missing:
                yield partial(opened.run, number, work, conversation)
            opened.expect(number, len(missing))

    planned = sum(len(simulation_of(job.env).scenarios) for job in jobs)
    with opened:
        at_their_own_pace(tasks(), min(at_once, planned), stopping)
    return opened.transcripts


class _OpenJobs:
    """Collections of the jobs whose conversations are running: each is opened when its first one begins, and closed
    behind its last one, for a large matrix has more files than a process may have open."""

    def __init__(self, jobs: Sequence[Job], seed: int) -> None:
        self.transcripts: list[list[Transcript]] = [[] for _ in jobs]
        self._jobs = jobs
        self._seed = seed
        self._open: dict[int, Collection] = {}
        self._done: dict[int, int] = {}
        self._expected: dict[int, int] = {}
        self._lock = threading.Lock()
        self._telling = threading.Lock()

    def __enter__(self) -> _OpenJobs:
        return self

    def __exit__(self, *_: object) -> None:
        for collection in self._open.values():
            collection.__exit__(None, None, None)

    def enter(self, number: int) -> Collection:
        """Open a job's collection."""
        job = self._jobs[number]
        collection = Collection(
            job.assistant,
            job.env,
            seed=self._seed,
            path=job.path,
            progress=None if job.progress is None else partial(self._tell, job.progress),
            retried_faults=job.retried_faults,
        )
        self._open[number] = collection.__enter__()
        self._done[number] = 0
        return collection

    def run(self, number: int, work: Batches, conversation: tuple[Scenario, int]) -> None:
        """One conversation of a job."""
        work.run([conversation])
        with self._lock:
            self._done[number] += 1
        self._close_if_done(number)

    def expect(self, number: int, conversations: int) -> None:
        """All conversations of a job, so many, have been given out."""
        with self._lock:
            self._expected[number] = conversations
        self._close_if_done(number)

    def _close_if_done(self, number: int) -> None:
        with self._lock:
            if self._done[number] != self._expected.get(number) or number not in self._open:
                return
            collection = self._open.pop(number)
        collection.__exit__(None, None, None)
        if not collection.missing:  # else the run is being stopped
            self.transcripts[number] = collection.transcripts()

    def _tell(self, progress: Callable[[Transcript], None], transcript: Transcript) -> None:
        with self._telling:
            progress(transcript)
