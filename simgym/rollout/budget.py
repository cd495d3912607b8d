"""What a run may cost: tokens and money, counted with every model call and checked before every turn.

A limit is on the whole run, what earlier commands did included. When it is reached no further turn begins anywhere: a
run may spend up to one turn of the running conversations more than its limit (on Ray: up to the batches that are
running). Conversations that are cut short so are not written, but what they have cost counts, and the message says it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from simgym.errors import BudgetReached, ConfigurationError
from simgym.transcripts import ModelCall, tokens_by_role

_GO_ON = "What is finished is kept; with a higher limit the same command goes on."


@dataclass(frozen=True, slots=True)
class Price:
    """What a role's model costs."""

    input: float
    """Money per million input tokens, >= 0."""
    output: float
    """Money per million output tokens, >= 0."""

    def __post_init__(self) -> None:
        if not (self.input >= 0 and self.output >= 0):
            raise ConfigurationError(f"A price is {self.input}, {self.output}, expected numbers >= 0.")


@dataclass
class Budget:
    """Counts what transcripts cost; may be told from several threads."""

    max_tokens: int | None = None
    """Tokens read and written by all roles together; None: no limit."""
    max_cost: float | None = None
    """Money, in the currency of the prices; None: no limit."""
    prices: Mapping[str, Price] = field(default_factory=dict)
    """By role: `assistant`, `user`, `judge`; a role without one costs nothing."""
    tokens: int = 0
    """Tokens so far."""
    cost: float = 0.0
    """Money so far."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.prices) - {"assistant", "user", "judge"}):
            raise ConfigurationError(f"There is a price for {unknown[0]!r}, expected assistant, user or judge.")
        if self.max_cost is not None and not self.prices:
            raise ConfigurationError("A cost limit needs prices. Give what a million tokens of a role cost.")
        self._lock = threading.Lock()

    def count(self, calls: Iterable[ModelCall]) -> None:
        """Add what model calls cost."""
        used = tokens_by_role(calls)
        with self._lock:
            self.tokens += sum(sum(numbers.values()) for numbers in used.values())
            self.cost += cost_of(used, self.prices)

    def add(self, tokens: int, cost: float) -> None:
        """Add what was spent elsewhere."""
        with self._lock:
            self.tokens += tokens
            self.cost += cost

    def check(self) -> None:
        """Call before a turn begins.

        Raises:
            BudgetReached: a limit is reached.
        """
        if self.max_tokens is not None and self.tokens >= self.max_tokens:
            raise BudgetReached(f"The run has used {self.tokens:,} tokens, its limit is {self.max_tokens:,}. {_GO_ON}")
        if self.max_cost is not None and self.cost >= self.max_cost:
            raise BudgetReached(f"The run has cost {self.cost:.2f}, its limit is {self.max_cost:.2f}. {_GO_ON}")


def cost_of(tokens: Mapping[str, Mapping[str, float]], prices: Mapping[str, Price]) -> float:
    """Money for tokens by role and kind (`prompt`, `completion`)."""
    return sum(
        (numbers["prompt"] * prices[role].input + numbers["completion"] * prices[role].output) / 1e6
        for role, numbers in tokens.items()
        if role in prices
    )
