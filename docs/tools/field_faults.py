"""The table of faults from the field in docs/field-faults.md: each kind, the tests that hold it, and who reported it.

python docs/tools/field_faults.py            # runs the tests, counts their inputs, writes the table; minutes
python docs/tools/field_faults.py FILE ...   # the same for some files of tests
python docs/tools/field_faults.py --check    # runs nothing; exit code 1 if the table is stale or a file is not there
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "benchmarks" / "results" / "field_faults.json"
PAGE = ROOT / "docs" / "field-faults.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


@dataclass(frozen=True, kw_only=True)
class FieldFault:
    """A kind of fault that people have reported."""

    kind: str
    """What goes wrong."""
    right: str
    """What simgym does instead."""
    tests: tuple[str, ...]
    """Files of tests."""
    sources: str
    """Public reports: projects and numbers."""


FAULTS = (
    FieldFault(
        kind="thoughts are said, or judged",
        right="what a model thinks is kept apart for every role; a reply that is all thoughts is a fault of its own",
        tests=("tests/language_models/test_reasoning.py", "tests/integrations/test_trl.py"),
        sources="vllm#13375, vllm#19839, verl#6854, ms-swift#4390, langwatch#7665, trl#4350",
    ),
    FieldFault(
        kind="one role's end of turn, or a mark that somebody spells out, ends another's",
        right="ends belong to a role; whatever a template writes is a control token that nobody can forge",
        tests=("tests/test_chat_template.py", "tests/language_models/test_transformers_lm.py"),
        sources="vmlx-swift#254; tokenizer of DeepSeek-R1-Distill; templates of Idefics3 and LLaVA",
    ),
    FieldFault(
        kind="a piece of a text has other tokens than inside the whole",
        right="the whole is tokenized and divided by offsets, in training, likelihoods, choices and judges",
        tests=("tests/test_tokenization.py",),
        sources="NeMo-RL#2844",
    ),
    FieldFault(
        kind="positions depend on what else is in the batch",
        right="LongRoPE and dynamic NTK are refused beyond their switch, before weights are read",
        tests=("tests/engine/test_attention.py",),
        sources="vllm#4298, llama.cpp#24875",
    ),
    FieldFault(
        kind="an adapter changes the base model for everybody",
        right="plain LoRA alone shares a base; every other kind, or unknown setting, is refused with what to do",
        tests=("tests/language_models/test_adapters.py",),
        sources="documentation of PEFT: batches that mix adapters take LoRA alone",
    ),
    FieldFault(
        kind="one refusal of a server ends a run, or an outage is written down thousands of times",
        right="a fault concerns a request, a field, the run or the server; any JSON is a reply or a typed fault",
        tests=(
            "tests/language_models/test_server_answers.py",
            "tests/language_models/test_openai_lm.py",
            "tests/rollout/test_outages.py",
        ),
        sources="OpenRouter's list of errors, litellm#9305, openlit#1068, langchaingo#1355, langchain-azure#82, "
        "platform-docs-public#7",
    ),
    FieldFault(
        kind="what makes a prompt is not in the fingerprint",
        right="template, generation settings, tokenizer, quantisation and the date that a template writes are",
        tests=("tests/language_models/test_identity.py", "tests/test_template_date.py"),
        sources="template of Llama 3.2, which writes today's date",
    ),
    FieldFault(
        kind="encodings, missing values and scripts without spaces",
        right="another encoding is a sentence; strangers are never one user; letters count as words in Chinese or Thai",
        tests=(
            "tests/test_text_files.py",
            "tests/test_jsonl.py",
            "tests/data/test_wildchat.py",
            "tests/test_words.py",
            "tests/cli/test_terminals.py",
        ),
        sources="otwarchive and check-api (words of Chinese); files of pandas; consoles of Windows",
    ),
    FieldFault(
        kind="JSON with a slip of the pen",
        right="mended where there is one reading, a typed fault where there are several",
        tests=("tests/test_almost_json.py",),
        sources="gandalf (lone backslashes)",
    ),
    FieldFault(
        kind="honest user turns are taken for the assistant's",
        right="who speaks counts, not which words",
        tests=("tests/simulators/test_role_flips.py",),
        sources="user turns of WildChat",
    ),
    FieldFault(
        kind="forked workers hang; a model arrives by another way",
        right="children answer with one thread; GGUF files, uv and machines without a network are served",
        tests=(
            "tests/test_forks.py",
            "tests/language_models/test_threads.py",
            "tests/language_models/test_weights.py",
            "tests/language_models/test_gguf.py",
            "tests/cli/test_cache.py",
        ),
        sources="pytorch#41197, pytorch#2245, stable-baselines#428",
    ),
    FieldFault(
        kind="a user's last words are lost",
        right="they are a message; whether the assistant answers is a setting",
        tests=("tests/test_last_words.py",),
        sources="found by trying",
    ),
    FieldFault(
        kind="the NaN of a failed judge poisons a wrapper for ever",
        right="`failed_judge_reward` says what such a step is worth",
        tests=("tests/envs/test_conversation_env.py",),
        sources="NormalizeReward of Gymnasium",
    ),
)


class Counter:
    """A plug-in of pytest that counts passed tests and the inputs that hypothesis tried."""

    def __init__(self) -> None:
        self.passed = self.inputs = 0
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count what a test says of itself."""
        if report.failed:
            self.failed.append(report.nodeid)
        self.passed += report.when == "call" and report.passed
        # hypothesis adds its statistics to the report of the teardown
        tried = re.findall(r"(\d+) passing\b", report.__dict__.get("_hypothesis_stats") or "")
        self.inputs += sum(map(int, tried))


def run(files: list[str]) -> None:
    """Run the tests of some files, one file after the other, and write down the counts of each."""
    import pytest

    known = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    for file in files:
        counter = Counter()
        pytest.main(["-q", "-p", "no:cacheprovider", file], plugins=[counter])
        if counter.failed:
            sys.exit(f"These tests failed, so nothing is written of {file}: {counter.failed}")
        known[file] = {"tests": counter.passed, "inputs": counter.inputs}
        record = {name: known[name] for name in test_files() if name in known}
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def test_files() -> list[str]:
    """All files of the table, each once."""
    return list(dict.fromkeys(file for fault in FAULTS for file in fault.tests))


def table() -> str:
    """The faults as a Markdown table."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    lines = ["| kind | what is right | tests | generated inputs | held by | reported by |", "|---|---|---|---|---|---|"]
    for fault in FAULTS:
        files = ", ".join(f"[`{Path(file).name}`](../{file})" for file in fault.tests)
        counts = _counts([record.get(file, {}) for file in fault.tests])
        lines.append(f"| {fault.kind} | {fault.right} | {counts} | {files} | {fault.sources} |")
    lines.append(f"| together | | {_counts(list(record.values()))} | | |")
    return "\n".join(lines)


def _counts(rows: list[dict[str, int]]) -> str:
    tests, inputs = (sum(row.get(name, 0) for row in rows) for name in ("tests", "inputs"))
    return f"{tests} | {f'{inputs:,}' if inputs else ''}"


def main() -> int:
    """Write, or check."""
    if missing := [file for file in test_files() if not (ROOT / file).is_file()]:
        print(f"Not there: {missing}")
        return 1
    if "--check" not in sys.argv:
        run(sys.argv[1:] or test_files())
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    written = f"{head}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"
    if "--check" in sys.argv:
        return int(written != page)
    PAGE.write_text(written, encoding="utf-8")
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
