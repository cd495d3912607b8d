from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from simgym.assistants import LanguageModelAssistant
from simgym.cli.main import app
from simgym.data import load_wildbench
from simgym.data.wildbench import GROUPS
from simgym.errors import ConfigurationError, MalformedFile
from simgym.evaluation.wildbench import answer_tasks, compared, graded, judge_answers, satisfied
from simgym.evaluation.wildbench_results import WEIGHTS, wb_score
from simgym.language_models import ScriptedLM


def row(number, **changes):
    return {
        "id": number,
        "session_id": f"t{number}",
        "conversation_input": [{"role": "user", "content": f"request {number}: write about bread"}],
        "checklist": ["Is it about bread?", "Is it short?"],
        "intent": "get a text about bread",
        "primary_tag": list(GROUPS)[number % len(GROUPS)],
        "secondary_tags": ["Editing", "Brainstorming"],
        "references": {"gpt-4": f"a reference {number}"},
        **changes,
    }


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "wildbench.jsonl", [row(n) for n in range(12)])


class Judge(ScriptedLM):
    """Replies by what it is asked, whatever schema; counts requests and can fail once."""

    def __init__(self, failing=()):
        super().__init__("judge")
        self.requests, self.failing = [], set(failing)

    def generate(self, requests):
        self.requests += requests
        return [
            replace(super(Judge, self).generate([replace(request, json_schema=None)])[0], text=self.say(request))
            for request in requests
        ]

    def say(self, request):
        text = request.messages[0].content
        if any(word in text for word in self.failing):
            return "I'm sorry, I can't."
        if "exactly" in text:
            good = "long" not in text.split("The last message:")[1]
            return json.dumps({"items": [{"reason": "", "satisfied": True}, {"reason": "", "satisfied": good}]})
        if "assistant A" in text:
            first = text.split("Message of assistant A:")[1].split("Message of assistant B:")[0]
            return json.dumps({"reason": "", "choice": "B+" if "long" in first else "A+"})
        return json.dumps({"thought": "", "score": 7})


def test_rows_that_are_no_tasks_are_listed_and_groups_are_counted_once(tmp_path):
    rows = [
        row(0),
        row(1, checklist=None),
        row(2, checklist=[" "]),
        row(3, conversation_input=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]),
        row(4, conversation_input=None),
        row(5, conversation_input=[{"content": "no role"}]),
        row(7, session_id=None),
        row(8, intent="\ud83d"),
        row(6, secondary_tags=5, references=None, checklist=[None, "Is it short?"]),
    ]
    loaded = load_wildbench(write(tmp_path / "w.jsonl", rows))
    assert [task.id for task in loaded.tasks] == ["t0", "t6"]
    assert loaded.tasks[1].checklist == ("Is it short?",)
    assert loaded.tasks[0].groups == ("Information/Advice seeking", "Creative Tasks")
    assert loaded.skipped["t1"] == loaded.skipped["t2"] == "no checklist"
    assert loaded.skipped["t3"] == loaded.skipped["t4"] == "does not end with a user turn"
    assert loaded.skipped["t5"].startswith("bad conversation")
    assert (loaded.skipped["row 7"], loaded.skipped["t8"]) == ("no session id", "lone surrogates")
    assert set(WEIGHTS) == set(GROUPS.values())
    with pytest.raises(MalformedFile, match="comes twice"):
        load_wildbench(write(tmp_path / "w.jsonl", [row(0), row(0)]))
    with pytest.raises(MalformedFile, match="'checklist' is missing"):
        load_wildbench(write(tmp_path / "w.jsonl", [{"session_id": "x", "conversation_input": []}]))
    with pytest.raises(MalformedFile, match="expected an object"):
        load_wildbench(write(tmp_path / "w.jsonl", [None]))
    with pytest.raises(ConfigurationError, match="no usable task"):
        load_wildbench(write(tmp_path / "w.jsonl", [row(1, checklist=[])]))


def test_answers_are_asked_for_once_and_again_when_the_task_changed(tmp_path, source):
    tasks = load_wildbench(source).tasks
    asked = []
    assistant = LanguageModelAssistant(ScriptedLM(lambda request: asked.append(1) or "bread is good"))
    first = answer_tasks(assistant, tasks[:5], folder=tmp_path / "run", batch_size=2)
    assert len(asked) == 5
    assert answer_tasks(assistant, tasks[:7], folder=tmp_path / "run")[:5] == first
    assert len(asked) == 7
    changed = [replace(tasks[0], conversation=tasks[1].conversation), *tasks[1:7]]
    answer_tasks(assistant, changed, folder=tmp_path / "run")
    assert len(asked) == 8
    with pytest.raises(ConfigurationError, match="another assistant"):
        answer_tasks(LanguageModelAssistant(ScriptedLM("other")), tasks, folder=tmp_path / "run")


