"""Rollouts of a policy on a server, each at its own pace, in groups that meet one user.

Scenarios are taken in order, again and again, each time with another seed. A conversation that is older than
`max_staleness` versions of the policy is given up before its next turn. One that a server's silence ended begins again
after a pause. Whoever receives the rollouts may hold them back: the thread waits.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from simgym import _fibers
from simgym.conversation import Scenario
from simgym.envs.outages import Pauses, outage_of
from simgym.errors import ServerUnavailable
from simgym.language_models.policy_server import PolicyServer
from simgym.rollout.background import Background
from simgym.rollout.rollout_groups import EndedRollout, RolloutGroup
from simgym.rollout.token_rollouts import TokenConversations
from simgym.seeding import derive_seed
from simgym.simulation import Dialogue, Simulation


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Which rollouts, and how many at once."""

    model: str
    """Name of the policy on its server."""
    lora_name: str | None
    """Name under which adapters are published, `-vN` behind it; None: the policy is no adapter."""
    group_size: int
    """Rollouts that meet the same user."""
    at_once: int
    """Conversations at a time, >= 1."""
    max_staleness: int
    """Versions of the policy that a conversation may last."""
    seed: int
    """Decides all randomness of the users and the seeds of the policy's sampling."""
    waits: tuple[float, ...]
    """Seconds before each new attempt when servers do not answer."""


class Receiver(Protocol):
    """Who takes what was rolled out, in whichever thread."""

    def take_ended(self, ended: EndedRollout, seconds: float) -> None:
        """A conversation is over, after so many seconds."""

    def take_group(self, group: RolloutGroup) -> None:
        """All of a group are."""


class PacedRollouts:
    """Conversations in the background until they are stopped."""

    def __init__(
        self,
        simulation: Simulation,
        conversations: TokenConversations,
        policy: PolicyServer,
        scenarios: Sequence[Scenario],
        pace: Pace,
    ) -> None:
        """Plan; nothing is asked before `start`."""
        self.version = 0
        """Of the policy on the server; set by whoever trains it."""
        self.background = Background()
        """The threads, and whether they are alive."""
        self._simulation, self._conversations, self._policy = simulation, conversations, policy
        self._scenarios, self._pace = list(scenarios), pace

    def start(self, receiver: Receiver) -> None:
        """Begin conversations."""
        self.background.start(self._tasks(receiver), self._pace.at_once)

    def stop(self) -> None:
        """End at once; conversations in progress are dropped."""
        self.background.stopping.set()
        self._policy.interrupt()
        self.background.join()
        self._policy.close()

    def _tasks(self, receiver: Receiver) -> Iterator[Callable[[], None]]:
        size = self._pace.group_size
        for number in itertools.count():
            scenario = self._scenarios[number % len(self._scenarios)]
            seed = derive_seed(self._pace.seed, "grpo", number, scenario.id)
            group = RolloutGroup(number, scenario, seed, size=size)
            for member in range(size):
                if self.background.stopping.is_set():
                    return
                yield partial(self._roll_out, group, member, receiver)

    def _roll_out(self, group: RolloutGroup, member: int, receiver: Receiver) -> None:
        """One conversation; again from its beginning when a server was away."""
        began = time.monotonic()
        if member == 0:
            try:
                group.opening.set_result(self._open(group))
            except BaseException as error:
                group.opening.set_exception(error)
                raise
        ended = self._converse(member, _fibers.result(group.opening))
        complete = group.add(ended)
        receiver.take_ended(ended, time.monotonic() - began)
        if complete:
            receiver.take_group(group)

    def _sleep(self, seconds: float) -> bool:
        self.background.beat(seconds)
        return self.background.pause(seconds)

    def _open(self, group: RolloutGroup) -> Dialogue:
        pauses = Pauses(self._pace.waits, sleep=self._sleep)
        while True:
            (opening,) = self._simulation.open([group.seed], [group.scenario])
            if (error := outage_of(opening)) is None:
                return opening
            pauses.wait(error)

    def _converse(self, member: int, opening: Dialogue) -> EndedRollout:
        pauses = Pauses(self._pace.waits, sleep=self._sleep)
        while True:
            try:
                return self._converse_once(member, opening)
            except ServerUnavailable as error:
                pauses.wait(error)

    def _converse_once(self, member: int, opening: Dialogue) -> EndedRollout:
        """The conversation as tokens, unless it became too old."""
        pace, version, rollout = self._pace, self.version, self._conversations.begin(opening)
        while not rollout.dialogue.ended:
            if self.background.stopping.is_set() or self.version - version > pace.max_staleness:
                return EndedRollout(None, version)
            name = f"{pace.lora_name}-v{self.version}" if pace.lora_name else pace.model
            seed = derive_seed(rollout.dialogue.assistant_seed, "member", member)
            reply = self._policy.write(name, rollout.so_far, seed)
            self.background.beat()
            (rollout,) = self._conversations.answer([rollout], [reply])
            if (error := outage_of(rollout.dialogue)) is not None:
                raise error
        return EndedRollout(rollout, version)
