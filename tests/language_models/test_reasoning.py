"""Thoughts are told from what is said, for every family of models and every seat.

Public sources of these faults: vllm#13375 and #19839 (thoughts in the content), verl#6854, ms-swift#4390 (thoughts in
the history), langwatch#7665 (a simulator's thoughts reached the agent), vmlx-swift#254 (gpt-oss's channels).
"""

from __future__ import annotations

import json
import re
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgym.conversation import INTENT_PREFIX, Message, Scenario
from simgym.envs import simulation_of
from simgym.faults import Fault, FaultKind
from simgym.language_models import ScriptedLM
from simgym.language_models.base import Generation, Request, SamplingParams
from simgym.language_models.thoughts import without_reasoning
from simgym.reasoning import _MARKS, has_marks, split_reasoning

HARMONY = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>"
NAMES = (
    "think",
    "Think",
    "thinking",
    "thought",
    "reasoning",
    "seed:think",
    "longcat_think",
    "antThinking",
    "scratchpad",
)
BLOCKS = [*_MARKS.items(), *((f"<{name}>", f"</{name}>") for name in NAMES)]
UNSEEN = [pair for pair in BLOCKS if pair[0] != "<|think|>"]  # Solar's end is one of turns, too
words = st.text(alphabet="abc <>{}\"'\n|think/[]", max_size=40).filter(lambda text: "<" not in text or ">" not in text)


@pytest.mark.parametrize(("opening", "closing"), BLOCKS)
@given(thought=words, reply=words)
def test_what_stands_in_the_block_is_not_said(opening: str, closing: str, thought: str, reply: str) -> None:
    cases: list[tuple[str, str | None]] = [
        (f"{opening}\n{thought}\n{closing}\n\n{reply}", ""),
        (f"{thought}\n{closing}\n\n{reply}", f"<|im_start|>assistant\n{opening}\n"),  # the template opens it
    ]
    if (opening, closing) in UNSEEN:  # so did the server's, and we were not told
        cases += [(f"{thought}\n{closing}\n\n{reply}", None), (f"{thought}.{closing}{reply}", None)]
    for text, prompt in cases:
        spoken = split_reasoning(text, prompt=prompt)
        assert spoken.text == reply.lstrip()
        assert spoken.reasoning.rstrip(". \n") == thought.strip().rstrip(". \n")
        assert not spoken.unfinished


@pytest.mark.parametrize(("opening", "closing"), BLOCKS)
@given(thought=words, length=st.integers(0, 60))
def test_a_block_that_is_cut_says_nothing(opening: str, closing: str, thought: str, length: int) -> None:
    text = f"{opening}{thought}"[: len(opening) + length]
    assert split_reasoning(text).text == ""
    assert split_reasoning(text).unfinished
    assert split_reasoning(thought, prompt=f"...{opening}\n").unfinished


@pytest.mark.parametrize(
    "text",
    [
        "How do I parse <think> tags? Mine read <think>like this</think> and I lose them.",
        "The channel is <|message|> free.",
        "Why do my logs hold </think> without a beginning?",
    ],
)
def test_a_mark_that_is_quoted_later_on_is_part_of_what_is_said(text: str) -> None:
    assert split_reasoning(text).text == text
    assert without_reasoning(Generation(text)).text == text


@pytest.mark.parametrize(
    "text",
    [
        "<think>hm</think>\n<answer>\nHi\n</answer>\n",  # Hunyuan
        "<think>\nhm\n</think>\n<response>\nHi",  # ERNIE; the end cut off
        "<Thought>hm</Thought>\n<Output>Hi</Output>",  # Marco-o1
        "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>Hi<|END_RESPONSE|>",  # Command A
        "<|begin_of_thought|>hm<|end_of_thought|>\n\n<|begin_of_solution|>Hi<|end_of_solution|>",  # Sky-T1
        "<|think|>hm<|end|><|begin|>assistant<|content|>Hi",  # Solar Open
        "Here is my thought process: hm\nHere is my response: Hi",  # Granite 3.2
        "analysishmassistantfinalHi",  # gpt-oss behind a decoder that drops control tokens
    ],
)
def test_the_frame_round_a_reply_is_no_part_of_it(text: str) -> None:
    spoken = split_reasoning(text)
    assert has_marks(text)
    assert (spoken.text, spoken.reasoning) == ("Hi", "hm")
    assert split_reasoning("<answer>Hi</answer>").text == "<answer>Hi</answer>"  # of one who did not think


