from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgym import jsonl
from simgym.conversation import INTENT_PREFIX, Conversation, Scenario, read_scenarios
from simgym.data.logged import LoggedConversation, read_logged
from simgym.errors import MalformedFile
from simgym.evaluation import read_pairs
from simgym.jsonl import read_json, read_jsonl
from simgym.transcripts import Transcript, read_transcripts

SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r"
texts = st.text(st.one_of(st.sampled_from(SEPARATORS), st.characters(exclude_categories=["Cs"])), max_size=20)


@given(st.lists(texts, max_size=8))
def test_a_text_comes_back_whatever_python_takes_for_the_end_of_a_line(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    path.write_bytes("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode())
    assert [value for _, value in read_jsonl(path)] == values


def test_every_file_of_lines_keeps_texts_with_any_separator(tmp_path):
    text, path = f"a{SEPARATORS}b", tmp_path / "x.jsonl"
    talk = Conversation().add("user", text).add("assistant", text)

    def written(value):
        path.write_bytes(f"{json.dumps(value, ensure_ascii=False)}\n".encode())
        return path

    scenario = Scenario("s", f"{INTENT_PREFIX}rest", opening=text)
    assert [read.opening for read in read_scenarios(written(scenario.to_json()))] == [text]
    transcript = Transcript(
        env_id="x", scenario=scenario, seed=1, conversation=talk, end_reason="turn_limit", reward=0.5, fingerprints={}
    )
    assert [read.conversation for read in read_transcripts(written(transcript.to_json()))] == [talk]
    logged = LoggedConversation(id="h", user_key="k", country="c", language="English", conversation=talk, intent=text)
    assert [read.intent for read in read_logged(written(logged.to_json()))] == [text]
    pair = {"instruction": text, "chosen": "b", "rejected": "c"}
    assert [read.instruction for read in read_pairs(written(pair))] == [text]


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes('\ufeff{"a": "é"}\n'.encode())
    assert list(read_jsonl(path)) == [(1, {"a": "é"})]
    assert read_json(path) == {"a": "é"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"a": 1}\n'.encode("utf-16"), "looks like UTF-16"),
        ('{"a": 1}\n'.encode("utf-16-le"), "looks like UTF-16"),
        ('{"a": 1}\n'.encode("utf-32"), "looks like UTF-32"),
        ('{"a": 1}\n{"a": "é"}\n'.encode("latin-1"), "line 2: not UTF-8 .* Latin-1.*GBK"),
        (b"\x1f\x8b\x08rest", "compressed .gzip"),
        (b'{"a": NaN}\n', "line 1: not JSON .NaN is no JSON number"),
        (b'{"a": 1e999}\n', "beyond the range"),
        (b'{"a": 1}\n\n{"a"\n', "line 3: not JSON"),
        (b"[" * 100_000 + b"\n", "nested too deeply"),
    ],
)
def test_what_is_no_jsonl_is_told_with_file_and_line(tmp_path, content, sentence):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(MalformedFile, match=sentence):
        list(read_jsonl(path))


def test_a_line_without_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "LONGEST_LINE", 2**20)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'"' + b"a" * 2**21 + b'"\n')
    with pytest.raises(MalformedFile, match="line 1: longer than 1 MiB"):
        list(read_jsonl(path))


def test_a_torn_last_line_is_skipped_only_where_a_writer_may_have_been_killed(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"1\n2")
    assert [value for _, value in read_jsonl(path)] == [1, 2]
    assert [value for _, value in read_jsonl(path, torn="skip")] == [1]
