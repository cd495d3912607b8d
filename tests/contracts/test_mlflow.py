from __future__ import annotations

import pytest

pytest.importorskip("mlflow.genai.simulators", reason="mlflow has an environment of its own")
import mlflow


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory):
    """One for all tests: traces are exported behind a conversation, to where the first one was."""
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")


@pytest.fixture
def simulate(shell):
    names = shell("MLflow")

    def run():
        """What MLflow recorded of a conversation: the messages that the last answer was asked with."""
        heard = []

        def answer(messages, **_):
            heard.append([*messages])
            return {"role": "assistant", "content": "Sure."}

        names["simulator"].simulate(answer)
        return heard[-1] if heard else []

    return run


def test_equal_seeds_give_equal_users_in_the_user_role(simulate, played_by):
    first = simulate()
    assert [message["role"] for message in first] == ["user", "assistant", "user"]
    assert first[0]["content"].startswith("number ")
    assert simulate() == first
    played_by(seed=8)
    assert simulate() != first


def test_a_user_who_leaves_or_fails_ends_the_conversation_and_the_reason_is_logged(simulate, leaving, broken, caplog):
    leaving()
    assert [message["role"] for message in simulate()] == ["user"]  # asked once, and then no more
    assert "The user has left: Thanks, bye!" in caplog.text
    broken()
    with pytest.raises(Exception, match="no traces"):
        simulate()
    assert "empty" in caplog.text
