from __future__ import annotations

import json

import pytest

from simgym.conversation import INTENT_PREFIX, Conversation
from simgym.data import LoggedConversation, read_logged, write_intents
from simgym.errors import ConfigurationError, ServerUnavailable
from simgym.language_models import Generation, ScriptedLM

LOGS = [
    LoggedConversation(
        id=f"h{n}",
        user_key=f"u{n}",
        country="",
        language="English",
        conversation=Conversation().add("user", f"bread {n}?").add("assistant", "Yes."),
    )
    for n in range(6)
]


def skipped(path):
    lines = path.with_name(f"{path.stem}.skipped.jsonl").read_text().splitlines()
    return {entry["id"]: entry["reason"] for entry in map(json.loads, lines)}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("Sure! Here it is.", "does not begin with the fixed phrase"),
        ("", "empty reply"),
        (f"{INTENT_PREFIX.strip()}, first, find eggs.", "does not begin with the fixed phrase"),
        (INTENT_PREFIX, "nothing after the fixed phrase"),
        (f"{INTENT_PREFIX}{'bake ' * 200}", "longer than 600 characters"),
    ],
)
def test_an_intent_of_the_wrong_form_is_asked_for_again_and_then_listed(tmp_path, reply, reason):
    seeds = []

    def rule(request):
        seeds.append(request.seed)
        return reply

    path = tmp_path / "named.jsonl"
    summary = write_intents(LOGS[:2], ScriptedLM(rule), path, max_attempts=3)
    assert (summary.kept, skipped(path)) == (0, {"h0": reason, "h1": reason})
    assert len(set(seeds)) == 6


def test_running_again_keeps_what_is_there_and_retries_failures(tmp_path):
    asked = []

    def rule(request):
        text = request.messages[-1].content.rpartition("Conversation:")[2]
        number = next(n for n in range(6) if f"bread {n}" in text)
        asked.append(number)
        good = number % 2 == 0 or len(asked) > 12
        return f"{INTENT_PREFIX}bake bread {number}.\nINTENT: more" if good else "no"

    path = tmp_path / "named.jsonl"
    first = write_intents(LOGS, ScriptedLM(rule), path, batch_size=2, max_attempts=2)
    assert (first.kept, set(skipped(path))) == (3, {"h1", "h3", "h5"})
    del asked[:]
    asked += [9] * 12
    second = write_intents(LOGS, ScriptedLM(rule), path, batch_size=2, max_attempts=2)
    assert asked[12:] == [1, 3, 5]
    assert (second.kept, skipped(path)) == (6, {})
    assert {row.id: row.intent for row in read_logged(path)} == {
        f"h{n}": f"{INTENT_PREFIX}bake bread {n}." for n in range(6)
    }


def test_what_was_written_survives_a_kill(tmp_path):
    calls = []

    def rule(request):
        calls.append(request)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return f"{INTENT_PREFIX}bake bread."

    path = tmp_path / "named.jsonl"
    with pytest.raises(KeyboardInterrupt):
        write_intents(LOGS, ScriptedLM(rule), path, batch_size=2)
    assert not path.exists()
    with path.with_name("named.jsonl.partial").open("a") as file:
        file.write('{"conversation_hash": "torn')
    assert write_intents(LOGS, ScriptedLM(rule), path).kept == 6
    assert len(calls) == 5 + 2


class Away(ScriptedLM):
    """A model whose server goes away after some requests, and says so of each."""

    def __init__(self, answered, fault):
        super().__init__(f"{INTENT_PREFIX}bake bread.")
        self.left, self.fault = answered, fault

    def generate(self, requests):
        replies = super().generate(requests)
        self.left -= len(requests)
        return replies if self.left >= 0 else [Generation("", finish_reason="fault", fault=self.fault) for _ in replies]


def test_a_server_that_is_away_ends_the_step_and_the_same_call_goes_on(tmp_path):
    path = tmp_path / "named.jsonl"
    with pytest.raises(ServerUnavailable, match=r"no connection to h:1. 2 intents are written; give the same command"):
        write_intents(LOGS, Away(2, "server: no connection to h:1."), path, batch_size=2)
    assert not path.exists()
    assert write_intents(LOGS, Away(4, ""), path, batch_size=2).kept == 6
    other = tmp_path / "other.jsonl"
    summary = write_intents(LOGS, Away(2, "refused: flagged"), other, batch_size=2)  # whom a refusal concerns, is asked
    assert (summary.kept, set(skipped(other).values())) == (2, {"refused"})


def test_another_model_or_another_input_is_not_mixed_in(tmp_path):
    path = tmp_path / "named.jsonl"
    write_intents(LOGS[:3], ScriptedLM(f"{INTENT_PREFIX}bake bread."), path)
    with pytest.raises(ConfigurationError, match="made with another model"):
        write_intents(LOGS[:3], ScriptedLM(f"{INTENT_PREFIX}bake rolls."), path)
    with pytest.raises(ConfigurationError, match="not in the input"):
        write_intents(LOGS[1:], ScriptedLM(f"{INTENT_PREFIX}bake bread."), path)
