from __future__ import annotations

import pytest

pytest.importorskip("deepeval.simulator.simulation_graph", reason="deepeval has an environment of its own")


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


def test_equal_seeds_give_equal_users_in_the_user_role(simulate, played_by):
    first = simulate()
    assert [role for role, _ in first] == ["user", "assistant"] * 2
    assert first[0][1].startswith("number ")
    assert simulate() == first
    played_by(seed=8)
    assert simulate() != first


def test_a_user_who_leaves_ends_the_conversation_and_a_user_who_fails_is_an_error(simulate, leaving, broken):
    leaving()
    assert [role for role, _ in simulate()] == ["user", "assistant"]
    broken()
    with pytest.raises(RuntimeError, match="empty"):
        simulate()
