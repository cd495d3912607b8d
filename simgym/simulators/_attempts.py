"""Ask a model for user turns, check them, and ask again for the invalid ones, a bounded number of times.

Every attempt is one batched call over the turns still missing. An attempt's seed depends on the turn's seed and the
attempt's number alone, so a retried turn is the same whatever its neighbours needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simgym.conversation import Conversation, Scenario
from simgym.faults import Fault, FaultKind
from simgym.language_models.base import LanguageModel, Request, record_call
from simgym.seeding import derive_seed
from simgym.simulators.base import UserTurn
from simgym.simulators.faults import find_fault
from simgym.transcripts import ModelCall

_WORTH_ANOTHER_TRY = frozenset({FaultKind.THOUGHTS_ONLY, FaultKind.CUT_WHILE_THINKING})
"""Faults of a reply that another seed may not have."""


def attempt_turns(
    model: LanguageModel,
    scenarios: Sequence[Scenario],
    conversations: Sequence[Conversation],
    seeds: Sequence[int],
    *,
    request: Callable[[Scenario, Conversation, int, int], Request],
    read: Callable[[str], UserTurn],
    max_attempts: int,
) -> list[UserTurn]:
    """User turns of N conversations, each tried up to `max_attempts` times.

    Args:
        model: Who writes the turns.
        scenarios: N scenarios.
        conversations: N conversations so far.
        seeds: N seeds of this turn.
        request: Makes the request of a scenario, a conversation, the number of the attempt (from 0) and its seed.
        read: Makes a turn of the model's text; a `fault` in it means unreadable.
        max_attempts: Tries per turn, >= 1.

    Returns:
        N turns; the last fault stays on those that never succeeded. Faults of the model itself are not retried, but for
        replies that consist of thoughts.
    """
    turns: list[UserTurn] = [UserTurn("", fault="not_attempted")] * len(scenarios)
    calls_N: list[list[ModelCall]] = [[] for _ in scenarios]
    pending = list(range(len(scenarios)))
    for attempt in range(max_attempts):
        requests = [
            request(scenarios[i], conversations[i], attempt, derive_seed(seeds[i], "attempt", attempt)) for i in pending
        ]
        generations = model.generate(requests)
        missing = []
        for i, asked, generation in zip(pending, requests, generations, strict=True):
            if generation.fault:
                turns[i] = UserTurn("", fault=generation.fault)
                if Fault.parse(generation.fault).kind in _WORTH_ANOTHER_TRY:
                    missing.append(i)
            else:
                turn = read(generation.text)
                if turn.fault is None and not (turn.ended and not turn.text.strip()):
                    fault = find_fault(turn.text, scenarios[i], conversations[i])
                    turn = turn if fault is None else UserTurn("", fault=fault)
                turns[i] = turn if turn.fault is None else UserTurn("", fault=turn.fault)
                if turn.fault is not None:
                    missing.append(i)
            turn_number = len(conversations[i].said_by("assistant"))
            calls_N[i].append(record_call("user", turn_number, asked, generation, turns[i].fault))
        pending = missing
        if not pending:
            break
    return [
        UserTurn(turn.text, ended=turn.ended, fault=turn.fault, calls=tuple(calls))
        for turn, calls in zip(turns, calls_N, strict=True)
    ]
