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

from simgym.errors import ServerUnavailable
from simgym.simulation import Dialogue

WAITS = (10.0, 60.0, 300.0)
"""Seconds before each new attempt."""

_log = logging.getLogger(__name__)


def unavailable(dialogues: Sequence[Dialogue]) -> ServerUnavailable | None:
    """The error to raise if no conversation was judged and at least half ended by an outage, else None.

    Not all need have ended so: one may have been over before the server was asked.
    """
    if any(dialogue.end_reason is None or dialogue.reward is not None for dialogue in dialogues):
        return None
    outages = [dialogue.fault for dialogue in dialogues if dialogue.fault is not None and dialogue.fault.is_outage]
    if not outages or 2 * len(outages) < len(dialogues):
        return None
    return ServerUnavailable(f"All {len(dialogues)} conversations failed, for want of a server: {outages[0]}")


def check_servers(dialogues: Sequence[Dialogue]) -> None:
    """Raise `ServerUnavailable` if the conversations ended because a server is silent."""
    if (error := unavailable(dialogues)) is not None:
        raise error


def outage_of(dialogue: Dialogue) -> ServerUnavailable | None:
    """The error to raise if the silence of the user's or the judge's server ended a conversation, else None."""
    fault = dialogue.fault
    return ServerUnavailable(str(fault)) if fault is not None and fault.is_outage else None


class Pauses:
    """The pauses before new attempts at one piece of work."""

    def __init__(self, waits: Sequence[float] = WAITS, *, sleep: Callable[[float], object] = time.sleep) -> None:
        """Nothing is waited for yet.

        Args:
            waits: Seconds before each new attempt.
            sleep: Waits for so many seconds; if what it returns is true, the work is to end, and there is no attempt.
        """
        self._left = list(waits)
        self._sleep = sleep

    def before_another(self, why: object) -> bool:
        """Pause, and say whether there is another attempt; `why` the last one failed is a sentence for the log."""
        if not self._left:
            return False
        seconds = self._left.pop(0)
        _log.warning("%s Trying again in %g s.", why, seconds)
        return not self._sleep(seconds)

    def wait(self, error: ServerUnavailable) -> None:
        """Pause before the next attempt.

        Raises:
            ServerUnavailable: `error` itself, when the last attempt has failed.
        """
        if not self.before_another(error):
            raise error
