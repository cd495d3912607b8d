"""Assistants in environments: from an assistant and an environment to transcripts on disk.

In step (the default), the conversations of a batch run together: one assistant call, one simulator call and one judge
call per turn. Free-running, each goes its own way in a thread of its own, as many at a time as a batch has: what one of
them waits for holds up no other, and one is judged while others are talking. Behind servers that is faster; a model in
this process puts the requests of all threads in one batch (`simgym.engine`). The conversations are the same.

A finished one is appended to the file at once; a run that was killed goes on where it stopped, and conversations in
the file are not done again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from simgym.assistants.base import Assistant, AssistantTurn
from simgym.conversation import Scenario
from simgym.envs.episodes import Episode, Episodes, timed
from simgym.envs.settings import ConversationSettings
from simgym.errors import InvalidAction, ServerUnavailable
from simgym.faults import Fault, FaultKind
from simgym.rollout.budget import Budget
from simgym.rollout.collection import Collection, Conditions, Job, count_exclusions, plan_conversations
from simgym.rollout.outages import Patience
from simgym.seeding import derive_seed
from simgym.transcripts import Transcript

__all__ = ["collect", "collect_jobs", "converse", "count_exclusions", "plan_conversations", "take_turns"]


def collect(
    assistant: Assistant,
    env: Any,
    *,
    n: int | None = None,
    seed: int = 0,
    path: str | Path | None = None,
    batch_size: int = 32,
    free_running: bool = False,
    progress: Callable[[Transcript], None] | None = None,
    budget: Budget | None = None,
    retried_faults: Iterable[str] = (),
) -> list[Transcript]:
    """Run n conversations and return their transcripts.

    Args:
        assistant: Who answers the simulated users.
        env: A simgym environment, single or vector, as `gymnasium.make` gives it; only its settings are used, so one
            that stands in a wrapper is refused.
        n: How many; scenarios are taken in order, and from the start again with other seeds. None: each once.
        seed: Decides everything random.
        path: JSONL file to append to and to resume from; None: nothing is written.
        batch_size: Conversations at the same time, >= 1.
        free_running: Let each conversation go its own way instead of all in step; for models behind servers.
        progress: Called with each transcript as it is finished, and with those found in the file.
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
    with Collection(
        assistant, env, n=n, seed=seed, path=path, progress=progress, retried_faults=retried_faults
    ) as collection:
        missing = collection.missing
        size = 1 if free_running else max(1, batch_size)
        batches = [missing[start : start + size] for start in range(0, len(missing), size)]
        stopping = threading.Event()
        if free_running:
            _in_threads(_Batches(collection, budget, stopping), batches, max(1, batch_size))
        else:
            work = _Batches(collection, budget, stopping)
            for batch in batches:
                work.run(batch)
        return collection.transcripts()


def collect_jobs(
    jobs: Sequence[Job],
    *,
    seed: int = 0,
    batch_size: int = 32,
    free_running: bool = False,
    budget: Budget | None = None,
) -> list[list[Transcript]]:
    """`collect`, one job after the other: each scenario once. `ray_collect_jobs` does the same on a cluster."""
    return [
        collect(
            job.assistant,
            job.env,
            seed=seed,
            path=job.path,
            batch_size=batch_size,
            free_running=free_running,
            progress=job.progress,
            budget=budget,
            retried_faults=job.retried_faults,
        )
        for job in jobs
    ]


class _Batches:
    """Runs batches of a collection until every conversation is finished, outages included."""

    def __init__(self, collection: Collection, budget: Budget | None, stopping: threading.Event) -> None:
        self.collection = collection
        self.budget = budget
        self.stopping = stopping

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
                if transcript.fault is not None and Fault.parse(transcript.fault).is_outage:
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
    """Run the conversations of a batch in step; each comes as soon as it is finished.

    Once `stopping` is set no further turn begins, and what is not finished is left.

    Raises:
        BudgetReached: the limit is reached; raised before the turn that would begin, when finished ones have come.
    """
    started = time.monotonic()
    episodes = conditions.episodes
    if budget is not None:
        budget.check()
    running = everybody = episodes.start([scenario for scenario, _ in batch], [chosen for _, chosen in batch])
    counted = [0] * len(everybody)
    while running:
        if budget is not None:
            for number, episode in enumerate(everybody):
                budget.count(episode.calls[counted[number] :])
                counted[number] = len(episode.calls)
        for episode in running:
            if episode.end_reason is not None:
                yield _transcript(episode, conditions, time.monotonic() - started)
        running = [episode for episode in running if episode.end_reason is None]
        if not running or (stopping is not None and stopping.is_set()):
            return
        if budget is not None:
            budget.check()
        with timed("assistant", running):
            turns = assistant.respond(
                [episode.conversation for episode in running],
                seeds=[derive_seed(episode.seed, "assistant", episode.turn) for episode in running],
            )
        take_turns(episodes, conditions.settings, running, turns)


def take_turns(
    episodes: Episodes, settings: ConversationSettings, running: Sequence[Episode], turns: Sequence[AssistantTurn]
) -> None:
    """Let the assistant speak in N running conversations; one whose turn is a fault or no valid action ends with it."""
    speaking: list[Episode] = []
    said: list[str] = []
    for episode, turn in zip(running, turns, strict=True):
        episode.calls += turn.calls
        fault = turn.fault
        if fault is None:
            try:
                said.append(settings.check_action(turn.text))
                speaking.append(episode)
            except InvalidAction as error:
                fault = f"invalid: {error}"
        if fault is not None:
            overflow = Fault.parse(fault).kind is FaultKind.CONTEXT_OVERFLOW
            episode.end_reason = "context_overflow" if overflow else "assistant_fault"
            episode.fault = fault
    if speaking:
        episodes.advance(speaking, said)


def _in_threads(work: _Batches, batches: Sequence[Sequence[tuple[Scenario, int]]], threads: int) -> None:
    """The first error ends the run: what has not begun does not begin, what has is finished. An interrupt does not wait
    for that, nor does a server that is away."""
    with ThreadPoolExecutor(threads, thread_name_prefix="simgym-conversation") as pool:
        futures: list[Future[None]] = []
        try:
            for batch in batches:
                futures.append(pool.submit(work.run, batch))  # one by one: an interrupt can come in between
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            if any(isinstance(future.exception(), ServerUnavailable) for future in finished):
                work.stopping.set()
        except BaseException:  # Ctrl-C: each thread ends with the turn it is in
            work.stopping.set()
            raise
        finally:
            for future in futures:
                future.cancel()
    for future in finished:
        future.result()


def _transcript(episode: Episode, conditions: Conditions, seconds: float) -> Transcript:
    return Transcript(
        env_id=conditions.env_id,
        scenario=episode.scenario,
        seed=episode.seed,
        conversation=episode.conversation,
        end_reason=episode.end_reason or "assistant_fault",
        reward=episode.reward,
        fault=episode.fault,
        reasons=episode.reasons,
        judge_values=episode.judge_values,
        fingerprints=conditions.fingerprints,
        calls=tuple(episode.calls),
        seconds=round(seconds, 3),
        role_seconds={role: round(spent, 4) for role, spent in episode.role_seconds.items()},
    )
