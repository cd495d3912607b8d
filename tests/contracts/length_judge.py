"""A judge that is a rule, so that no contract needs a model."""

from __future__ import annotations

from simgym.judges.base import Judgement


class LengthJudge:
    """A tenth for every message; no judgement if the assistant has said `unjudgeable`."""

    def judge(self, scenarios, conversations, *, seeds):
        return [
            Judgement(None, fault="unparsable: no number")
            if any("unjudgeable" in text for text in conversation.said_by("assistant"))
            else Judgement(min(1.0, len(conversation.messages) / 10), reasons=("length",))
            for conversation in conversations
        ]

    def fingerprint(self):
        return {"judge": "length"}
