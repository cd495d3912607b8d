"""The project's words: a variable is a noun that says what it holds, and one thing has one name.

Whoever knows vLLM, TRL, Gymnasium and statsmodels should not have to learn a dialect. The lint reads the syntax tree of
every module; what it refuses, it explains with the word to write instead.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VAGUE = frozenset(
    {
        "both",
        "few",
        "found",
        "four",
        "held",
        "made",
        "many",
        "one",
        "several",
        "some",
        "thing",
        "things",
        "three",
        "two",
    }
)
"""No names for variables: they count or point, and do not say what is there."""
RENAMED = {
    "adjust": "correct_p_values",
    "Chair": "Seat",
    "Chapter": "CellSection",
    "ChoiceActions": "DiscreteReplies",
    "Crossed": "PairedMatrix",
    "Desk": "StudyController",
    "EMBEDDED": "DEFAULT_MODEL",
    "EmbedObservation": "EmbeddingObservation",
    "Episode": "Dialogue",
    "Episodes": "Simulation",
    "free_running": "asynchronous",
    "guideline": "persona_prompt",
    "judge_values": "components",
    "Offer": "Candidates",
    "own_simulator": "training_simulator",
    "p_corrected": "p_adjusted",
    "p_holm": "p_adjusted",
    "patiently": "with Pauses",
    "Player": "ModelInfo",
    "rejudge": "rescore",
    "Sampling": "SamplingParams",
    "spoilt": "invalid (turns) or corrupted (training answers)",
    "Talk": "ConversationView",
    "Verbs": "CommandGroup",
}
"""Identifiers that were renamed, and what they are called now; with a leading underscore or an s they are the same."""
PHRASES = {
    r"\bembedded model": "default model",
    r"\bfree[- ]running\b": "asynchronous",
    r"\bguidelines?\b": "persona prompt",
    r"\b(own|home) simulator\b": "training simulator",
    r"\bREAD,WRITTEN\b": "INPUT,OUTPUT",
    r"\bRaised when a field\b": "Incremented when a field",
    r"\brejudg(e|ed|ing)\b": "rescore",
    r"\bspoilt\b": "invalid (turns) or corrupted (training answers)",
}
"""What no text says, in docstrings, help and messages."""
OLD_FILES = {
    "simgym/integrations/rllm.py": "Episode",
    "simgym/judges/reward_head.py": "spoilt",
    "simgym/simulators/role_play.py": "guideline",
}
"""Words of earlier versions' plans and templates, and of another project's classes, read or written for their sake."""
_WORDS = re.compile(r"\s")


def offences(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and explanation of every word that is refused."""
    for node in ast.walk(tree):
        for name in _bound(node):
            if name in VAGUE:
                yield node.lineno, f"a variable is called {name!r}; write a noun that says what it holds"
        for name in _identifiers(node):
            stem = name.strip("_")
            now = RENAMED.get(stem) or RENAMED.get(stem.removesuffix("s"))
            if now is not None:
                yield node.lineno, f"{name} is called {now}"
            if name.endswith("_in_words"):
                yield node.lineno, f"{name} is called format_{stem.removesuffix('_in_words')}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _WORDS.search(node.value):
            for pattern, now in PHRASES.items():
                if phrase := re.search(pattern, node.value):
                    yield node.lineno, f"{phrase.group()!r} in a text; write {now}"


def _bound(node: ast.AST) -> list[str]:
    """Variables that a node binds: targets of assignments, loops, comprehensions and `with`, and arguments."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return [node.id]
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return [node.name] if node.name else []
    return []


def _identifiers(node: ast.AST) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.alias):
        return (node.asname or node.name).split(".")
    if isinstance(node, ast.keyword):
        return [node.arg] if node.arg else []
    return [node.id] if isinstance(node, ast.Name) else _bound(node)


def test_variables_are_nouns_and_one_thing_has_one_name() -> None:
    refused = [
        f"{name}:{line}: {explanation}"
        for folder in ("simgym", "agents", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, explanation in offences(ast.parse(path.read_text(encoding="utf-8")))
        if OLD_FILES.get(name := path.relative_to(ROOT).as_posix(), "\0") not in explanation
    ]
    assert not refused, "\n" + "\n".join(refused)


def test_variables_of_tests_are_nouns_too() -> None:
    refused = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in _bound(node)
        if name in VAGUE
    ]
    assert not refused, "\n" + "\n".join(refused)


@pytest.mark.parametrize(
    "source",
    [
        "found = 1",
        "for one in rows: pass",
        "[some for some in rows]",
        "def f(several): pass",
        "lambda two: two",
        "with open(path) as held: pass",
        "if (made := rows): pass",
        "for key, (three, value) in rows: pass",
        "def value_in_words(): pass",
        "import simgym.rejudge",
        "class _Talk: pass",
        "rows.p_corrected",
        "sort(p_holm=1)",
        "raise ValueError(f'{name} is a spoilt turn.')",
        "'''Raised when a field changes its meaning.'''",
    ],
)
def test_a_vague_or_renamed_word_is_refused_wherever_it_stands(source: str) -> None:
    assert list(offences(ast.parse(source)))


@pytest.mark.parametrize(
    "source", ["rows = held_out", "one_sided = 2", "'one of them is found'", "'spoilt'", "row.found", "Path.home()"]
)
def test_the_same_letters_as_part_of_a_name_a_text_or_a_key_are_not(source: str) -> None:
    assert not list(offences(ast.parse(source)))
