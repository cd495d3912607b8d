from __future__ import annotations

import pytest

pytest.importorskip("openevals.simulators", reason="openevals has an environment of its own")
from seat_contract import (  # noqa: F401
    test_a_user_who_leaves_ends_the_conversation_and_a_user_who_fails_is_an_error,
    test_equal_seeds_give_equal_users_in_the_user_role,
)


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
