"""Terminals that cannot print or type a character: it is replaced, in every verb, and nothing ends in a traceback.

Source of the kind: PYTHONIOENCODING=cp1252, ascii or gbk, as consoles of Windows have it, and logs of containers.
"""

from __future__ import annotations

import io
import json
import sys

import pytest

from simgym.cli.main import main
from simgym.conversation import INTENT_PREFIX, Scenario

SAID = "谢谢 😀 dziękuję ›"
ENCODINGS = ["ascii", "cp1252", "gbk"]
SCRIPTED = ["--model", f"scripted:{SAID}", "--judge", "relevance", "--judge-model", "scripted:echo"]


@pytest.fixture
def terminal(monkeypatch):
    """Runs the entry point in a terminal of that encoding; returns the exit code and what it printed, as bytes."""

    def run(encoding, *words, typed=b""):
        streams = {name: io.BytesIO() for name in ("stdout", "stderr")}
        for name, raw in streams.items():
            monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding=encoding, write_through=True))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed), encoding=encoding))
        monkeypatch.setattr(sys, "argv", ["simgym", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, b"".join(raw.getvalue() for raw in streams.values())

    return run


@pytest.fixture(scope="module")
def scenario_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("terminals") / "scenarios.jsonl"
    scenarios = [Scenario(f"s{number}", f"{INTENT_PREFIX}预订火车票 😀", opening="您好 😀 ›") for number in range(2)]
    lines = [json.dumps(scenario.to_json(), ensure_ascii=False) for scenario in scenarios]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_rollout_a_view_and_an_export_print_what_the_terminal_can(terminal, encoding, scenario_file, tmp_path):
    talks = tmp_path / "谈话.jsonl"
    words = ["--assistant", f"scripted:{SAID}", "--env", "UserSim-RolePlayOpening-v0", "--scenarios", scenario_file]
    code, printed = terminal(encoding, "rollout", *words, *SCRIPTED, "--max-turns", 2, "-o", talks)
    assert (code, b"Traceback" in printed) == (0, False), printed.decode(encoding)
    code, printed = terminal(encoding, "view", talks)
    assert code == 0, printed.decode(encoding)
    assert b"?" in printed
    for verb in (["export", talks, "--to", "sft", "-o", tmp_path / "输出.jsonl"], ["view", tmp_path / "没有.jsonl"]):
        _, printed = terminal(encoding, *verb)
        assert printed
        assert b"Traceback" not in printed


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_chat_reads_and_prints_what_the_terminal_can(terminal, encoding, scenario_file):
    words = ["chat", "UserSim-RolePlayOpening-v0", "--scenarios", scenario_file, *SCRIPTED, "--max-turns", 2]
    code, printed = terminal(encoding, *words, typed="gut, größer?\nnaïve\n".encode())
    assert code == 0, printed.decode(encoding)
    assert b"turn_limit" in printed


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_matrix_prints_its_table_and_its_report_is_written(terminal, encoding, scenario_file, tmp_path):
    words = [
        "matrix",
        "--assistant",
        f"助手=scripted:{SAID}",
        "--assistant",
        "b=scripted:x",
        "--scenarios",
        scenario_file,
    ]
    words += ["--env", "UserSim-RolePlayOpening-v0", *SCRIPTED, "--max-turns", 1, "-o", tmp_path / "运行"]
    code, printed = terminal(encoding, *words)
    assert code == 0, printed.decode(encoding)
    code, printed = terminal(encoding, "report", tmp_path / "运行", "-o", tmp_path / "报告.html")
    assert code == 0, printed.decode(encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_doctor_lists_data_and_study_print_what_the_terminal_can(terminal, encoding, scenario_file, tmp_path):
    log = tmp_path / "日志.jsonl"
    turns = [{"role": "user", "content": SAID}, {"role": "assistant", "content": SAID}]
    log.write_text(json.dumps({"id": "1", "messages": turns}, ensure_ascii=False), encoding="utf-8")
    for words in (
        ["doctor"],
        ["envs"],
        ["scenarios"],
        ["--help"],
        ["data", "sources"],
        ["data", "import", log, "-o", tmp_path / "对话.jsonl"],
        ["data", "split", tmp_path / "没有.jsonl", "-o", tmp_path / "x"],
        ["study", "init", tmp_path / "研究.yaml"],
        ["study", "status", tmp_path / "没有.yaml"],
        ["rollout", "--assistant", "助手", "--env", "UserSim-Rôle-v0", "-o", tmp_path / "x.jsonl"],
    ):
        code, printed = terminal(encoding, *words)
        assert printed
        assert b"Traceback" not in printed
        assert code in (0, 1, 2), words
