from __future__ import annotations

import json

import pytest

from simgym.conversation import END_OF_CONVERSATION, INTENT_PREFIX, Conversation, Scenario
from simgym.errors import ConfigurationError
from simgym.language_models import ScriptedLM, TransformersLM
from simgym.simulators import SHIPPED_ADAPTER, FineTuned, Human, Mixture, Replay, RolePlay, persona
from simgym.simulators.faults import find_fault
from simgym.simulators.role_play import PERSONAS, read_reply

TALK = Conversation().add("user", "hello, can we rest?").add("assistant", "Of course. When?")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("tomorrow, I think", None),
        ("?!", None),
        ("   ", "empty"),
        ("As an AI language model, I cannot rest.", "role_flip"),
        ("Hi! How can I help you today?", "role_flip"),
        ("i’m here to assist", "role_flip"),
        ("Assistant: sure", "role_flip"),
        ("of course, when", "role_flip"),
        ("Hello, can we rest", "repeated"),
        ("I want to rest without spending any money at all this week, please", "intent_copied"),
        ("is that an AI thing? can you help me", None),
    ],
)
def test_invalid_turns_are_detected_and_honest_ones_pass(scenarios, text, fault):
    detected = find_fault(text, scenarios[5], TALK)
    assert detected == fault or (fault is not None and detected.startswith(fault))


@pytest.mark.parametrize(
    ("reply", "text", "ended", "fault"),
    [
        ('{"current_answer": "", "thought": "", "response": "ok then"}', "ok then", False, None),
        ('Sure:\n```json\n{"response": "a\nb"}\n```', "a\nb", False, None),
        (json.dumps({"response": f"bye {END_OF_CONVERSATION} and more"}), "bye", True, None),
        (json.dumps({"response": END_OF_CONVERSATION}), "", True, None),
        ('{"response": 3}', "", False, "unparsable"),
        ('{"answer": "x"}', "", False, "unparsable"),
        ("no json", "", False, "unparsable"),
        ('{"response": "cut o', "", False, "unparsable"),
        ('{"response": "\\ud83d lone"}', "� lone", False, None),
    ],
)
def test_a_role_play_reply_is_read_or_faulted(reply, text, ended, fault):
    turn = read_reply(reply)
    assert (turn.text, turn.ended) == (text, ended)
    assert turn.fault == fault or turn.fault.startswith(fault)


def test_faults_are_retried_a_bounded_number_of_times_and_then_reported(scenarios):
    asked = []

    def rule(request):
        asked.append(request.seed)
        return "As an AI language model I object" if len(asked) < 3 else "fine by me"

    turn = RolePlay(ScriptedLM(rule), max_attempts=3).reply(scenarios[:1], [TALK], seeds=[1])[0]
    assert (turn.text, turn.fault, len(turn.calls)) == ("fine by me", None, 3)
    assert [call.fault is None for call in turn.calls] == [False, False, True]
    assert len(set(asked)) == 3

    stubborn = RolePlay(ScriptedLM("As an AI language model I object"), max_attempts=2)
    turn = stubborn.reply(scenarios[:1], [TALK], seeds=[1])[0]
    assert turn.fault.startswith("role_flip")
    assert (turn.text, len(turn.calls)) == ("", 2)


def test_a_retry_of_one_conversation_leaves_its_neighbours_alone(scenarios):
    def rule(request):
        return "How can I help you?" if "Porto" in request.messages[0].content else f"seed {request.seed}"

    simulator = RolePlay(ScriptedLM(rule))
    together = simulator.open(scenarios[:3], seeds=[1, 2, 3])
    assert together[0].fault.startswith("role_flip")
    assert together[1:] == [simulator.open([scenarios[i]], seeds=[i + 1])[0] for i in (1, 2)]


def test_the_prompt_puts_what_changes_last_and_takes_hostile_text_literally(scenarios):
    hostile = Conversation().add("user", "hi").add("assistant", "$intent {0} ${persona_prompt}")
    prompts = [
        RolePlay(ScriptedLM("ok")).reply(scenarios[:1], [talk], seeds=[1])[0].calls[0].prompt
        for talk in (TALK, hostile)
    ]
    assert "$intent {0} ${persona_prompt}" in prompts[1]
    shared = len(prompts[0]) - len(prompts[0].partition("The chat so far:")[2])
    assert prompts[0][:shared] == prompts[1][:shared]


def test_the_prompt_can_be_replaced_by_a_file(scenarios, tmp_path):
    template = tmp_path / "mine.txt"
    template.write_text("Be $persona_prompt. Want: $intent Said: $history")
    simulator = RolePlay(ScriptedLM("ok"), template=str(template))
    (opened,) = simulator.open(scenarios[:1], seeds=[1])
    assert opened.calls[0].prompt.startswith("user: Be ")
    assert simulator.fingerprint()["prompt_hash"] != RolePlay(ScriptedLM("ok")).fingerprint()["prompt_hash"]
    template.write_text("Be $guideline. Want: $intent Said: $history")
    earlier = RolePlay(ScriptedLM("ok"), template=str(template))
    assert earlier.open(scenarios[:1], seeds=[1]) == [opened]
    assert earlier.fingerprint()["prompt_hash"] == simulator.fingerprint()["prompt_hash"]
    template.write_text("Be $kind")
    with pytest.raises(ConfigurationError, match=r"\$history"):
        RolePlay(ScriptedLM("ok"), template=str(template))
    with pytest.raises(ConfigurationError, match="impatient"):
        RolePlay(ScriptedLM("ok"), persona_prompts=["grumpy"])


