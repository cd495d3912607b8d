"""Texts that people wrote in some editor: a mark is skipped, and another encoding is a sentence, never other words."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgym.assistants.language_model_assistant import read_prompt
from simgym.conversation import Conversation
from simgym.data.logged import unusable
from simgym.data.rows import read_rows
from simgym.data.splits import wildbench_ids
from simgym.errors import MalformedFile
from simgym.evaluation import ExperimentConfig
from simgym.judges.rubrics import load_rubric
from simgym.language_models import ScriptedLM
from simgym.simulators import RolePlay
from simgym.study import load_study
from simgym.text_files import read_text
from simgym.yaml_files import read_yaml

GERMAN, CHINESE = "Sei höflich.", "请礼貌。"
READERS = {
    "assistant's prompt": lambda path: read_prompt(str(path)),
    "simulator's template": lambda path: RolePlay(ScriptedLM(lambda _: ""), template=str(path)).template,
    "rubric": lambda path: load_rubric(str(path), needed=()),
    "list of ids": lambda path: wildbench_ids(str(path)),
    "YAML": read_yaml,
    "study": load_study,
    "experiment": ExperimentConfig.from_yaml,
}


@pytest.mark.parametrize(
    ("text", "encoding", "sentence"),
    [
        (GERMAN, "latin-1", r"x.txt, line 2: not UTF-8 .byte 0xf6.; it may be Latin-1.*Save the file as UTF-8"),
        (CHINESE, "gb18030", "GBK or Shift-JIS. Save"),
        (CHINESE, "shift_jis", "GBK or Shift-JIS. Save"),
        (GERMAN, "utf-16", "looks like UTF-16, expected UTF-8"),
        (GERMAN, "utf-16-le", "looks like UTF-16, expected UTF-8"),
        (GERMAN, "utf-32", "looks like UTF-32, expected UTF-8"),
    ],
)
@pytest.mark.parametrize("reader", READERS)
def test_another_encoding_is_a_sentence(tmp_path, reader, text, encoding, sentence):
    path = tmp_path / "x.txt"
    path.write_bytes(f"\n{text.replace('请', '') if encoding == 'shift_jis' else text}".encode(encoding))
    with pytest.raises(MalformedFile, match=sentence):
        READERS[reader](path)


def test_a_byte_order_mark_is_in_no_prompt(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(f"\ufeff{GERMAN}\r\nUnd kurz.".encode())
    assert read_prompt(str(path)) == f"{GERMAN}\nUnd kurz."
    assert RolePlay(ScriptedLM(lambda _: ""), template=str(path)).template == f"{GERMAN}\nUnd kurz."


@given(st.binary(max_size=30))
def test_any_bytes_are_text_or_a_sentence(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "x.txt"
    path.write_bytes(data)
    with contextlib.suppress(MalformedFile):
        assert not read_text(path).startswith("\ufeff")


@pytest.mark.parametrize(("encoding", "reason"), [("utf-8", None), ("gb18030", "not UTF-8"), ("latin-1", "not UTF-8")])
def test_a_log_in_another_encoding_is_left_out_for_that_reason(tmp_path, encoding, reason):
    path, said = tmp_path / "x.jsonl", GERMAN if encoding == "latin-1" else CHINESE
    path.write_bytes(json.dumps({"said": said}, ensure_ascii=False).encode(encoding))
    ((_, row),) = read_rows(str(path))
    assert unusable(Conversation().add("user", row["said"]).add("assistant", "ok")) == reason
    assert unusable(Conversation().add("user", "\ud83d")) == "lone surrogates"
