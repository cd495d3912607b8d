from __future__ import annotations

import pytest

pytest.importorskip("deepeval.simulator.simulation_graph", reason="deepeval has an environment of its own")
from seat_contract import (  # noqa: F401
    test_a_user_who_leaves_ends_the_conversation_and_a_user_who_fails_is_an_error,
    test_equal_seeds_give_equal_users_in_the_user_role,
)


@pytest.fixture
def simulate(shell, monkeypatch):
    monkeypatch.setenv("DEEPEVAL_TELEMETRY_OPT_OUT", "YES")
    names = shell("DeepEval")

    def run():
        names["next_turn"].cache_clear()
        golden = names["ConversationalGolden"](scenario="plan a party for six people.")
        (case,) = names["simulator"].simulate([golden], max_user_simulations=2)
        return [(turn.role, turn.content) for turn in case.turns]

    return run
