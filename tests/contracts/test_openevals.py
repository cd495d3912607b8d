from __future__ import annotations

import pytest

pytest.importorskip("openevals.simulators", reason="openevals has an environment of its own")


@pytest.fixture
def simulate(shell, monkeypatch):
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    names = shell("openevals")

    def run():
        import simgym

        names["next_turn"].cache_clear()
        names["user"] = simgym.user("role_play", "everyday-study-005", seed=7, model="scripted:seed")
        trajectory = names["run_multiturn_simulation"](
            app=names["answer"], user=names["speak"], max_turns=2, stopping_condition=names["left"]
        )["trajectory"]
        return [(message["role"], message["content"]) for message in trajectory]

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
