"""Data of other people: what is there is told from what is not, and nothing is looked for beside the checkout."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simgym.cli.main import app
from simgym.data import SOURCES, data_file, sources
from simgym.data.sources import Availability, availability
from simgym.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMGYM_DATA", str(tmp_path))
    return tmp_path


def test_a_file_is_missing_then_different_then_there(folder):
    source = next(source for source in SOURCES if source.name == "arena_answers.jsonl")
    assert availability(source) is Availability.MISSING
    (folder / source.name).write_bytes(b"rows")
    assert availability(source) is Availability.DIFFERENT
    assert availability(replace(source, sha256=hashlib.sha256(b"rows").hexdigest())) is Availability.READY


def test_the_error_says_whose_the_file_is_and_how_to_get_it():
    with pytest.raises(ConfigurationError, match=r"(?s)lmarena.*Apache-2\.0.*SIMGYM_DATA.*simgym data sources"):
        data_file("arena_answers.jsonl")


def test_the_verb_lists_every_source_with_author_licence_and_command():
    outcome = CliRunner().invoke(app, ["data", "sources"])
    assert outcome.exit_code == 0
    for source in SOURCES:
        assert f"\n{source.name}: " in outcome.output
        assert all(text in outcome.output for text in (source.author, source.licence, source.obtain))


def test_the_scripts_and_tests_that_a_source_names_read_it():
    for source in SOURCES:
        if source.sha256 is not None:
            paths = [word for word in source.used_by.replace(",", " ").split() if word.endswith(".py")]
            assert paths
            assert all(source.name in (ROOT / path).read_text(encoding="utf-8") for path in paths)


def test_a_recipe_without_its_data_says_how_to_get_it(folder):
    assert sources.data_folder() == folder
    command = [sys.executable, "agents/embedded_reward.py", "--output", str(folder / "run")]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode != 0
    assert "simgym data sources" in outcome.stderr