def test_the_persona_depends_on_the_persona_seed_alone_and_is_uniform():
    simulator = persona(ScriptedLM("ok"))
    drawn = [
        simulator.persona_of(Scenario(f"x{n}", f"{INTENT_PREFIX}rest", opening="hi", persona_seed=n))
        for n in range(2000)
    ]
    assert drawn[:50] == [
        simulator.persona_of(Scenario(f"other{n}", f"{INTENT_PREFIX}eat", opening="yo", persona_seed=n))
        for n in range(50)
    ]
    assert all(abs(drawn.count(name) - 500) < 80 for name in PERSONAS)


def test_real_openings_are_taken_word_for_word(scenarios):
    turns = persona(ScriptedLM("ok")).open(scenarios, seeds=range(6))
    assert [turn.text for turn in turns] == [scenario.opening for scenario in scenarios]
    with pytest.raises(ConfigurationError, match="has no opening"):
        persona(ScriptedLM("ok")).open([Scenario("x", f"{INTENT_PREFIX}rest")], seeds=[1])


def test_replay_gives_the_recorded_turns_and_then_leaves(scenarios):
    replay, talk = Replay(), Conversation()
    for expected in ("hello, can we rest?", "fine, number 5"):
        assert (replay.reply if talk.messages else replay.open)(
            *([scenarios[5:], [talk]] if talk.messages else [scenarios[5:]]), seeds=[1]
        )[0].text == expected
        talk = talk.add("user", expected).add("assistant", "Well.")
    assert replay.reply(scenarios[5:], [talk], seeds=[1])[0].ended
    with pytest.raises(ConfigurationError, match="no recorded user turns"):
        replay.open([Scenario("x", f"{INTENT_PREFIX}rest", opening="hi")], seeds=[1])


def test_the_fine_tuned_simulator_completes_an_open_user_turn(scenarios, tiny_model, tiny_adapter):
    simulator = FineTuned(TransformersLM(tiny_model), adapter=tiny_adapter, max_new_tokens=12)
    turn = simulator.reply(scenarios[:1], [TALK], seeds=[3])[0]
    prompt = turn.calls[0].prompt
    assert prompt.startswith(f"<|system|>{scenarios[0].intent}<|end|><|user|>")
    assert prompt.endswith("<|user|>")
    plain = FineTuned(TransformersLM(tiny_model), max_new_tokens=12).reply(scenarios[:1], [TALK], seeds=[3])[0]
    assert plain.text != turn.text


def test_the_fine_tuned_simulator_warms_up_when_it_repeats_itself(scenarios):
    temperatures = []

    def rule(request):
        temperatures.append(round(request.sampling.temperature, 2))
        return "hello, can we rest?" if len(temperatures) < 4 else f"at last{END_OF_CONVERSATION}"

    turn = FineTuned(ScriptedLM(rule)).reply(scenarios[:1], [TALK], seeds=[1])[0]
    assert temperatures == [0.7, 0.75, 0.8, 0.85]
    assert (turn.text, turn.ended) == ("at last", True)


def test_a_mixture_draws_by_persona_seed_and_keeps_the_order(scenarios):
    mixture = Mixture(components=[Replay(), RolePlay(ScriptedLM("made up"), opening="simulated")], weights=[1, 3])
    turns = mixture.open(scenarios, seeds=range(6))
    for scenario, turn in zip(scenarios, turns, strict=True):
        assert turn.text == (scenario.opening if mixture.drawn(scenario) == 0 else "made up")
    drawn = [mixture.drawn(Scenario("x", f"{INTENT_PREFIX}y", persona_seed=n)) for n in range(1000)]
    assert 680 < sum(drawn) < 820
    with pytest.raises(ConfigurationError, match="weights"):
        Mixture(components=[Replay()], weights=[1, 2])


def test_a_person_may_play_the_user_and_leave(scenarios):
    lines, shown = iter(["", "hello", "/end"]), []
    human = Human(ask=lambda prompt: next(lines), tell=shown.append)
    assert human.open(scenarios[:1], seeds=[1])[0].text == "hello"
    assert human.reply(scenarios[:1], [TALK], seeds=[1])[0].ended
    assert shown[-1] == "assistant: Of course. When?"


@pytest.mark.parametrize(
    "model",
    [
        None,
        "smollm2-135m-instruct",
        {"kind": "transformers", "model": "smollm2-135m-instruct", "dtype": "bfloat16-mixed"},
        {"model": "smollm2-135m-instruct"},
        {"kind": "cached", "model": {"model": "smollm2-135m-instruct"}, "path": "x"},
        TransformersLM("smollm2-135m-instruct"),
    ],
)
def test_the_default_model_gets_the_shipped_adapter_however_it_is_given(model):
    assert FineTuned(model).adapter == str(SHIPPED_ADAPTER)
    assert FineTuned(model, adapter=None).adapter is None
    assert FineTuned(model, adapter="mine").adapter == "mine"


def test_any_other_model_gets_no_adapter_that_nobody_asked_for(tiny_model):
    for model in (tiny_model, {"kind": "openai", "model": "smollm2-135m-instruct"}, TransformersLM(tiny_model)):
        assert FineTuned(model).adapter is None