def test_several_blocks_and_the_channels_of_gpt_oss() -> None:
    spoken = split_reasoning("<think>one</think>\n<think>two</think>\nHello <think>")
    assert (spoken.text, spoken.reasoning) == ("Hello <think>", "one\n\ntwo")
    spoken = split_reasoning(HARMONY.format("They want a cake.", "Which one?"), prompt="<|start|>assistant")
    assert (spoken.text, spoken.reasoning) == ("Which one?", "They want a cake.")
    cut = split_reasoning("<|channel|>analysis<|message|>They want", prompt="<|start|>assistant")
    assert (cut.text, cut.reasoning, cut.unfinished) == ("", "They want", True)


@pytest.mark.parametrize(
    "raw", ["<think>\n\n</think>\n\nHello<|im_end|>", "<|channel|>final<|message|>Hello<|return|>"]
)
def test_an_empty_block_is_not_spoken(raw: str) -> None:
    """Qwen3 with /no_think; gpt-oss that answers at once."""
    marks = ("<|im_end|>", "<|channel|>", "<|message|>", "<|return|>")

    def clean(text: str) -> str:
        return re.sub("|".join(map(re.escape, marks)), "", text)

    assert without_reasoning(Generation(clean(raw)), raw=raw, clean=clean).text == "Hello"


def test_a_reply_of_control_tokens_behind_thoughts_is_no_reply() -> None:
    raw = "<think>hm</think>\n<|im_end|>"
    told = without_reasoning(Generation("hm"), raw=raw, clean=lambda text: text.replace("<|im_end|>", ""))
    assert told.fault is not None
    assert Fault.parse(told.fault).kind is FaultKind.THOUGHTS_ONLY


def test_a_prompt_that_is_known_to_open_nothing_leaves_a_lone_mark_alone() -> None:
    text = "Add this line:\n</think>\nto the template."
    assert without_reasoning(Generation(text, prompt="<|im_start|>assistant\n")).text == text
    assert without_reasoning(Generation(text), prompt_known=False).text == "to the template."


@pytest.mark.parametrize(
    ("generation", "kind"),
    [
        (Generation("<think>hm</think>"), FaultKind.THOUGHTS_ONLY),
        (Generation("<think>hm", finish_reason="length"), FaultKind.CUT_WHILE_THINKING),
        (Generation("", finish_reason="length", reasoning="hm"), FaultKind.CUT_WHILE_THINKING),
        (Generation("the user is", prompt="assistant\n<think>\n"), FaultKind.THOUGHTS_ONLY),
    ],
)
def test_a_reply_of_thoughts_alone_is_a_fault_with_a_name(generation: Generation, kind: FaultKind) -> None:
    told = without_reasoning(generation)
    assert told.fault is not None
    assert Fault.parse(told.fault).kind is kind
    assert (told.text, told.finish_reason) == ("", "fault")


SECRET = "THEY MUST NOT KNOW"
THINKING = f'<think>\n{SECRET} {{"response": "DRAFT", "score": 1}}\n</think>\n\n'


