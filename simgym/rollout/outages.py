"""Work that an outage interrupts: it waits, tries again, and then stops where the same command goes on.

A request to a server has been repeated by the model itself before its fault arrives here. If a batch brings back faults
of this kind (`Fault.is_outage`), nothing of them is written down: the items are done again after a pause, and again.
When the pauses are used up, the run ends with `ServerUnavailable`; what was finished is kept, and the same command does
the rest. Unless the servers have answered others in the meantime and say that they are there: then these requests
alone are at fault, and their faults are recorded like any other, so that one request never ends a run.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from simgym import _fibers
from simgym.envs.outages import Pauses
from simgym.errors import ConfigurationError, ServerUnavailable
from simgym.faults import Fault
from simgym.rollout.readiness import check_all_ready

WAITS = (5.0, 30.0, 60.0)
"""Seconds before each new attempt; while one batch waits, those of other threads go on."""


class Answer(Protocol):
    """What came back for one item."""

    @property
    def fault(self) -> str | Fault | None:
        """Why there is nothing to use, or None."""
        ...


Item = TypeVar("Item")
AnyAnswer = TypeVar("AnyAnswer", bound=Answer)


def ask_in_batches(
    ask: Callable[[Sequence[Item]], Iterable[AnyAnswer]],
    items: Sequence[Item],
    *,
    batch_size: int,
    noun: str,
    parts: Sequence[tuple[str, Any]],
) -> Iterator[tuple[Item, AnyAnswer]]:
    """Every item with its answer, in the order of the batches; what an outage lost is asked again.

    Args:
        ask: Answers of a batch, in its order.
        items: N items.
        batch_size: Items per call, >= 1.
        noun: What the items are, in the plural, for messages.
        parts: Whose servers are asked whether they are there; as for `check_all_ready`.

    Raises:
        ServerUnavailable: a server is away, and stays so.
    """
    done = 0
    for start in range(0, len(items), max(1, batch_size)):
        batch: Sequence[Item] = items[start : start + max(1, batch_size)]
        patience, before = Patience(parts), done
        while batch:
            lost: list[tuple[Item, AnyAnswer]] = []
            for item, answer in zip(batch, ask(batch), strict=True):
                if answer.fault is not None and Fault.parse(answer.fault).is_outage:
                    lost.append((item, answer))
                else:
                    done += 1
                    yield item, answer
            progress = f"{done} of {len(items)} {noun} that were missing are"
            if not patience.try_again([answer.fault for _, answer in lost], progress, others_answered=done > before):
                yield from lost
                break
            batch = [item for item, _ in lost]


class Patience:
    """Decides about one batch whether what an outage has lost is tried again."""

    def __init__(self, parts: Sequence[tuple[str, object]], *, stopping: threading.Event | None = None) -> None:
        """Nothing is waited for yet; pauses are of `$SIMGYM_OUTAGE_WAITS` seconds (with commas between), or `WAITS`.

        Args:
            parts: Assistants, simulators and judges whose servers may be away, with their names.
            stopping: Ends pauses early, because the run is being interrupted.

        Raises:
            ConfigurationError: the variable holds something else.
        """
        self._parts, self._stopping = parts, stopping or threading.Event()
        self._pauses = Pauses(_waits(), sleep=partial(_fibers.pause, self._stopping))

    def try_again(self, faults: Iterable[str | Fault | None], done: str, *, others_answered: bool) -> bool:
        """Pause if a server was away, and say whether to try again what failed.

        Args:
            faults: Of what was just tried.
            done: What is finished, for the message: `12 of 40 conversations are`.
            others_answered: Whether the servers have answered others since this work began.

        Returns:
            False if there was no outage, or if the servers answer and only these requests fail.

        Raises:
            ServerUnavailable: a server is still away after all pauses.
        """
        lost = [fault for fault in faults if fault is not None and Fault.parse(fault).is_outage]
        if not lost:
            return False
        sentence = f"{str(lost[0]).rstrip('.')}. {done} finished and kept."
        if not self._stopping.is_set() and self._pauses.before_another(sentence):
            return True
        if others_answered and not self._stopping.is_set() and self._servers_answer():
            return False
        raise ServerUnavailable(f"{sentence} The same command goes on when the server is back.")

    def _servers_answer(self) -> bool:
        try:
            check_all_ready(self._parts)
        except ServerUnavailable:
            return False
        return True


def _waits() -> Sequence[float]:
    text = os.environ.get("SIMGYM_OUTAGE_WAITS")
    if text is None:
        return WAITS
    try:
        waits = [float(number) for number in text.split(",") if number.strip()]
        if not all(0 <= wait < threading.TIMEOUT_MAX for wait in waits):
            raise ValueError
    except ValueError:
        raise ConfigurationError(
            f"SIMGYM_OUTAGE_WAITS is {text!r}, expected seconds with commas between, e.g. 5,30,60."
        ) from None
    return waits
