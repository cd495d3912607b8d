"""A simulator as a seat that many conversations take at once: requests that come together are one simulator call.

    request -> waits until no other has come for QUIET_SECONDS -> one `Simulation.open` and one `Simulation.reply`

Batches run in threads of their own; an engine in this process joins those that overlap. A caller that has left takes
nothing with it: the batch goes on, and its turn is dropped. A fault is tried again a bounded number of times, with
seeds that depend on the request alone.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from simgym.conversation import Scenario
from simgym.errors import ConfigurationError
from simgym.judges.base import NoJudge
from simgym.language_models import interrupt_requests
from simgym.language_models.loading import LanguageModelSpec
from simgym.seeding import derive_seed
from simgym.simulation import Dialogue, Simulation
from simgym.simulators.loading import load_simulator

QUIET_SECONDS = 0.01
LONGEST_WAIT_SECONDS = 0.1
"""A request waits no longer for others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatSettings:
    """Who plays the users of a seat."""

    model: LanguageModelSpec | None = None
    """Model of the simulator; None: its own default."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the simulator."""
    scenarios: str | Sequence[Scenario] = "everyday"
    """Where ids of scenarios are looked up."""
    attempts: int = 2
    """How often a turn with a fault is tried, >= 1; the simulator's own attempts count as one."""


@dataclass(slots=True)
class _Waiting:
    """A request in the batch that is being gathered."""

    dialogue: Dialogue
    answer: str | None
    future: asyncio.Future[Dialogue]


class Seat:
    """The users of one simulator; all methods but the constructor belong to one event loop."""

    def __init__(self, name: str, settings: SeatSettings | None = None) -> None:
        """Choose who plays.

        Raises:
            ConfigurationError: there is no such simulator, or a person plays it.
        """
        settings = settings or SeatSettings()
        if name == "human":
            raise ConfigurationError("The simulator 'human' needs a person at the terminal. It cannot be served.")
        simulator = load_simulator(name, settings.model, dict(settings.options))
        self.name = name
        self.simulation = Simulation(
            simulator, judge=NoJudge(), scenarios=settings.scenarios, max_turns=sys.maxsize, answer_last_words=False
        )
        self._attempts = settings.attempts
        self._waiting: list[_Waiting] = []
        self._unanswered = 0
        self._since = 0.0
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._threads = ThreadPoolExecutor(max_workers=16, thread_name_prefix=f"seat-{name}")

    @property
    def waiting(self) -> int:
        """Requests that were not answered yet: gathered, waiting for a thread, or being played."""
        return self._unanswered

    async def ask(self, dialogue: Dialogue, answer: str | None) -> Dialogue:
        """The dialogue after the assistant's answer (None: the user opens) and the user's next turn.

        Raises:
            SimgymError: the simulator cannot play this request.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(dialogue, answer, loop.create_future())
        now = loop.time()
        if not self._waiting:
            self._since = now
        self._waiting.append(waiting)
        if self._timer is not None:
            self._timer.cancel()
        wait = min(QUIET_SECONDS, max(0.0, self._since + LONGEST_WAIT_SECONDS - now))
        self._timer = loop.call_later(wait, self._dispatch)
        self._unanswered += 1
        return await waiting.future

    def close(self) -> None:
        """Start no more batches, and wait for no model's server."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        interrupt_requests()

    def _dispatch(self) -> None:
        gathered, self._waiting, self._timer = self._waiting, [], None
        batch = [waiting for waiting in gathered if not waiting.future.done()]
        self._unanswered -= len(gathered) - len(batch)  # whose callers have left
        loop = asyncio.get_running_loop()
        for opening in (True, False):
            part = [waiting for waiting in batch if (waiting.answer is None) == opening]
            if part:
                self._threads.submit(self._play, part, loop)

    def _play(self, batch: list[_Waiting], loop: asyncio.AbstractEventLoop) -> None:
        """Answer a batch; in a thread."""
        try:
            outcomes: list[Dialogue | BaseException] = list(self._turns(batch))
        except Exception as error:  # one request must not fail its neighbours: each is asked alone
            alone = len(batch) == 1 or self._closed
            outcomes = [error] * len(batch) if alone else [self._alone(waiting) for waiting in batch]
        loop.call_soon_threadsafe(self._deliver, batch, outcomes)

    def _deliver(self, batch: Sequence[_Waiting], outcomes: Sequence[Dialogue | BaseException]) -> None:
        self._unanswered -= len(batch)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.future.done():  # the caller has left
                continue
            if isinstance(outcome, BaseException):
                waiting.future.set_exception(outcome)
            else:
                waiting.future.set_result(outcome)

    def _alone(self, waiting: _Waiting) -> Dialogue | BaseException:
        try:
            return self._turns([waiting])[0]
        except Exception as error:
            return error

    def _turns(self, batch: Sequence[_Waiting]) -> list[Dialogue]:
        outcomes: dict[int, Dialogue] = {}
        for attempt in range(self._attempts):
            pending = [i for i in range(len(batch)) if i not in outcomes or outcomes[i].fault is not None]
            if not pending:
                break
            asked = [_reseeded(batch[i].dialogue, attempt) for i in pending]
            if batch[0].answer is None:
                played = self.simulation.open([each.seed for each in asked], [each.scenario for each in asked])
            else:
                played = self.simulation.reply(asked, [batch[i].answer or "" for i in pending])
            for i, dialogue in zip(pending, played, strict=True):
                earlier = outcomes[i].calls if i in outcomes else ()
                outcomes[i] = dialogue.relabelled(seed=batch[i].dialogue.seed, calls=(*earlier, *dialogue.calls))
        return [outcomes[i] for i in range(len(batch))]


def _reseeded(dialogue: Dialogue, attempt: int) -> Dialogue:
    return dialogue if attempt == 0 else dialogue.relabelled(seed=derive_seed(dialogue.seed, "again", attempt))