def test_failed_answers_are_asked_again_and_stale_ones_are_not_judged(tmp_path, source):
    tasks, silent = load_wildbench(source).tasks[:4], []

    def rule(request):
        return "" if "request 2:" in request.messages[-1].content and not silent else "bread"

    assistant = LanguageModelAssistant(ScriptedLM(rule))
    assert [kept.fault for kept in answer_tasks(assistant, tasks, folder=tmp_path)] == [None, None, "empty", None]
    silent.append(True)
    answers = answer_tasks(assistant, tasks, folder=tmp_path)
    assert all(kept.fault is None for kept in answers)
    changed = [replace(tasks[0], conversation=tasks[1].conversation), *tasks[1:]]
    by_id = {answer.key: answer for answer in answers}
    rows = judge_answers(changed, by_id, protocol="score", model=Judge(), folder=tmp_path)
    assert [rows[task.id]["fault"] for task in changed] == [
        "stale_answer: the task was changed since",
        None,
        None,
        None,
    ]


def test_failed_judgements_are_rows_of_their_own_and_are_tried_again(tmp_path, source):
    tasks = load_wildbench(source).tasks
    answers = answer_tasks(LanguageModelAssistant(ScriptedLM("short")), tasks, folder=tmp_path)
    by_id = {answer.key: answer for answer in answers[:-1]}
    by_id["t1"] = replace(by_id["t1"], text="", fault="empty")
    arguments = {"protocol": "score", "folder": tmp_path, "batch_size": 5}
    first = Judge(failing=["request 3:"])
    rows = judge_answers(tasks, by_id, model=first, **arguments)
    summary = wb_score(graded(tasks, rows), resamples=9)
    assert summary.failures == {"assistant": 1, "no_answer": 1, "refused": 1}
    assert summary.overall.value == pytest.approx(40)
    assert summary.counted == 9
    second = Judge()
    rows = judge_answers(tasks, by_id, model=second, **arguments)
    assert len(second.requests) == 1
    assert wb_score(graded(tasks, rows), resamples=9).counted == 10


def test_checklists_and_references_tell_the_better_assistant(tmp_path, source):
    tasks = load_wildbench(source).tasks
    runs = {}
    for name, text in {"good": "short", "bad": "a long one"}.items():
        answers = answer_tasks(LanguageModelAssistant(ScriptedLM(text)), tasks, folder=tmp_path / name)
        runs[name] = {answer.key: answer for answer in answers}
    rows = judge_answers(tasks, runs["bad"], protocol="checklist", model=Judge(), folder=tmp_path / "bad")
    assert set(satisfied(rows).values()) == {(1, 10)}
    arguments = {"protocol": "reward", "model": Judge(), "folder": tmp_path / "good", "reference_name": "bad"}
    rows = judge_answers(tasks, runs["good"], reference=runs["bad"], **arguments)
    pairs = compared(tasks, rows)
    assert [pair.outcome for pair in pairs] == ["win"] * 24
    assert all(row["consistent"] for row in rows.values())
    with pytest.raises(ConfigurationError, match="reference run"):
        judge_answers(tasks, runs["good"], protocol="reward", model=Judge(), folder=tmp_path)


def test_the_commands_answer_score_and_compare(tmp_path, source, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words):
        return CliRunner().invoke(app, ["wildbench", *map(str, words)])

    for name, text in {"a": "short", "b": "quite long"}.items():
        outcome = run("run", "--assistant", f"scripted:{text}", "--tasks", source, "-o", tmp_path / name)
        assert outcome.exit_code == 0, outcome.output
        assert "12 tasks, 0 without an answer" in outcome.stdout
        outcome = run("score", tmp_path / name, "--judge-model", "scripted:no", "--tasks", source)
        assert outcome.exit_code == 0, outcome.output
        assert "items satisfied" in outcome.stdout
    remembered = ("--response-cache", tmp_path / "answers.sqlite", "--tasks", source, "-o", tmp_path / "c")
    assert run("run", "--assistant", "scripted:short", *remembered).exit_code == 0
    (tmp_path / "c" / "answers.jsonl").unlink()
    assert run("run", "--assistant", "scripted:short", *remembered, "--cache-mode", "replay").exit_code == 0
    assert (tmp_path / "c" / "answers.jsonl").read_bytes() == (tmp_path / "a" / "answers.jsonl").read_bytes()
    unknown = run("score", tmp_path / "c", "--judge-model", "scripted:x", *remembered[:-2], "--cache-mode", "replay")
    assert unknown.exit_code == 2
    assert "does not hold" in unknown.stderr
    same = run("compare", tmp_path / "a", tmp_path / "b")
    assert same.exit_code == 0, same.output
    run("score", tmp_path / "b", "--judge-model", "scripted:yes", "--tasks", source, "-n", 5)
    refused = run("score", tmp_path / "b", "--judge-model", "scripted:yes", "--tasks", source)
    assert refused.exit_code == 2
    assert "made with another judge" in refused.stderr
    (tmp_path / "b" / "checklist.jsonl").unlink()
    assert "Run `simgym wildbench score" in run("compare", tmp_path / "a", tmp_path / "b").stderr
    run("score", tmp_path / "b", "--judge-model", "scripted:yes", "--tasks", source)
    refused = run("compare", tmp_path / "a", tmp_path / "b")
    assert refused.exit_code == 2
    assert "judged with another judge" in refused.stderr
    assert "Unknown protocol" in run("score", tmp_path / "a", "--judge-model", "x", "--protocol", "elo").stderr
