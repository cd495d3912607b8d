"""Servers that stop answering in the middle of a training: pause, try again, and only then stop.

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

from simgym.envs.episodes import Episode
from simgym.errors import ServerUnavailable
from simgym.faults import Fault

WAITS = (10.0, 60.0, 300.0)
"""Seconds before each new attempt."""

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


def silent(episodes: Sequence[Episode]) -> str | None:
    """What a server's silence looks like if no conversation was judged and at least half ended by it, else None.

    Not all need have ended so: one may have been over before the server was asked.
    """
    if any(episode.end_reason is None or episode.reward is not None for episode in episodes):
        return None
    faults = [episode.fault for episode in episodes if episode.fault and Fault.parse(episode.fault).is_outage]
    return faults[0] if faults and 2 * len(faults) >= len(episodes) else None


def check_servers(episodes: Sequence[Episode]) -> None:
    """Raise `ServerUnavailable` if the conversations ended because a server is silent."""
    if (fault := silent(episodes)) is not None:
        raise ServerUnavailable(f"All {len(episodes)} conversations failed, for want of a server: {fault}")


def patiently(
    attempt: Callable[[], Result], *, waits: Sequence[float] = WAITS, sleep: Callable[[float], None] = time.sleep
) -> Result:
    """What `attempt` gives, trying again after each of `waits` seconds while servers are down.

    Raises:
        ServerUnavailable: the last attempt failed, too.
    """
    for wait in waits:
        try:
            return attempt()
        except ServerUnavailable as error:
            _log.warning("%s Trying again in %g s.", error, wait)
            sleep(wait)
    return attempt()
