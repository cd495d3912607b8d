"""WildBench from end to end: assistants answer tasks, judges judge the answers by one of three protocols.

* `checklist`: every item satisfied or not (arXiv 2605.09808); two assistants are compared by what they satisfy.
* `score`: one grade from 1 to 10 with the checklist in view (WB-Score).
* `reward`: against a reference assistant, in both orders (WB-Reward; published runs use one random order).

Prompts are our own, so absolute figures are not those of the leaderboard; aggregation is (`wildbench_results`). Answers
and judgements are rows of run files: a second run does what is missing, and one under another judge, prompt or task set
is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from simgym.assistants.base import Assistant, AssistantTurn
from simgym.conversation import Message, written_out
from simgym.data.wildbench import WildBenchTask
from simgym.errors import ConfigurationError
from simgym.evaluation.run_file import RunFile
from simgym.evaluation.wildbench_results import Compared, Graded, Outcome
from simgym.judges.checklist import ChecklistJudge
from simgym.judges.pairwise import PairwiseJudge
from simgym.judges.parsing import read_grade
from simgym.judges.rubrics import load_rubric, quoted
from simgym.language_models.base import Request, SamplingParams, object_schema
from simgym.language_models.loading import LanguageModelSpec, load_language_model
from simgym.rollout.outages import ask_in_batches
from simgym.seeding import derive_seed
from simgym.transcripts import text_hash

Protocol = Literal["checklist", "score", "reward"]
PROTOCOLS: tuple[Protocol, ...] = ("checklist", "score", "reward")
ANSWERS = "answers.jsonl"
_OUTCOMES: tuple[Outcome, ...] = ("lose_much", "lose", "tie", "win", "win_much")
_SCHEMA = object_schema(
    thought={"type": "string", "maxLength": 600}, score={"type": "integer", "minimum": 1, "maximum": 10}
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an assistant said to a task."""

    key: str
    """Session id of the task."""
    text: str
    """The answer; empty on a fault."""
    cut_off: bool
    """Whether it used up its tokens."""
    fault: str | None
    """Why there is no answer; None if there is one."""
    asked: str
    """Hash of what was asked; an answer to an older version of the task is not judged."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge said about an answer, a row of a judged run; which fields there are depends on the protocol."""

    key: str
    """Session id of the task."""
    fault: str | None
    """Why there is no verdict; None if there is one."""
    length: int
    """Characters of the answer."""
    cut_off: bool
    """Whether the answer used up its tokens."""
    answer: str
    """Hash of the answer; a verdict on another one is not used."""
    reasons: tuple[str, ...] = ()
    """What the judge said."""
    items: tuple[int, ...] = ()
    """`checklist`: 1 for each item that is satisfied, 0 for each that is not."""
    grade: float | None = None
    """`score`: from 1 to 10."""
    outcomes: tuple[Outcome, ...] = ()
    """`reward`: one for each order of the two answers."""
    consistent: bool | None = None
    """`reward`: whether both orders say the same."""
    reference_length: int = 0
    """`reward`: characters of the other answer."""

    def __post_init__(self) -> None:
        if self.grade is not None and not 1 <= self.grade <= 10:
            raise ConfigurationError(f"grade is {self.grade}, expected a number from 1 to 10.")
        if any(item not in (0, 1) for item in self.items):
            raise ConfigurationError(f"items are {self.items}, expected 0 or 1 for each item of the checklist.")


VerdictRows = Mapping[str, Mapping[str, Any]]
"""Fields of a `Verdict` by task id; those that a protocol does not have are left out."""


@dataclass(frozen=True, slots=True)
class _Said:
    """What a judge said about one answer."""

    verdict: Mapping[str, object]
    """Fields of a `Verdict`."""

    @property
    def fault(self) -> str | None:
        fault = self.verdict["fault"]
        return None if fault is None else str(fault)


def task_hash(tasks: Sequence[WildBenchTask]) -> str:
    """Changes with anything that an assistant is shown or a judge asks."""
    rows = [[task.id, task.conversation.to_json(), list(task.checklist), task.intent] for task in tasks]
    return text_hash(json.dumps(rows))


