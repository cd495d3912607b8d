"""Assistants with simulated users: from an assistant and a simulation to transcripts on disk.

Synchronous (the default), the conversations of a batch run together: one assistant call, one simulator call and one
judge call per turn. With `asynchronous`, each runs at its own pace, as many at a time as a batch has: none waits for
another, and one is judged while others are talking. Behind servers that is faster; a model in this process puts the
requests of all threads in one batch (`simgym.engine`). The next conversation begins when one has been judged and
written down, so a slow judge slows the beginning of conversations and nothing piles up. Of several jobs (the cells of a
matrix) one follows the other; asynchronous ones share one queue of conversations, so that those of the next cell fill
the places that the last ones of a cell leave empty: a matrix of small cells then asks its models as a large one does.

The conversations are the same either way. A finished conversation is appended to the file at once; a run that was
killed goes on where it stopped, and conversations in the file are not run again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from simgym.assistants.base import Assistant
from simgym.conversation import Scenario
from simgym.output_files import is_special
from simgym.rollout._conversing import Batches, at_their_own_pace
from simgym.rollout.budget import Budget
from simgym.rollout.collection import Collection
from simgym.rollout.progress import notebook_bar, showing
from simgym.rollout.settings import DEFAULTS, Job, RunSettings
from simgym.transcripts import StoredTranscripts, Transcript


def collect(
    assistant: Assistant,
    env: object,
    *,
    n: int | None = None,
    seed: int = 0,
    path: str | Path | None = None,
    batch_size: int = 32,
    asynchronous: bool = False,
    progress: Callable[[Transcript], None] | Literal[False] | None = None,
    budget: Budget | None = None,
    retried_faults: Iterable[str] = (),
) -> list[Transcript]:
    """Run n conversations and return their transcripts.

    Args:
        assistant: Who answers the simulated users.
        env: A `Simulation`, or a simgym environment, single or vector, as `gymnasium.make` gives it; only its settings
            are used, so one in a wrapper is refused.
        n: How many; scenarios are taken in order, and from the start again with other seeds. None: each once.
        seed: Decides everything random.
        path: JSONL file to append to and to resume from; None: nothing is written.
        batch_size: Conversations at the same time, >= 1. An asynchronous run against servers takes hundreds; a model's
            `max_concurrency` bounds how many of them ask it at once.
        asynchronous: Run them asynchronously, each at its own pace; for models behind servers.
        progress: Called with each transcript as it is finished, and with those found in the file. None: a bar in a
            notebook, nothing elsewhere; False: nothing.
        budget: Counts what model calls cost, and ends the run before the turn that would begin at its limit.
        retried_faults: Kinds of faults (`unparsable`, `role_flip` ...) whose conversations in the file are run again.
            Those that an outage has ended always are.

    Returns:
        n transcripts in the order of the scenarios.

    Raises:
        ConfigurationError: `env` is no simgym environment or is wrapped, `assistant` is none, or the file was written
            by another assistant, simulator, judge, environment or seed: results must not be mixed.
        ServerUnavailable: a model's server does not answer, and did not after several pauses. What was finished is in
            the file; the same call goes on.
        BudgetReached: the budget's limit is reached.
        TranscriptError: the file cannot be written; what was written is intact.
    """
    bar = notebook_bar() if progress is None else None
    job = Job(
        assistant=assistant,
        env=env,
        path=None if path is None else Path(path),
        progress=progress or bar,
        n=n,
        seed=seed,
    )
    settings = RunSettings(
        batch_size=batch_size, asynchronous=asynchronous, budget=budget, retried_faults=frozenset(retried_faults)
    )
    with showing(bar, job.conversations):
        (transcripts,) = collect_jobs([job], settings)
    return list(transcripts)


def collect_jobs(jobs: Sequence[Job], settings: RunSettings = DEFAULTS) -> list[Sequence[Transcript]]:
    """`collect` for several jobs. `ray_collect_jobs` does the same on a cluster.

    One job is done after the other; asynchronous ones share `batch_size`, whichever job the conversations belong to.
    `progress` of the jobs is called by one thread at a time. Of several jobs, what one has given is read from its file
    whenever it is asked for, so that the conversations of running jobs alone have to fit in memory.
    """
    if settings.asynchronous:
        return _collect_together(jobs, settings)
    if len(jobs) == 1:
        return [_collect_in_step(jobs[0], settings)]
    return [as_stored(job, _collect_in_step(job, settings)) for job in jobs]


def as_stored(job: Job, transcripts: Sequence[Transcript]) -> Sequence[Transcript]:
    """The transcripts of a finished job, in their order, to be read from its file if it has one."""
    if job.path is None or is_special(job.path):
        return transcripts
    stored = StoredTranscripts(job.path)
    numbers = {outcome.key: number for number, outcome in enumerate(stored.outcomes)}
    return stored.select(numbers[transcript.key] for transcript in transcripts)


def _collect_in_step(job: Job, settings: RunSettings) -> list[Transcript]:
    with Collection(job, settings) as collection:
        missing, work, size = collection.missing, Batches(collection), max(1, settings.batch_size)
        for start in range(0, len(missing), size):
            work.run(missing[start : start + size])
        return collection.transcripts()


def _collect_together(jobs: Sequence[Job], settings: RunSettings) -> list[Sequence[Transcript]]:
    stopping, opened = threading.Event(), _OpenJobs(jobs, settings)

    def tasks() -> Iterator[Callable[[], None]]:
        for number in range(len(jobs)):
            collection = opened.enter(number)
            missing = collection.missing
            work = Batches(collection, stopping)
            for conversation in missing:
                yield partial(opened.run, number, work, conversation)
            opened.expect(number, len(missing))

    with opened:
        at_their_own_pace(tasks(), min(settings.batch_size, sum(job.conversations for job in jobs)), stopping)
    return opened.transcripts


class _OpenJobs:
    """Collections of the jobs whose conversations are running: each is opened when its first one begins, and closed
    behind its last one, for a large matrix has more files than a process may have open."""

    def __init__(self, jobs: Sequence[Job], settings: RunSettings) -> None:
        self.transcripts: list[Sequence[Transcript]] = [[] for _ in jobs]
        self._jobs = jobs
        self._settings = settings
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
        told = None if job.progress is None else partial(self._tell, job.progress)
        collection = Collection(replace(job, progress=told), self._settings)
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
            transcripts = collection.transcripts()
            alone = len(self._jobs) == 1
            self.transcripts[number] = transcripts if alone else as_stored(self._jobs[number], transcripts)

    def _tell(self, progress: Callable[[Transcript], None], transcript: Transcript) -> None:
        with self._telling:
            progress(transcript)