def test_no_seat_hears_what_another_one_thinks() -> None:
    heard: list[str] = []

    def thinking(*replies: str) -> ScriptedLM:
        left = list(replies)

        def rule(request: Request) -> str:
            heard.extend(message.content for message in request.messages)
            return THINKING + (left.pop(0) if len(left) > 1 else left[0])

        return ScriptedLM(rule)

    import gymnasium

    scenario = Scenario("s", f"{INTENT_PREFIX}order a cake")
    environment = gymnasium.make(
        "UserSim-RolePlay-v0",
        scenarios=[scenario],
        model=Unconstrained(thinking('{"response": "A cake, please."}', '{"response": "Chocolate."}')),
        judge="rubric",
        judge_options={"model": Unconstrained(thinking('{"thought": "fine", "score": 7}'))},
        max_turns=2,
    )
    simulation = simulation_of(environment)
    from simgym.assistants import LanguageModelAssistant

    assistant = LanguageModelAssistant(thinking("Which cake?"))
    (dialogue,) = simulation.open([1], ["s"])
    while not dialogue.ended:
        turns = assistant.respond([dialogue.conversation], seeds=[dialogue.seed])
        (dialogue,) = simulation.step([dialogue], turns)
    said = [message.content for message in dialogue.conversation.messages]
    assert said == ["A cake, please.", "Which cake?", "Chocolate.", "Which cake?"]
    assert dialogue.reward == pytest.approx(0.7)
    assert not any(SECRET in text for text in heard)
    assert {call.role for call in dialogue.calls if SECRET in call.reasoning} == {"assistant", "user", "judge"}
    assert not any(SECRET in call.output for call in dialogue.calls)
    assert SECRET in json.dumps(dialogue.to_json())  # the transcript keeps it


class Unconstrained(ScriptedLM):
    """A model that is not held to a JSON schema, as behind many servers."""

    def __init__(self, inner: ScriptedLM) -> None:
        self.rule = inner.rule

    def generate(self, requests):  # type: ignore[no-untyped-def]
        from dataclasses import replace

        return super().generate([replace(request, json_schema=None) for request in requests])


def test_a_user_that_only_thinks_is_asked_again() -> None:
    from simgym.simulators import RolePlay

    seen: list[int] = []

    def rule(request: Request) -> str:
        seen.append(request.seed)
        return "<think>hm</think>" if len(seen) == 1 else THINKING + '{"response": "Chocolate."}'

    simulator = RolePlay(Unconstrained(ScriptedLM(rule)), opening="simulated")
    scenario = Scenario("s", f"{INTENT_PREFIX}order a cake")
    (turn,) = simulator.open([scenario], seeds=[3])
    assert turn.text == "Chocolate."
    assert len(set(seen)) == 2
    assert [call.fault and Fault.parse(call.fault).kind for call in turn.calls] == [FaultKind.THOUGHTS_ONLY, None]


QWEN3 = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
OPENED = QWEN3.replace("<|assistant|>", "<|assistant|><think>\n", 1)


@pytest.mark.parametrize("keeps_tokens", [False, True])
@pytest.mark.parametrize(("template", "written"), [(QWEN3, "<think>hm</think>\nHello"), (OPENED, "hm</think>\nHello")])
def test_a_local_model_is_read_by_its_template(
    tiny_model: str, template: str, written: str, keeps_tokens: bool
) -> None:
    from simgym.engine import Completion
    from simgym.language_models import TransformersLM

    model = TransformersLM(tiny_model, chat_template=template)
    loaded = model._ready()
    kept = ("<|end|>",) if keeps_tokens else ()
    request = Request((Message("user", "How do I close <think>?"),), SamplingParams(), kept_tokens=kept)
    prompt = loaded.chat.prompt(request)

    def generation(text: str, finish_reason: Literal["stop", "length"]) -> Generation:
        token_ids = tuple(loaded.chat.encode(text))
        completion = Completion(
            token_ids=token_ids, logprobs=(0.0,) * len(token_ids), choice_logprobs=(), finish_reason=finish_reason,
            error=None,
        )  # fmt: skip
        return loaded.generation(request, prompt, loaded.sequence(request, loaded.chat.encode(prompt)), completion)

    said = generation(written, "stop")
    assert (said.text, said.reasoning, said.fault) == ("Hello", "hm", None)
    assert len(said.token_ids) == len(loaded.chat.encode(written))  # as sampled
    cut = generation(written.partition("</think>")[0], "length")
    assert cut.fault is not None
    assert cut.fault.startswith("cut_while_thinking: ")
    off = TransformersLM(tiny_model, chat_template=template, chat_template_kwargs={"enable_thinking": False})
    assert off.prompt_text(request).endswith("</think>\n\n")
    assert off.fingerprint() != model.fingerprint()
