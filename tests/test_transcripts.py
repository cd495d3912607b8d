from __future__ import annotations

import gc
import json
import os
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgym.conversation import INTENT_PREFIX, Conversation, Message, Scenario, read_scenarios
from simgym.errors import ConfigurationError, MalformedFile
from simgym.transcripts import ModelCall, StoredTranscripts, Transcript, TranscriptWriter, outcomes, read_transcripts

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


def test_of_stored_conversations_only_what_became_of_them_stays_in_memory(tmp_path):
    path = tmp_path / "t.jsonl"
    line = json.dumps(made("x" * 10_000).to_json())
    path.write_text("".join(line.replace('"seed": 1,', f'"seed": {seed},', 1) + "\n" for seed in range(300)))
    list(StoredTranscripts(path))  # what is kept from the first call on, such as the types of fields, is no growth
    tracemalloc.start()
    stored = StoredTranscripts(path)
    seeds = [transcript.seed for transcript in stored]
    gc.collect()
    left, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seeds == [outcome.seed for outcome in stored.outcomes] == list(range(300))
    assert left < 300 * 300
    assert peak < 2**20 < path.stat().st_size


def test_stored_conversations_are_a_sequence_of_the_transcripts_in_the_file(tmp_path):
    path = tmp_path / "t.jsonl"
    expected = [made(f"said {seed} \u2028", seed, reward=None if seed == 3 else seed / 10) for seed in range(5)]
    with TranscriptWriter(path) as writer:
        for transcript in [replace(expected[2], end_reason="assistant_fault"), *expected]:
            writer.append(transcript)
    path.write_bytes("\ufeff".encode() + path.read_bytes() + b'{"torn')
    stored = StoredTranscripts(path)
    assert [outcome.seed for outcome in stored.outcomes] == [2, 0, 1, 3, 4]
    ordered = stored.select([1, 2, 0, 3, 4])
    assert ordered == expected
    assert (ordered[-1], list(ordered[1:3])) == (expected[4], expected[1:3])
    assert list(outcomes(ordered)) == list(outcomes(expected))
    with pytest.raises(IndexError):
        stored[5]
    path.write_bytes(path.read_bytes().replace(b'"seed": 4', b'"seed": 5'))
    with pytest.raises(MalformedFile, match="written anew"):
        list(stored)


def test_transcripts_are_read_from_a_pipe(tmp_path):
    with TranscriptWriter(tmp_path / "t.jsonl") as writer:
        writer.append(made())
    os.mkfifo(tmp_path / "pipe")
    copying = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes((tmp_path / "t.jsonl").read_bytes()))
    copying.start()
    assert list(read_transcripts(tmp_path / "pipe")) == [made()]
    copying.join()
