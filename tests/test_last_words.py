"""What a user says when leaving is heard: it is a message, the assistant may answer it, and the judge reads both."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import simgym
from simgym.assistants import AssistantTurn
from simgym.conversation import INTENT_PREFIX, Conversation, Message, Scenario, up_to_answer
from simgym.errors import ConfigurationError
from simgym.evaluation.plan import Plan, keep_plan
from simgym.judges import ChecklistJudge, Judgement, PairwiseJudge
from simgym.language_models import ScriptedLM
from simgym.simulation import Dialogue, Simulation
from simgym.simulators import RolePlay, UserTurn
from simgym.transcripts import Transcript, TranscriptWriter, read_transcripts

SCENARIOS = [Scenario(f"s{number}", f"{INTENT_PREFIX}book a train", opening="hi") for number in range(3)]
WORDS = "Yes, please book the 9:40 train for two people."


class Leaving:
    """A user who leaves at the k-th reply with some words, or without any."""

    def __init__(self, at=1, words=WORDS):
        self.at, self.words = at, words

    def open(self, scenarios, *, seeds):
        return [UserTurn("hi") for _ in scenarios]

    def reply(self, scenarios, conversations, *, seeds):
        heard = [len(conversation.said_by("assistant")) for conversation in conversations]
        return [UserTurn(self.words, ended=True) if n == self.at else UserTurn(f"user {n}") for n in heard]

    def fingerprint(self):
        return {"simulator": "leaving"}


class Reader:
    """A judge who notes what it is shown."""

    def __init__(self):
        self.shown = []

    def judge(self, scenarios, conversations, *, seeds):
        self.shown += conversations
        return [Judgement(0.5) for _ in conversations]

    def fingerprint(self):
        return {"judge": "reader"}


class Polite:
    """An assistant."""

    def respond(self, conversations, *, seeds):
        return [AssistantTurn(f"answer {len(conversation.said_by('assistant')) + 1}") for conversation in conversations]

    def fingerprint(self):
        return {"assistant": "polite"}


def simulate(**options):
    user = options.pop("user", None) or Leaving()
    return Simulation(user, judge=Reader(), scenarios=SCENARIOS, **{"max_turns": 3, **options})


def texts(conversation):
    return [message.content for message in conversation.messages]


@settings(max_examples=60, deadline=None)
@given(
    at=st.integers(1, 4),
    max_turns=st.integers(1, 4),
    answered=st.booleans(),
    words=st.sampled_from([WORDS, "bye", "", "  ", "谢谢", "\n"]),
)
def test_last_words_are_a_message_that_the_judge_reads_and_one_answer_follows_if_wanted(at, max_turns, answered, words):
    simulation = simulate(user=Leaving(at, words), max_turns=max_turns, answer_last_words=answered)
    (transcript,) = simgym.collect(Polite(), simulation, n=1)
    expected = ["hi"]
    for turn in range(1, max_turns + 1):
        expected.append(f"answer {turn}")
        leaves = turn == at and turn < max_turns
        if leaves:
            expected += [words] if words.strip() else []
            expected += [f"answer {turn + 1}"] if words.strip() and answered else []
            break
        expected += [f"user {turn}"] if turn < max_turns else []
    assert texts(transcript.conversation) == expected
    assert transcript.end_reason == ("user_end" if at < max_turns else "turn_limit")
    assert transcript.leaving == (at < max_turns)
    assert simulation.judge.shown == [transcript.conversation]
    assert len(transcript.conversation.said_by("assistant")) <= max_turns
    assert Transcript.from_json(json.loads(json.dumps(transcript.to_json()))) == transcript
    again = Dialogue.from_transcript(transcript)
    assert Dialogue.from_json(json.loads(json.dumps(again.to_json()))) == again


def test_what_a_language_model_says_before_the_end_mark_is_heard():
    said = iter(["hi", f"{WORDS}<|endconversation|>"])
    user = RolePlay(ScriptedLM(lambda request: next(said)))
    (transcript,) = simgym.collect(Polite(), simulate(user=user), n=1)
    assert texts(transcript.conversation) == ["hi", "answer 1", WORDS, "answer 2"]


def test_a_dialogue_whose_user_is_leaving_can_be_forked_and_stored():
    simulation = simulate()
    (dialogue,) = simulation.step(simulation.open([1]), ["answer 1"])
    assert (dialogue.leaving, dialogue.ended) == (True, False)
    stored = Dialogue.from_json(json.loads(json.dumps(dialogue.to_json())))
    assert stored == dialogue
    (first,), (second,) = simulation.step([stored], ["a"]), simulation.step([dialogue], ["b"])
    assert [first.end_reason, second.end_reason] == ["user_end", "user_end"]
    assert (texts(first.conversation)[-1], texts(second.conversation)[-1]) == ("a", "b")


def test_a_failed_last_answer_is_the_assistants_fault():
    simulation = simulate()
    (dialogue,) = simulation.step(simulation.open([1]), ["answer 1"])
    (after,) = simulation.step([dialogue], [AssistantTurn("", "empty")])
    assert (after.end_reason, after.reward) == ("assistant_fault", None)


def test_the_setting_is_in_the_fingerprint_of_runs_that_change_it_and_in_no_other(tmp_path):
    path = tmp_path / "run.jsonl"
    simgym.collect(Polite(), simulate(), path=path)
    assert next(read_transcripts(path)).fingerprints["env"] == {"max_turns": 3}
    with pytest.raises(ConfigurationError, match=r"another env \(different: answer_last_words\)"):
        simgym.collect(Polite(), simulate(answer_last_words=False), path=path)


def test_a_plan_tells_the_two_apart_and_has_no_new_key_by_default(tmp_path):
    plan = Plan(seed=1, max_turns=2, judge={}, assistants={}, simulators={}, scenarios={})
    keep_plan(plan, tmp_path)
    assert "answer_last_words" not in (tmp_path / "plan.json").read_text()
    other = replace(plan, answer_last_words=False)
    assert other.hash != plan.hash
    assert Plan.from_json(other.to_json()) == other
    with pytest.raises(ConfigurationError, match="another answer_last_words"):
        keep_plan(other, tmp_path)


def test_a_file_of_an_earlier_version_whose_last_words_nobody_heard_is_read_and_continued(tmp_path, caplog):
    path = tmp_path / "old.jsonl"
    simulation = simulate(answer_last_words=False)
    (old,) = simgym.collect(Polite(), simulation, n=1)
    unheard = replace(old, conversation=up_to_answer(old.conversation), fingerprints={**old.fingerprints})
    value = unheard.to_json()
    del value["leaving"]
    value["fingerprints"]["env"] = {"max_turns": 3}
    with TranscriptWriter(path) as writer:
        writer.append(Transcript.from_json(value))
    simgym.collect(Polite(), simulate(), n=1, path=path)
    assert not caplog.messages  # nothing is added, so nothing is mixed
    first, second = simgym.collect(Polite(), simulate(), n=2, path=path)
    assert [text.partition(" conversations")[0] for text in caplog.messages] == ["In 1 of the 1"]
    assert (first.user_reply, texts(first.conversation)) == (WORDS, ["hi", "answer 1"])
    assert texts(second.conversation) == ["hi", "answer 1", WORDS, "answer 2"]


TALK = Conversation(
    (Message("user", "hi"), Message("assistant", "the answer"), Message("user", WORDS)),
)


def test_judges_of_an_answer_judge_the_assistants_last_message():
    prompts = []

    def note(request):
        prompts.append(request.messages[-1].content)
        return "no"

    lm = ScriptedLM(note)
    ChecklistJudge(lm, items=["Is it good?"]).judge(SCENARIOS[:1], [TALK], seeds=[0])
    assert WORDS in prompts[0]
    judgements = PairwiseJudge(lm, references={"s0": "ref"}).judge(SCENARIOS[:1], [TALK], seeds=[0])
    assert "no_turns" not in str(judgements[0].fault)
    assert all("the answer" in prompt and WORDS not in prompt for prompt in prompts[1:])
    assert up_to_answer(Conversation((Message("user", "hi"),))) == Conversation()
