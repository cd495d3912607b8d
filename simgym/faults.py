"""What went wrong for a model, a judge or a person during a conversation: a value, not an error.

A `Fault` has a kind (an enum), a detail in words, and a scope that says whom it concerns. Models, simulators and
judges, plug-ins among them, report theirs as a text, `kind: detail` (`server: no connection to localhost:8000`), and
that text is what files hold. `Fault.parse` is the one place where it is read; whoever decides by a fault asks the
value: `fault.kind is FaultKind.CONTEXT_OVERFLOW`, `fault.is_outage`.

A text of a kind that is not listed here, from an older file or a plug-in, is of the kind `other` and stays verbatim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class FaultScope(StrEnum):
    """Whom a fault concerns."""

    REQUEST = "request"
    """One request to a model: the next one may well be answered."""
    CONVERSATION = "conversation"
    """What was said, or could not be said, in one conversation."""
    RUN = "run"
    """Every conversation that needs the same server, until somebody sees to it."""


class FaultKind(StrEnum):
    """What went wrong; the word before the colon."""

    CONTEXT_OVERFLOW = "context_overflow"
    """The conversation does not fit the model's context any more."""
    REFUSED = "refused"
    """The model, or the server's filter, will not answer this."""
    UNPARSABLE = "unparsable"
    """The reply is not in the form that was asked for."""
    OUT_OF_RANGE = "out_of_range"
    """A judge's number is outside its scale."""
    THOUGHTS_ONLY = "thoughts_only"
    """A reasoning model thought and said nothing."""
    CUT_WHILE_THINKING = "cut_while_thinking"
    """The bound of new tokens was reached before a reasoning model began to speak."""
    SERVER = "server"
    """The server cannot be reached, or answers with an error of its own."""
    TIMEOUT = "timeout"
    """The server did not answer in time."""
    EMPTY = "empty"
    """Nothing was said."""
    INVALID = "invalid"
    """The assistant's words are outside the action space: blank, too long, or not text."""
    TOO_LONG = "too_long"
    """The user's turn does not fit the observation space."""
    ROLE_FLIP = "role_flip"
    """The simulated user speaks as the assistant."""
    INTENT_COPIED = "intent_copied"
    """The simulated user recites the hidden intent."""
    REPEATED = "repeated"
    """The simulated user says the same twice in a row."""
    ENDED_BEFORE_OPENING = "ended_before_opening"
    """The simulated user left without a first word."""
    NO_CHECKLIST = "no_checklist"
    """A judge by checklist has none for the scenario."""
    NO_REFERENCE = "no_reference"
    """A judge that compares has nothing to compare with."""
    NO_TURNS = "no_turns"
    """There is nothing to judge."""
    OTHER = "other"
    """Anything else; the detail is the whole text, verbatim."""


_SCOPES = {
    FaultKind.SERVER: FaultScope.RUN,
    FaultKind.TIMEOUT: FaultScope.RUN,
    FaultKind.REFUSED: FaultScope.REQUEST,
    FaultKind.CONTEXT_OVERFLOW: FaultScope.REQUEST,
    FaultKind.UNPARSABLE: FaultScope.REQUEST,
    FaultKind.OUT_OF_RANGE: FaultScope.REQUEST,
    FaultKind.THOUGHTS_ONLY: FaultScope.REQUEST,
    FaultKind.CUT_WHILE_THINKING: FaultScope.REQUEST,
    FaultKind.OTHER: FaultScope.REQUEST,
}
"""The scope of a kind unless a fault says otherwise; a kind that is not listed concerns its conversation."""
_KINDS = {kind.value: kind for kind in FaultKind if kind is not FaultKind.OTHER}
_OUTAGES = frozenset({FaultKind.SERVER, FaultKind.TIMEOUT})


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that went wrong."""

    kind: FaultKind
    """What it was."""
    detail: str = ""
    """In words; may be empty. Of the kind `other`, the whole text."""
    scope: FaultScope | None = None
    """Whom it concerns; None, when it is made, takes the scope of its kind. Files do not hold it."""

    def __post_init__(self) -> None:
        if self.scope is None:
            object.__setattr__(self, "scope", _SCOPES.get(self.kind, FaultScope.CONVERSATION))

    def __str__(self) -> str:
        if self.kind is FaultKind.OTHER:
            return self.detail
        return f"{self.kind}: {self.detail}" if self.detail else str(self.kind)

    @property
    def is_outage(self) -> bool:
        """Whether a server is away, so that the same request may be answered later."""
        return self.kind in _OUTAGES

    @property
    def label(self) -> str:
        """The word that faults are counted by: the kind, or for `other` what stands before the first colon."""
        return self.detail.partition(":")[0] if self.kind is FaultKind.OTHER else str(self.kind)

    def without_detail(self) -> Fault:
        """A fault of the same kind, label and scope that says nothing more."""
        return Fault(self.kind, self.label if self.kind is FaultKind.OTHER else "", self.scope)

    @classmethod
    def parse(cls, text: str | Fault) -> Fault:
        """The fault that a text tells of; a fault is returned as it is."""
        if isinstance(text, Fault):
            return text
        word, _, detail = text.partition(":")
        kind = _KINDS.get(word.strip())
        return cls(FaultKind.OTHER, text) if kind is None else cls(kind, detail.strip())


def parse_fault(text: str | Fault | None) -> Fault | None:
    """`Fault.parse`, where there may be none."""
    return None if text is None else Fault.parse(text)


def fault_label(text: str | Fault | None) -> str:
    """What a fault is counted by; `unknown` if what went wrong was not recorded."""
    return "unknown" if text is None else Fault.parse(text).label


def count_faults(texts: Iterable[str | Fault | None]) -> dict[str, int]:
    """How often each label occurs, in alphabetical order."""
    return dict(sorted(Counter(map(fault_label, texts)).items()))
