"""Where a participant is: a fold over their events, and the step that comes next.

Events are the only truth. Each has a `key` that is unique per participant (`turn:3:choice`), so whatever is sent twice
is stored once; the next key is a function of the events so far. Nothing here talks to a database or a browser.

    opened > consented > instructed > task > training:1:message > training:1:replies > training:1:choice > ...
    > turn:1:message > ... > finished > (rating) > (document) > completed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from simgym.conversation import Conversation
from simgym.study.config import Study
from simgym.study.design import Assignment

Stage = Literal["consent", "instructions", "task", "message", "waiting", "choice", "rating", "document", "done"]
"""Which page a participant sees."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; never changed, never deleted but by withdrawal."""

    key: str
    """What it is, unique per participant."""
    payload: Mapping[str, Any] = field(default_factory=dict)
    """Its details, JSON values."""
    at: float = 0.0
    """Seconds since 1970 when it was stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A message and what came of it."""

    phase: str
    """`training` or `turn`."""
    number: int
    """From 1 within the phase."""
    message: str
    """What the participant wrote."""
    message_at: float
    """When it was stored."""
    replies: tuple[Mapping[str, Any], ...] = ()
    """From left to right: `assistant`, `text`, `flags`; empty while they are being written."""
    replies_at: float | None = None
    """When they were stored."""
    choice: Mapping[str, Any] | None = None
    """`pick` (`left`, `right`, `tie`), `reason`, `continued` (0 left, 1 right)."""
    choice_at: float | None = None
    """When it was stored."""
    failures: int = 0
    """Attempts at writing the replies that failed."""
    failed: bool = False
    """The last attempt failed, and no new one was asked for."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be done."""
        return self.choice is not None or (len(self.replies) == 1)

    @property
    def continued(self) -> str:
        """The reply that the conversation goes on from."""
        return str(self.replies[int(self.choice["continued"]) if self.choice else 0]["text"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """All that one participant has done."""

    study: Study
    """The study."""
    events: tuple[Event, ...]
    """In the order in which they were stored."""
    exchanges: tuple[Exchange, ...]
    """Training first."""
    stage: Stage
    """What is to be done next."""
    key: str
    """Key of the event that is expected next."""
    phase: str = ""
    """`training` or `turn` while there is a conversation."""
    turn: int = 0
    """Which exchange of the phase, from 1."""

    def event(self, key: str) -> Event | None:
        """The event of that key."""
        return next((event for event in self.events if event.key == key), None)

    @property
    def assignment(self) -> Assignment | None:
        """Arm and side; None before a task is chosen."""
        if (task := self.event("task")) is None:
            return None
        given = task.payload["assignment"]
        return Assignment(tuple(given["arm"]), bool(given["flipped"]), int(given["position"]))

    def in_phase(self, phase: str) -> list[Exchange]:
        """The exchanges of one phase."""
        return [exchange for exchange in self.exchanges if exchange.phase == phase]

    @property
    def awaits_replies(self) -> bool:
        """Whether replies are being written, or are to be."""
        return self.stage == "waiting" and not self.exchanges[-1].failed

    @property
    def may_finish(self) -> bool:
        """Whether enough was said and no exchange is open."""
        return self.stage == "message" and self.phase == "turn" and self.turn > self.study.turns.minimum

    def conversation(self) -> Conversation:
        """What an assistant sees now: the phase's exchanges, each with the reply that was continued."""
        talk = Conversation()
        for exchange in self.in_phase(self.phase):
            talk = talk.add("user", exchange.message)
            if exchange.complete:
                talk = talk.add("assistant", exchange.continued)
        return talk

    @property
    def progress(self) -> float:
        """Share of the way, in [0, 1]; further exchanges than the minimum do not count."""
        turns = self.study.turns
        done = sum(exchange.complete for exchange in self.in_phase("training"))
        done += min(turns.minimum, sum(exchange.complete for exchange in self.in_phase("turn")))
        steps = ("consented", "instructed", "task", *self.study_ends)
        done += sum(self.event(key) is not None for key in steps) + (self.stage in ("rating", "document", "done"))
        return done / (turns.training + turns.minimum + len(steps) + 1)

    @property
    def study_ends(self) -> tuple[str, ...]:
        """What is asked for after the conversation."""
        rating = ("rating",) if self.study.design == "rating" else ()
        return (*rating, *(("document",) if self.study.minimum_words.document else ()))


def follow(study: Study, events: Sequence[Event]) -> Journey:
    """The journey that the events tell."""
    known = {event.key: event for event in events}
    exchanges = _exchanges(study, known)

    def at(stage: Stage, key: str, phase: str = "", turn: int = 0) -> Journey:
        return Journey(
            study=study, events=tuple(events), exchanges=tuple(exchanges), stage=stage, key=key, phase=phase, turn=turn
        )

    for key, stage in (("consented", "consent"), ("instructed", "instructions"), ("task", "task")):
        if key not in known:
            return at(stage, key)  # type: ignore[arg-type]
    for phase, count in (("training", study.turns.training), ("turn", study.turns.maximum)):
        of_phase = [exchange for exchange in exchanges if exchange.phase == phase]
        if of_phase and not (last := of_phase[-1]).complete:
            part: Stage = "choice" if last.replies else "waiting"
            ending = "choice" if last.replies else "replies"
            return at(part, f"{phase}:{last.number}:{ending}", phase, last.number)
        if len(of_phase) < count and not (phase == "turn" and "finished" in known):
            number = len(of_phase) + 1
            return at("message", f"{phase}:{number}:message", phase, number)
    journey = at("done", "completed")
    for key in journey.study_ends:
        if key not in known:
            return at("rating" if key == "rating" else "document", key, "turn")
    return journey


def _exchanges(study: Study, known: Mapping[str, Event]) -> list[Exchange]:
    exchanges = []
    for phase, count in (("training", study.turns.training), ("turn", study.turns.maximum)):
        for number in range(1, count + 1):
            base = f"{phase}:{number}"
            if (message := known.get(f"{base}:message")) is None:
                break
            replies, choice = known.get(f"{base}:replies"), known.get(f"{base}:choice")
            failures = 0
            while f"{base}:failure:{failures + 1}" in known:
                failures += 1
            retried = f"{base}:retry:{failures}" in known
            exchanges.append(
                Exchange(
                    phase=phase,
                    number=number,
                    message=message.payload["text"],
                    message_at=message.at,
                    replies=tuple(replies.payload["replies"]) if replies else (),
                    replies_at=replies.at if replies else None,
                    choice=choice.payload if choice else None,
                    choice_at=choice.at if choice else None,
                    failures=failures,
                    failed=bool(failures) and not retried and replies is None,
                )
            )
    return exchanges
