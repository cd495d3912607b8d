from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("scenario.agent_adapter", reason="langwatch-scenario has an environment of its own")


@pytest.fixture
def simulate(shell, monkeypatch):
    monkeypatch.delenv("LANGWATCH_API_KEY", raising=False)  # without one nothing is reported
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it is fetched
    names = shell("LangWatch")

    def run():
        scenario = names["scenario"]
        played = scenario.run(
            name="party",
            description=names["wish"],
            agents=[names["user"], names["Assistant"]()],
            script=names["script"],
        )
        result = asyncio.run(played)
        return result, [(message["role"], message["content"]) for message in result.messages]

    return run


def test_equal_seeds_give_equal_users_in_the_user_role(simulate, played_by):
    result, first = simulate()
    assert result.success
    assert [role for role, _ in first] == ["user", "assistant"] * 2
    assert first[0][1].startswith("number ")
    assert simulate()[1] == first
    played_by(seed=8)
    assert simulate()[1] != first


def test_a_user_who_leaves_ends_the_conversation_and_a_user_who_fails_is_an_error(simulate, leaving, broken):
    leaving()
    result, said = simulate()
    assert result.success
    assert [role for role, _ in said] == ["user", "assistant", "user"]
    assert said[-1][1] == "Thanks, bye!"
    broken()
    with pytest.raises(Exception, match="empty"):
        simulate()
