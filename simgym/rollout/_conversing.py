"""Batches of conversations: from the assistant's first turn to the last judgement, in one thread or in many.

A batch that an outage interrupts is run again, after a pause. There are at most `THREADS` threads: of more
conversations that advance at their own pace, several share one, and go on in turn while others wait for their server
(`simgym._fibers`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial

from simgym import _fibers
from simgym.assistants.base import Assistant
from simgym.conversation import Scenario
from simgym.errors import ServerUnavailable
from simgym.language_models import interrupt_requests
from simgym.rollout.budget import Budget
from simgym.rollout.collection import Collection, Conditions
from simgym.rollout.outages import Patience
from simgym.transcripts import Transcript

THREADS = 32
"""Threads of an asynchronous run, at most."""


class Batches:
    """Runs batches of a collection until every conversation is finished, outages included."""

    def __init__(self, collection: Collection, stopping: threading.Event | None = None) -> None:
        self.collection = collection
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
                budget=self.collection.settings.budget,
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
    queue, shares = _Queue(tasks, stopping), _fibers.shares(max(1, at_once), THREADS)
    with ThreadPoolExecutor(len(shares), thread_name_prefix="simgym-conversations") as pool:
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


class _Queue(_fibers.Shared):
    """Conversations that have not begun, for all threads; empty once one has failed."""

    def __init__(self, tasks: Iterator[Callable[[], None]], stopping: threading.Event) -> None:
        super().__init__(tasks)
        self._stopping, self._closed = stopping, False

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
