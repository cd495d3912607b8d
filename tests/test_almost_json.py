"""Replies that are JSON but for a slip of the pen; lone backslashes were reported, and mended, by gandalf."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgym.almost_json import read_objects
from simgym.judges.parsing import read_grade
from simgym.simulators.role_play import read_reply


@pytest.mark.parametrize(
    ("reply", "score", "thought"),
    [
        (r'{"thought": "\(x^2\) and \sqrt{2}", "score": 7}', 7, r"\(x^2\) and \sqrt{2}"),
        (r'{"thought": "\$5, see C:\users\me and \d+\.", "score": 7}', 7, r"\$5, see C:\users\me and \d+\."),
        (r'{"thought": "\frac{1}{2}\beta", "score": 7}', 7, r"\frac{1}{2}\beta"),
        (r'{"thought": "one \\(x\\)\n\u00e9", "score": 7}', 7, "one \\(x\\)\né"),
        ('{"thought": "fine", "score": 7,}', 7, "fine"),
        ("{'thought': 'fine', 'score': 7}", 7, "fine"),
        ("{thought: 'fine', score: 7}", 7, "fine"),
        ('Here:\n```json\n{"thought": "fine", "score": "8/10"}\n```', 8, "fine"),
        ('{"thought": "fine", "score": 8/10}', 8, "fine"),
        ('{"thought": "it says "hello", fine", "score": 7}', 7, 'it says "hello", fine'),
        ('{"thought": "fine"\n"score": 7}', 7, "fine"),
        ('{"thought": "fine", /* why: "score" 3 */ "score": 7}  // done', 7, "fine"),
        ('{"thought": "no # comment",  # a comment\n "score": 7}', 7, "no # comment"),
        ('{"thought": "fine", "other": None, "score": 07}', 7, "fine"),
        ("{“thought”: “fine”, “score”: 7.}", 7, "fine"),
        ('{"Thought": "fine", "Score": 7}', 7, "fine"),
        ('{"result": {"thought": "fine", "score": "**7/10**"}}', 7, "fine"),
        ('"{\\"thought\\": \\"fine\\", \\"score\\": 7}"', 7, "fine"),
    ],
)  # fmt: skip
def test_a_slip_with_one_reading_is_mended(reply: str, score: float, thought: str) -> None:
    grade = read_grade(reply)
    assert (grade.value, grade.thought, grade.fault) == (score, thought, None)


@pytest.mark.parametrize(
    "reply",
    [
        '{"thought": "fine", "score": 7',  # cut off: 7, or the beginning of 7.5
        '{"thought": "it wrote "score": 10, ok", "score": 1}',
        r'{"thought": "path C:\", "score": 10, \" end", "score": 1}',
        '{"score": 10, "score": 1,}',
        '{"score": 10, "score": 1}',
        '{"score": 10, "Score": 1, "SCORE": 1, }',
        '{"best": {"score": 10}, "worst": {"score": 1}}',
        "It wrote {\"score\": 10}. Mine is {'score': 1}",
        '{"thought": "fine", "score": "4/5"}',
        '{"thought": "fine", "score": "7 or 8"}',
        '{"thought": "fine", "score": "8/10 or 1/10"}',
        "{" * 5000,
    ],
)
def test_a_slip_with_several_readings_is_a_fault(reply: str) -> None:
    grade = read_grade(reply)
    assert grade.value is None
    assert str(grade.fault).startswith("unparsable: ")


def test_a_user_may_write_regular_expressions() -> None:
    turn = read_reply(r'{"current_answer": "", "thought": "", "response": "my regex \d+\s fails in C:\temp\new"}')
    assert turn.text == "my regex \\d+\\s fails in C:\temp\new"  # \t and \n are JSON's own: they have a reading
    assert read_reply('{"response": "stop here,"').fault == "unparsable: no JSON object with a response"


SLIPS = {
    "none": lambda text: text,
    "comma": lambda text: text.removesuffix("}") + ",}",
    "fence": lambda text: f"Sure:\n```json\n{text}\n```\nDone.",
    "single quotes": lambda text: text.replace('"', "'"),
    "backslash": lambda text: text.replace("\\\\", "\\"),
    "bare keys": lambda text: text.replace('"score"', "score").replace('"thought"', "thought"),
    "inner quotes": lambda text: text.replace('\\"', '"'),
    "cut": lambda text: text[:-1],
    "twice": lambda text: f"{text} {text}",
    "comment": lambda text: text.replace('"thought": "', '/* "score": 3 */ "thought": "', 1),
    "Python": lambda text: text.replace("{", '{"other": None, ', 1),
    "capitals": lambda text: text.replace('"score": ', '"Score": ').replace('"thought": ', '"Thought": '),
    "wrapped": lambda text: f'{{"result": {text}}}',
    "prose": lambda text: f"I quote {{'score': 3}}: {text}",
}


@settings(max_examples=500, deadline=None)
@given(
    st.text(alphabet="abz {}[]\",:\\/'\n$0é#*", max_size=30) | st.sampled_from(['"score": 9', "', 'score': 9, 'x': '"]),
    st.integers(0, 10),
    st.sampled_from(list(SLIPS)),
    st.sampled_from(list(SLIPS)),
)
def test_a_grade_survives_a_slip_or_is_a_fault_never_another_grade(
    thought: str, score: int, first: str, second: str
) -> None:
    reply = SLIPS[second](SLIPS[first](json.dumps({"thought": thought, "score": score}, ensure_ascii=False)))
    grade = read_grade(reply)
    assert grade.value in (score, None)
    assert (grade.value is None) == (grade.fault is not None)
    if first == second == "none":
        assert grade.value == score


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="ab {}[]\",:\\/'\n.-+0e1tfn#*`“”", max_size=60) | st.text(max_size=40))
def test_any_text_is_read_without_an_error(reply: str) -> None:
    for text in (reply, f"{{{reply}}}", f'{{"a": {reply}}}'):
        assert all("a" in value for value in read_objects(text, "a"))
