"""Kinds of turns, and the mixture of simulators nearest to people."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgym.conversation import INTENT_PREFIX, Conversation
from simgym.data import LoggedConversation
from simgym.evaluation import make_reference, simulate_turns
from simgym.evaluation.behaviours import compare_behaviours, mixture_weights
from simgym.simulators import Replay

ASKS, SAYS = (
    "What about number {}?",
    "I would rather have something longer than number {}, thanks, if possible.",
)


def people(count=60):
    logs = []
    for number in range(count):
        talk = Conversation()
        for turn in range(4):
            said = (ASKS if (number + turn) % 3 else SAYS).format(turn)
            talk = talk.add("user", said).add("assistant", "Here it is.")
        logs.append(
            LoggedConversation(
                id=f"h{number}", user_key=f"u{number}", country="", language="", conversation=talk,
                intent=f"{INTENT_PREFIX}get number {number}",
            )
        )  # fmt: skip
    return make_reference(logs, "a test", conversations=count, later_turns=3, seed=0)


class Asker(Replay):
    """Asks at every moment and never leaves."""

    def reply(self, scenarios, conversations, *, seeds):
        from simgym.simulators.base import UserTurn

        return [UserTurn(ASKS.format(7)) for _ in scenarios]


def test_the_person_behaves_like_people_and_gets_the_weight_of_the_mixture():
    reference = people()
    turns = {"person": simulate_turns(Replay(), reference), "asker": simulate_turns(Asker(), reference)}
    behaviours = compare_behaviours(reference, turns)
    assert behaviours.divergence["person"] == 0
    assert behaviours.divergence["asker"] > 0.1 > behaviours.control
    assert behaviours.mixture["person"] > 0.9
    assert behaviours.mixture_divergence < 0.02
    assert behaviours.people[-1] == pytest.approx(0.25)  # they leave after three later turns
    assert compare_behaviours(people(6), {"person": simulate_turns(Replay(), people(6))}) is None


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=4))
def test_the_weights_of_a_known_mixture_are_found(shares):
    true = np.array(shares) / sum(shares)
    components = 1e6 * np.eye(len(true), len(true) + 1)
    components[:, -1] = 1e5
    weights = mixture_weights(1e7 * true @ (components / components.sum(axis=1, keepdims=True)), components)
    assert weights == pytest.approx(true, abs=1e-3)