def answer_tasks(
    assistant: Assistant,
    tasks: Sequence[WildBenchTask],
    *,
    folder: str | Path,
    seed: int = 0,
    max_new_tokens: int | None = None,
    batch_size: int = 32,
    advance: Callable[[int], object] = lambda count: None,
) -> list[Answer]:
    """Let an assistant answer; what `folder/answers.jsonl` has already is not asked again.

    Args:
        assistant: Who answers.
        tasks: In this order.
        folder: Of the run.
        seed: Of the assistant's sampling.
        max_new_tokens: The assistant's bound, to tell which answers were cut off; None: not told.
        batch_size: Tasks per call.
        advance: Told how many tasks more are done.

    Raises:
        ConfigurationError: the file was made by another assistant or seed.
    """
    header = {"assistant": assistant.fingerprint(), "seed": seed}
    with RunFile(Path(folder) / ANSWERS, header, Answer) as file:
        # a task that was changed, or whose answer failed, is asked again
        done = {row["key"]: row["asked"] for row in file.rows.values() if row["fault"] is None}
        pending = [task for task in tasks if done.get(task.id) != _content(task)]
        advance(len(tasks) - len(pending))

        def ask(batch: Sequence[WildBenchTask]) -> list[AssistantTurn]:
            seeds = [derive_seed(seed, "wildbench", task.id) for task in batch]
            return assistant.respond([task.conversation for task in batch], seeds=seeds)

        for task, turn in ask_in_batches(
            ask, pending, batch_size=batch_size, noun="answers", parts=[("assistant", assistant)]
        ):
            written = sum(call.completion_tokens for call in turn.calls[-1:])
            cut_off = max_new_tokens is not None and written >= max_new_tokens
            file.append(asdict(Answer(task.id, turn.text, cut_off, turn.fault, _content(task))))
            advance(1)
        return [Answer(**file.rows[task.id]) for task in tasks]


def unanswered(tasks: Sequence[WildBenchTask], folder: str | Path) -> bool:
    """Whether `answer_tasks` would have to ask an assistant."""
    rows = _rows_of(Path(folder) / ANSWERS)
    done = {key: row["asked"] for key, row in rows.items() if row["fault"] is None}
    return any(done.get(task.id) != _content(task) for task in tasks)


def unjudged(tasks: Sequence[WildBenchTask], answers: Mapping[str, Answer], folder: str | Path, name: str) -> bool:
    """Whether `judge_answers` would have to ask a judge; `name` is that of the file, without its suffix."""
    rows = _rows_of(Path(folder) / f"{name}.jsonl")
    done = {key: row["answer"] for key, row in rows.items() if row["fault"] is None}
    return any(
        not _unusable(task, answer := answers.get(task.id))
        and done.get(task.id) != text_hash(answer.text if answer else "")
        for task in tasks
    )


def _rows_of(path: Path) -> dict[str, dict[str, object]]:
    return RunFile.open(path).rows if path.is_file() and path.stat().st_size else {}


def read_answers(folder: str | Path) -> tuple[dict[str, Answer], dict[str, object]]:
    """Answers of a run by task id, and the header that says who gave them.

    Raises:
        ConfigurationError: the folder holds no answers.
    """
    path = Path(folder) / ANSWERS
    if not path.is_file():
        raise ConfigurationError(f"There is no {path}. Run `simgym wildbench run` first.")
    file = RunFile.open(path, Answer)
    return {key: Answer(**row) for key, row in file.rows.items()}, file.header


def read_judgements(folder: str | Path, protocol: Protocol) -> tuple[dict[str, dict[str, object]], dict[str, object]]:
    """Rows of a judged run by task id, and the header that says how it was judged.

    Raises:
        ConfigurationError: the run was not judged by that protocol.
    """
    path = Path(folder) / f"{protocol}.jsonl"
    if not path.is_file():
        raise ConfigurationError(f"There is no {path}. Run `simgym wildbench score --protocol {protocol}` first.")
    file = RunFile.open(path, Verdict)
    return file.rows, file.header


