"""Assistants with simulated users: from an assistant and a simulation to transcripts on disk.

Synchronous (the default), the conversations of a batch run together: one assistant call, one simulator call and one
judge call per turn. With `asynchronous`, each runs at its own pace, as many at a time as a batch has: none waits for
another, and one is judged while others are talking. Behind servers that is faster; a model in this process puts the
requests of all threads in one batch (`simgym.engine`). There are at most `THREADS` threads: of more conversations,
several share one, and go on in turn while others wait for their server (`simgym._fibers`). The next conversation begins
when one has been judged and written down, so a slow judge slows the beginning of conversations and nothing piles up.

The conversations are the same either way. A finished conversation is appended to the file at once; a run that was
killed goes on where it stopped, and conversations in the file are not run again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Literal

from simgym import _fibers
from simgym.assistants.base import Assistant
from simgym.conversation import Scenario
from simgym.errors import ServerUnavailable
from simgym.language_models import interrupt_requests
from simgym.rollout.budget import Budget
from simgym.rollout.collection import Collection, Conditions, count_exclusions, plan_conversations
from simgym.rollout.outages import Patience
from simgym.rollout.progress import notebook_bar, showing
from simgym.transcripts import Transcript

__all__ = ["collect", "converse", "count_exclusions", "plan_conversations"]

THREADS = 32
"""Threads of an asynchronous run, at most."""


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
    with (
        Collection(
            assistant, env, n=n, seed=seed, path=path, progress=progress or bar, retried_faults=retried_faults
        ) as collection,
        showing(bar, len(collection.plan)),
    ):
        missing = collection.missing
        if asynchronous:
            stopping = threading.Event()
            work = Batches(collection, budget, stopping)
            tasks = (partial(work.run, [conversation]) for conversation in missing)
            at_their_own_pace(tasks, min(batch_size, len(missing)), stopping)
        else:
            work, size = Batches(collection, budget), max(1, batch_size)
            for start in range(0, len(missing), size):
                work.run(missing[start : start + size])
        return collection.transcripts()


class Batches:
    """Runs batches of a collection until every conversation is finished, outages included."""

    def __init__(self, collection: Collection, budget: Budget | None, stopping: threading.Event | None = None) -> None:
        self.collection = collection
        self.budget = budget
        self.stopping = stopping or threading.Event()
        """Set: no further turn begins."""

    def run(self, batch: Sequence[tuple[Scenario, int]]) -> None:
        """One batch; conversations that an outage ended are run again from their beginning."""
        patience, before = Patience(self.collection.parts, stopping=self.stopping), self.collection.count
        while batch:
            lost = []
            for transcript in converse(
                self.collection.assistant,
                self.collection.conditions,
                batch,
                stopping=self.stopping,
                budget=self.budget,
            ):
                if transcript.fault is not None and transcript.fault.is_outage:
                    lost.append(transcript)
                else:
                    self.collection.add(transcript)
            others_answered = self.collection.count > before
            if not patience.try_again(
                [transcript.fault for transcript in lost],
                self.collection.describe_progress(),
                others_answered=others_answered,
            ):
                for transcript in lost:
                    self.collection.add(transcript)
                return
            batch = [(transcript.scenario, transcript.seed) for transcript in lost]


def converse(
    assistant: Assistant,
    conditions: Conditions,
    batch: Sequence[tuple[Scenario, int]],
    *,
    stopping: threading.Event | None = None,
    budget: Budget | None = None,
) -> Iterator[Transcript]:
    """Run the conversations of a batch together; each comes as soon as it is finished.

    Once `stopping` is set no further turn begins, and what is not finished is left.

    Raises:
        BudgetReached: the limit is reached; raised before the turn that would begin, when finished ones have come.
    """
    started = time.monotonic()
    simulation = conditions.simulation
    if budget is not None:
        budget.check()
    dialogues = simulation.open([chosen for _, chosen in batch], [scenario for scenario, _ in batch])
    counted = [0] * len(dialogues)
    while dialogues:
        if budget is not None:
            for dialogue, calls in zip(dialogues, counted, strict=True):
                budget.count(dialogue.calls[calls:])
        for dialogue in dialogues:
            if dialogue.ended:
                seconds = time.monotonic() - started
                yield dialogue.to_transcript(conditions.env_id, conditions.fingerprints, seconds=seconds)
        running = [dialogue for dialogue in dialogues if not dialogue.ended]
        if not running or (stopping is not None and stopping.is_set()):
            return
        if budget is not None:
            budget.check()
        asked = time.perf_counter()
        turns = assistant.respond(
            [dialogue.conversation for dialogue in running], seeds=[dialogue.assistant_seed for dialogue in running]
        )
        dialogues = simulation.step(running, turns, assistant_seconds=time.perf_counter() - asked)
        counted = [len(dialogue.calls) for dialogue in running]


def at_their_own_pace(tasks: Iterator[Callable[[], None]], at_once: int, stopping: threading.Event) -> None:
    """The first error ends the run: what has not begun does not begin, what has is finished. An interrupt does not wait
    for that, nor for servers; nor does a server that is away."""
    queue, at_once = _Queue(tasks, stopping), max(1, at_once)
    threads = min(THREADS, at_once)
    shares = [at_once // threads + (number < at_once % threads) for number in range(threads)]
    with ThreadPoolExecutor(threads, thread_name_prefix="simgym-conversations") as pool:
        futures: list[Future[None]] = []
        try:
            for share in shares:
                futures.append(pool.submit(_fibers.run_tasks, queue, share))
            wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:  # Ctrl-C: each conversation ends with the turn it is in, without waiting for a server
            queue.close()
            stopping.set()
            interrupt_requests()
            raise
    for future in futures:
        future.result()


class _Queue:
    """Conversations that have not begun, for all threads; empty once one has failed."""

    def __init__(self, tasks: Iterator[Callable[[], None]], stopping: threading.Event) -> None:
        self._tasks = tasks
        self._stopping = stopping
        self._lock = threading.Lock()
        self._closed = False

    def __iter__(self) -> _Queue:
        return self

    def __next__(self) -> Callable[[], None]:
        with self._lock:
            if self._closed:
                raise StopIteration
            return partial(self._run, next(self._tasks))

    def close(self) -> None:
        """No further one begins."""
        self._closed = True

    def _run(self, task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            self.close()
            if isinstance(error, ServerUnavailable):
                self._stopping.set()
            raise
