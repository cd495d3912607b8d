"""What a seat does in every framework that returns a conversation's messages: tests for the modules that import them.

Their fixture `simulate` plays a conversation of two turns and returns role and text of each message.
"""

from __future__ import annotations

import pytest


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