def judge_answers(
    tasks: Sequence[WildBenchTask],
    answers: Mapping[str, Answer],
    *,
    protocol: Protocol,
    model: LanguageModelSpec,
    folder: str | Path,
    reference: Mapping[str, Answer] | None = None,
    reference_name: str = "reference",
    seed: int = 0,
    batch_size: int = 16,
    advance: Callable[[int], object] = lambda count: None,
) -> VerdictRows:
    """Judge answers; what the run file has already is not judged again, unless the judge failed.

    Args:
        tasks: What was asked.
        answers: By task id. A task without an answer, with a faulty one, or with one to another version of the task is
            a row with a fault.
        protocol: How to judge.
        model: The judging model.
        folder: Of the run; the file is `PROTOCOL.jsonl` (or `reward-REFERENCE.jsonl`).
        reference: Answers of the other assistant, for `reward`.
        reference_name: What to call them.
        seed: Of the judge.
        batch_size: Tasks per call.
        advance: Told how many tasks more are done.

    Returns:
        Rows by task id; see `graded`, `compared` and `satisfied`.

    Raises:
        ConfigurationError: `reward` without a reference, or the file was made under another judge or task set.
    """
    if protocol == "reward" and reference is None:
        raise ConfigurationError("The protocol 'reward' compares with a reference run. Give one.")
    judge: _Checklist | _Score | _Reward
    if protocol == "checklist":
        judge = _Checklist(model, tasks)
    else:
        judge = _Score(model) if protocol == "score" else _Reward(model, reference or {})
    name = f"reward-{reference_name}" if protocol == "reward" else protocol
    header = {"protocol": protocol, "judge": judge.fingerprint(), "tasks": task_hash(tasks), "seed": seed}
    with RunFile(Path(folder) / f"{name}.jsonl", header, Verdict) as file:
        pending = []
        for task in tasks:
            answer = answers.get(task.id)
            row, said = file.rows.get(task.id), text_hash(answer.text if answer else "")
            if row is not None and row["fault"] is None and row["answer"] == said:
                continue
            if fault := _unusable(task, answer):
                file.append({"key": task.id, "fault": fault, "length": 0, "cut_off": False, "answer": said})
            elif answer is not None:
                pending.append((task, answer))
        advance(len(tasks) - len(pending))

        def ask_judge(batch: Sequence[tuple[WildBenchTask, Answer]]) -> list[_Said]:
            return [_Said(verdict) for verdict in judge.judge(batch, seed)]

        for (task, answer), judged in ask_in_batches(
            ask_judge, pending, batch_size=batch_size, noun="verdicts", parts=[("judge", judge)]
        ):
            shared = {"key": task.id, "length": len(answer.text), "cut_off": answer.cut_off}
            file.append({**shared, "answer": text_hash(answer.text), **judged.verdict})
            advance(1)
        return {task.id: file.rows[task.id] for task in tasks}


def graded(tasks: Sequence[WildBenchTask], rows: VerdictRows) -> list[Graded]:
    """Rows of the protocol `score`, for `wb_score`."""
    return [
        Graded(task.id, row.get("grade"), task.groups, row["length"], row["cut_off"], row["fault"])
        for task in tasks
        for row in (rows[task.id],)
    ]


def compared(tasks: Sequence[WildBenchTask], rows: VerdictRows) -> list[Compared]:
    """Rows of the protocol `reward`, for `wb_reward`; a task counts once for each order."""
    answers = []
    for task in tasks:
        row = rows[task.id]
        for outcome in row.get("outcomes") or (None,):
            length = row.get("reference_length", 0)
            answers.append(Compared(task.id, outcome, task.groups, row["length"], length, row["fault"]))
    return answers


def satisfied(rows: VerdictRows) -> dict[str, tuple[int, int] | None]:
    """Rows of the protocol `checklist`, for `compare_checklists`."""
    return {key: (sum(row["items"]), row["length"]) if row.get("items") else None for key, row in rows.items()}


