"""What is run, and how: the two values that travel from whoever wants conversations to whoever runs them.

A `Job` decides which conversations there are and where they go; `RunSettings` decide how they are run, in this process
or on a cluster, and change none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from simgym.assistants.base import Assistant
from simgym.envs.unwrapping import simulation_of
from simgym.errors import UnknownName
from simgym.faults import FaultKind
from simgym.plugins import unknown
from simgym.rollout.budget import Budget
from simgym.transcripts import Transcript


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One assistant in one environment, alone or as one of several."""

    assistant: Assistant
    """Who answers."""
    env: object
    """A `Simulation` or a simgym environment."""
    path: Path | None = None
    """File of the transcripts; None: nothing is written."""
    progress: Callable[[Transcript], None] | None = None
    """Called with each transcript."""
    n: int | None = None
    """Conversations, >= 1; scenarios are taken in order, and from the start again with other seeds. None: each once."""
    seed: int = 0
    """Decides everything random."""

    @property
    def conversations(self) -> int:
        """How many there will be."""
        return len(simulation_of(self.env).scenarios) if self.n is None else self.n


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How conversations are run; the conversations are the same whatever these are."""

    batch_size: int = 32
    """Conversations at the same time, >= 1; on a cluster, those of each worker."""
    asynchronous: bool = False
    """Whether each advances at its own pace; on a cluster none does."""
    budget: Budget | None = None
    """Counts what model calls cost, and ends the run at its limit; None: nothing is counted."""
    retried_faults: frozenset[str] = frozenset()
    """Kinds of faults whose stored conversations are run again; those of outages always are."""

    def __post_init__(self) -> None:
        known = [kind.value for kind in FaultKind if kind is not FaultKind.OTHER]
        for kind in self.retried_faults:
            if kind not in known:
                raise UnknownName(unknown("kind of fault", kind, known))


DEFAULTS = RunSettings()
"""Synchronous, 32 at a time, without a limit."""
