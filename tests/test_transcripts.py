from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgym.conversation import INTENT_PREFIX, Conversation, Message, Scenario, read_scenarios
from simgym.errors import ConfigurationError, MalformedFile
from simgym.transcripts import ModelCall, Transcript, TranscriptWriter, read_transcripts

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30)


def made(text="hi", seed=1, reward=0.5):
    return Transcript(
        env_id="UserSim-Replay-v0",
        scenario=Scenario("s", f"{INTENT_PREFIX}rest", opening="hi", history=(Message("user", text),)),
        seed=seed,
        conversation=Conversation().add("user", text).add("assistant", text),
        end_reason="turn_limit" if reward is not None else "judge_fault",
        reward=reward,
        fault=None if reward is not None else "unparsable: x",
        calls=(
            ModelCall(role="assistant", turn=0, seed=3, prompt=text, output=text, prompt_tokens=4, completion_tokens=5),
        ),
        fingerprints={"judge": {"judge": "x"}},
    )


@given(texts, st.one_of(st.none(), st.floats(0, 1)))
def test_a_transcript_survives_json_whatever_was_said(text, reward):
    transcript = made(text, reward=reward)
    assert Transcript.from_json(json.loads(json.dumps(transcript.to_json(), allow_nan=False))) == transcript


def test_a_judge_that_failed_is_null_with_a_fault_in_the_file(tmp_path):
    with TranscriptWriter(tmp_path / "t.jsonl") as writer:
        writer.append(made(reward=None))
    value = json.loads((tmp_path / "t.jsonl").read_text())
    assert (value["reward"], value["fault"]) == (None, "unparsable: x")


def test_line_separators_inside_a_message_do_not_split_a_line(tmp_path):
    text = "a\u2028b\u2029c\x85d\ne"
    with TranscriptWriter(tmp_path / "t.jsonl") as writer:
        writer.append(made(text))
    assert next(read_transcripts(tmp_path / "t.jsonl")).conversation.messages[0].content == text


def test_a_torn_last_line_is_skipped_and_cut_off_before_appending(tmp_path):
    path = tmp_path / "t.jsonl"
    with TranscriptWriter(path) as writer:
        writer.append(made(seed=1))
    with path.open("ab") as file:
        file.write(b'{"schema_version": 1, "scen' + b"x" * 10_000)
    assert len(list(read_transcripts(path))) == 1
    with TranscriptWriter(path) as writer:
        assert writer.written == {("s", 1)}
        writer.append(made(seed=2))
    assert [transcript.seed for transcript in read_transcripts(path)] == [1, 2]


def test_a_bad_line_in_the_middle_or_another_version_is_named(tmp_path):
    path = tmp_path / "t.jsonl"
    line = json.dumps(made().to_json())
    path.write_text(f"{line}\nnot json\n{line}\n")
    with pytest.raises(MalformedFile, match="line 2"):
        list(read_transcripts(path))
    path.write_text(json.dumps({**made().to_json(), "schema_version": 99}) + "\n")
    with pytest.raises(MalformedFile, match=r"line 1.*schema_version is 99"):
        list(read_transcripts(path))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2"),
        ("[]", "line 2.*expected a JSON object|line 2"),
        ('{"id": "x"}', "lacks the key 'intent'"),
        ('{"id": "x", "intent": "be happy"}', "starts with"),
        ('{"id": "a", "intent": "INTENT"}', "was used on line 1"),
        ('{"id": "x", "intent": "INTENT", "openin": "hi"}', "unknown keys"),
        ('{"id": "x", "intent": "INTENT", "opening": " "}', "opening of scenario 'x' is empty"),
        ('{"id": "x", "intent": "INTENT", "history": [{"role": "bot", "content": ""}]}', "role is 'bot'"),
    ],
)
def test_a_malformed_scenario_line_is_named_with_its_number(tmp_path, line, words):
    intent = f"{INTENT_PREFIX}rest"
    path = tmp_path / "s.jsonl"
    path.write_text("\n".join([json.dumps({"id": "a", "intent": intent}), line.replace("INTENT", intent)]))
    with pytest.raises(MalformedFile, match=words):
        read_scenarios(path)


def test_a_missing_or_empty_scenario_file_is_a_sentence(tmp_path):
    with pytest.raises(ConfigurationError, match="no scenario file"):
        read_scenarios(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(ConfigurationError, match="is empty"):
        read_scenarios(tmp_path / "empty.jsonl")


def test_a_transcript_of_an_earlier_version_is_read_and_written_back_as_it_was():
    path = Path(__file__).parent / "earlier_files" / "transcripts.jsonl"
    (transcript,) = read_transcripts(path)
    assert (transcript.reward, transcript.components) == (0.5, (0.25, 0.75))
    assert transcript.to_json() == json.loads(path.read_text())
