"""Servers that stop answering during training: pause, retry, and only then stop.

One request that fails is a fault of its conversation (`OpenAILM` has tried it several times by then). When *all*
conversations of a batch fail, most of them by a server's silence, no more is to be learned until somebody sees to it,
and training on would throw the scenarios away. So the batch is played again after a while, and again; then
`ServerUnavailable` is raised, for the recipe to write a checkpoint and say so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from simgym.errors import ServerUnavailable
from simgym.faults import Fault
from simgym.simulation import Dialogue

WAITS = (10.0, 60.0, 300.0)
"""Seconds before each new attempt."""

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


def silent(dialogues: Sequence[Dialogue]) -> Fault | None:
    """The first outage if no conversation was judged and at least half ended by one, else None.

    Not all need have ended so: one may have been over before the server was asked.
    """
    if any(dialogue.end_reason is None or dialogue.reward is not None for dialogue in dialogues):
        return None
    outages = [dialogue.fault for dialogue in dialogues if dialogue.fault is not None and dialogue.fault.is_outage]
    return outages[0] if outages and 2 * len(outages) >= len(dialogues) else None


def check_servers(dialogues: Sequence[Dialogue]) -> None:
    """Raise `ServerUnavailable` if the conversations ended because a server is silent."""
    if (fault := silent(dialogues)) is not None:
        raise ServerUnavailable(f"All {len(dialogues)} conversations failed, for want of a server: {fault}")


def answered(dialogue: Dialogue) -> Dialogue:
    """The dialogue, unless the silence of the user's or the judge's server ended it.

    Raises:
        ServerUnavailable: it did.
    """
    if dialogue.fault is not None and dialogue.fault.is_outage:
        raise ServerUnavailable(str(dialogue.fault))
    return dialogue


def retry_on_outage(
    attempt: Callable[..., Result],
    *arguments: object,
    waits: Sequence[float] = WAITS,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """What `attempt(*arguments)` gives, trying again after each of `waits` seconds while servers are down.

    Raises:
        ServerUnavailable: the last attempt failed, too.
    """
    for wait in waits:
        try:
            return attempt(*arguments)
        except ServerUnavailable as error:
            _log.warning("%s Trying again in %g s.", error, wait)
            sleep(wait)
    return attempt(*arguments)