class _Checklist:
    def __init__(self, model: LanguageModelSpec, tasks: Sequence[WildBenchTask]) -> None:
        items = {task.id: task.checklist for task in tasks}
        self._judge = ChecklistJudge(model, items=items, rubric="wildbench_checklist")

    def fingerprint(self) -> dict[str, object]:
        return self._judge.fingerprint()

    def judge(self, pairs: Sequence[tuple[WildBenchTask, Answer]], seed: int) -> Iterator[dict[str, object]]:
        judgements = self._judge.judge(
            [task.scenario for task, _ in pairs],
            [task.conversation.add("assistant", answer.text) for task, answer in pairs],
            seeds=[derive_seed(seed, "checklist", task.id) for task, _ in pairs],
        )
        for judgement in judgements:
            items = [int(part) for part in judgement.components]
            yield {"items": items, "reasons": list(judgement.reasons), "fault": judgement.fault}


class _Score:
    def __init__(self, model: LanguageModelSpec) -> None:
        self._model = model
        self._rubric = load_rubric("wildbench_score", ("conversation", "answer", "items"))

    def fingerprint(self) -> dict[str, object]:
        return {"model": load_language_model(self._model).fingerprint(), **self._rubric.fingerprint()}

    def judge(self, pairs: Sequence[tuple[WildBenchTask, Answer]], seed: int) -> Iterator[dict[str, object]]:
        requests = []
        for task, answer in pairs:
            items = "\n".join(f"- {item}" for item in task.checklist)
            text = self._rubric.fill(
                conversation=written_out(task.conversation, indented=True), answer=quoted(answer.text), items=items
            )
            sampling, of_task = SamplingParams(temperature=0.0, max_new_tokens=512), derive_seed(seed, "score", task.id)
            requests.append(Request((Message("user", text),), sampling, seed=of_task, json_schema=_SCHEMA))
        for reply in load_language_model(self._model).generate(requests):
            grade = read_grade(reply.text, lowest=1, highest=10)
            fault = reply.fault or grade.fault
            yield {"grade": None if fault else grade.value, "reasons": [grade.thought], "fault": fault}


class _Reward:
    def __init__(self, model: LanguageModelSpec, reference: Mapping[str, Answer]) -> None:
        self._judge = PairwiseJudge(model)
        self._reference = reference

    def fingerprint(self) -> dict[str, object]:
        texts = {key: answer.text for key, answer in sorted(self._reference.items())}
        return {**self._judge.fingerprint(), "references_hash": text_hash(json.dumps(texts))}

    def judge(self, pairs: Sequence[tuple[WildBenchTask, Answer]], seed: int) -> Iterator[dict[str, object]]:
        known = [pair for pair in pairs if not _unusable(pair[0], self._reference.get(pair[0].id))]
        comparisons = self._judge.compare(
            [task.scenario for task, _ in known],
            [task.conversation for task, _ in known],
            [answer.text for _, answer in known],
            [self._reference[task.id].text for task, _ in known],
            seeds=[derive_seed(seed, "reward", task.id) for task, _ in known],
        )
        by_id = {task.id: comparison for (task, _), comparison in zip(known, comparisons, strict=True)}
        for task, _ in pairs:
            if (comparison := by_id.get(task.id)) is None:
                yield {"outcomes": [], "fault": "no_reference"}
                continue
            yield {
                "outcomes": [_OUTCOMES[round(4 * verdict)] for verdict in comparison.verdicts],
                "consistent": comparison.consistent,
                "reasons": list(comparison.reasons),
                "reference_length": len(self._reference[task.id].text),
                "fault": comparison.fault,
            }


def _unusable(task: WildBenchTask, answer: Answer | None) -> str | None:
    """Why an answer cannot be judged, or None."""
    if answer is None:
        return "no_answer"
    if answer.asked != _content(task):
        return "stale_answer: the task was changed since"
    return f"assistant: {answer.fault}" if answer.fault is not None else None


def _content(task: WildBenchTask) -> str:
    return text_hash(json.dumps([task.id, task.conversation.to_json()]))
