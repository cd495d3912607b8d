from __future__ import annotations

import pytest

import simgym
from simgym.assistants import AssistantTurn
from simgym.conversation import INTENT_PREFIX, Message, Scenario
from simgym.errors import ConfigurationError, InvalidAction, UnknownName
from simgym.judges import RelevanceJudge
from simgym.language_models import ScriptedLM
from simgym.simulators import Mixture, Replay, UserTurn

BY_SEED = ScriptedLM("seed")


class Attentive:
    """An assistant whose answers depend on all that was said."""

    def respond(self, conversations, *, seeds):
        return [AssistantTurn(f"You said {conversation.said_by('user')}.") for conversation in conversations]

    def fingerprint(self):
        return {"assistant": "attentive"}


class Leaving:
    """A user who leaves at the second reply with a parting word, and fails in some scenarios."""

    def open(self, scenarios, *, seeds):
        return [UserTurn(f"{scenario.goal} {seed}") for scenario, seed in zip(scenarios, seeds, strict=True)]

    def reply(self, scenarios, conversations, *, seeds):
        turns = []
        for scenario, conversation, seed in zip(scenarios, conversations, seeds, strict=True):
            heard = len(conversation.said_by("assistant"))
            failed = scenario.persona_seed % 3 == 2
            turn = UserTurn(f"heard {heard} of {conversation.messages[-1].content[:20]} {seed}", ended=heard == 2)
            turns.append(UserTurn("", fault="role_flip: it offered help") if failed else turn)
        return turns

    def fingerprint(self):
        return {"simulator": "leaving"}


def converse(user, max_turns):
    """The conversation as a framework runs it, with messages of its own."""
    messages, turn = [{"role": "system", "content": "Be brief."}], user.open()
    while not turn.ended and turn.fault is None:
        messages.append({"role": "user", "content": turn.text})
        said = [message["content"] for message in messages if message["role"] == "user"]
        messages.append({"role": "assistant", "content": f"You said {said}."})
        if len(said) == max_turns:
            break
        turn = user.reply(messages)
    return messages[1:], turn


@pytest.mark.parametrize(
    "simulator", [Mixture(BY_SEED), Replay(), Leaving()], ids=lambda simulator: type(simulator).__name__
)
def test_a_single_user_says_what_it_says_in_collect(simulator, scenarios):
    simulation = simgym.Simulation(
        simulator, judge=RelevanceJudge(BY_SEED), scenarios=scenarios, max_turns=3, answer_last_words=False
    )
    transcripts = simgym.collect(Attentive(), simulation)
    if isinstance(simulator, Leaving):
        assert {transcript.end_reason for transcript in transcripts} == {"user_end", "simulator_fault"}
    for transcript in transcripts:
        user = simgym.user(simulator, transcript.scenario, seed=transcript.seed)
        messages, last = converse(user, max_turns=3)
        if last.ended and last.text:
            messages.append({"role": "user", "content": last.text})
        assert messages == transcript.conversation.to_json()
        assert last.ended == (transcript.end_reason == "user_end")
        assert last.fault == (None if transcript.fault is None else str(transcript.fault))


def test_nothing_is_remembered_between_replies(scenarios):
    user = simgym.user("role_play", scenarios[0], seed=3, model="scripted:seed")
    opening = user.open()
    asked = [Message("user", opening.text), Message("assistant", "Where to?")]
    first = user.reply(asked)
    longer = [*asked, Message("user", first.text), Message("assistant", "And when?")]
    assert user.reply(longer).text != first.text
    assert user.reply(asked) == first
    assert [call.role for call in first.calls] == ["user"]


def test_a_scenario_is_named_or_drawn_by_the_seed(scenarios):
    assert simgym.user("replay", "s4", scenarios=scenarios).scenario == scenarios[4]
    drawn = {simgym.user("replay", seed=seed, scenarios=scenarios).scenario.id for seed in range(20)}
    assert drawn == {simgym.Simulation("replay", scenarios=scenarios).scenario(seed).id for seed in range(20)}
    with pytest.raises(UnknownName, match="Did you mean 'role_play'"):
        simgym.user("role_pla")


def test_a_goal_in_words_is_a_scenario_and_equal_words_an_equal_one():
    bread = Scenario.from_goal("bake bread")
    assert (bread.goal, bread.intent) == ("bake bread", INTENT_PREFIX + "bake bread")
    assert Scenario.from_goal("bake bread") == bread
    assert Scenario.from_goal("bake a cake").id != bread.id
    assert Scenario.from_goal("bake bread", opening="Bread!").opening == "Bread!"
    for goal in ("", " ", None):
        with pytest.raises(ConfigurationError, match="what the user wants"):
            Scenario.from_goal(goal)


def test_a_conversation_that_no_user_can_answer_is_refused_in_a_sentence(scenarios):
    user = simgym.user("replay", scenarios[0])
    with pytest.raises(ConfigurationError, match="ends with no message, expected one of the assistant"):
        user.reply([])
    with pytest.raises(ConfigurationError, match="ends with a message of the user"):
        user.reply([{"role": "user", "content": "hi"}])
    with pytest.raises(ConfigurationError, match="role"):
        user.reply([{"role": "tool", "content": "42"}])
    with pytest.raises(InvalidAction, match="empty"):
        user.reply([{"role": "user", "content": "hi"}, {"role": "assistant", "content": " "}])


def test_nobody_judges_so_no_judge_is_loaded(monkeypatch):
    def refuse(*_):
        raise AssertionError("the extra 'local' is not needed")

    monkeypatch.setattr("simgym.judges.reward_head.require_extra", refuse)
    assert simgym.user("role_play", model="scripted:hello").open().text == "hello"
