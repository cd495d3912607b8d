"""Intents made by rule: the topic of an opening, or the log's own description."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from simgym.conversation import INTENT_PREFIX, Conversation, Message
from simgym.data import LoggedConversation, StepOutput, read_logged, topic_intent, write_topics
from simgym.data.intents import LONGEST_INTENT
from simgym.data.openings import unusable_intent

TALK = LoggedConversation(
    id="talk",
    user_key="u",
    country="",
    language="English",
    conversation=Conversation(
        (
            Message("user", "I'm trying to decide where to get the PS5 for the best price, a ps5!"),
            Message("assistant", "Shops differ."),
            Message("user", "Which ones have refurbished consoles?"),
        )
    ),
)


def test_an_intent_names_the_openings_key_words_once_and_nothing_of_later_turns():
    assert topic_intent(TALK.conversation.messages[0].content) == (
        f"{INTENT_PREFIX}get help with this topic: trying, decide, ps5, best, price"
    )


def test_a_greeting_has_no_topic():
    assert topic_intent("Hi, how are you?") == f"{INTENT_PREFIX}talk about whatever comes up"


@given(st.text())
def test_any_opening_gives_an_intent_that_a_scenario_can_have(opening):
    intent = topic_intent(opening)
    assert unusable_intent(intent) is None
    assert len(intent) <= LONGEST_INTENT


def test_the_step_keeps_descriptions_and_intents_and_lists_what_cannot_be_learned_from(tmp_path):
    described = replace(TALK, id="described", intent="The user wants\na console.")
    written = replace(TALK, id="written", intent=f"{INTENT_PREFIX}buy a console")
    broken = replace(TALK, id="broken", conversation=Conversation((Message("assistant", "Hello"),)))
    with StepOutput(tmp_path / "topics.jsonl") as step:
        write_topics([TALK, described, written, broken], step)
    intents = {logged.id: logged.intent for logged in read_logged(tmp_path / "topics.jsonl")}
    assert intents == {
        "talk": topic_intent(TALK.conversation.messages[0].content),
        "described": f"{INTENT_PREFIX}get what this describes: The user wants a console.",
        "written": f"{INTENT_PREFIX}buy a console",
    }
    assert dict(step.summary().skipped) == {"does not begin with the user": 1}
    assert step.summary().details == {"intents_from_openings": 1, "intents_from_descriptions": 2}
