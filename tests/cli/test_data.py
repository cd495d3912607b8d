from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from simgym.cli.main import app
from simgym.conversation import INTENT_PREFIX
from simgym.data import load_scenarios, read_logged


def run(*words):
    return CliRunner().invoke(app, ["data", *map(str, words)])


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.jsonl"
    with path.open("w") as file:
        for number in range(40):
            talk = [{"role": "user", "content": f"how do I bake bread number {number}"},
                    {"role": "assistant", "content": "With patience."}]  # fmt: skip
            row = {"conversation_hash": f"h{number}", "conversation": talk, "language": "English",
                   "hashed_ip": f"ip{number % 20}", "country": "Peru"}  # fmt: skip
            file.write(json.dumps(row) + "\n")
    return path


def test_the_steps_lead_from_a_log_to_training_data_and_scenarios(tmp_path, log, tiny_model):
    clean, folder, named = tmp_path / "clean.jsonl", tmp_path / "splits", tmp_path / "named.jsonl"
    (tmp_path / "bench.txt").write_text("h7\n")
    assert f"{clean}: 40 of 40 conversations" in run("preprocess", log, "-o", clean).stdout
    outcome = run("split", clean, "-o", folder, "--wildbench", tmp_path / "bench.txt")
    assert outcome.exit_code == 0, outcome.output
    assert "1 users are in test" in outcome.stdout
    assert {"h7", "h27"} <= {row.id for row in read_logged(folder / "test.jsonl")}
    outcome = run("intents", folder / "train.jsonl", "-o", named, "--model", f"scripted:{INTENT_PREFIX}bake bread.")
    assert outcome.exit_code == 0, outcome.output
    count = sum(1 for _ in read_logged(named))
    outcome = run("flip", named, "-o", tmp_path / "flipped.jsonl", "--tokenizer", tiny_model)
    assert f"{count} of {count} conversations" in outcome.stdout
    assert "user tokens" in outcome.stdout
    outcome = run("scenarios", named, "-o", tmp_path / "scenarios.jsonl", "--source", "a test")
    assert outcome.exit_code == 0, outcome.output
    assert len(load_scenarios(str(tmp_path / "scenarios.jsonl"))) == count


def test_chitchat_goes_through_the_same_steps_and_says_what_remains(tmp_path):
    pytest.importorskip("chitchat_dataset", reason="the extra simgym[chitchat] is not installed")
    path = tmp_path / "chitchat.jsonl"
    outcome = run("chitchat", "-o", path)
    assert "of 7168 conversations" in outcome.stdout
    assert "fewer than 4 turns" in outcome.stdout
    outcome = run("scenarios", path, "-o", tmp_path / "scenarios.jsonl", "--source", "chitchat")
    assert "opening of fewer than 5 words" in outcome.stdout
    assert "no intent" not in outcome.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("preprocess", "nowhere.jsonl", "-o", "x.jsonl"), "There is no file nowhere.jsonl"),
        (("preprocess", "nowhere", "-o", "x.jsonl"), "neither a .jsonl or .parquet file nor a Hugging Face id"),
        (("split", "nowhere.jsonl", "-o", "x"), "Run the step of `simgym data` that writes it"),
        (("flip", "nowhere.jsonl", "-o", "x.jsonl", "--tokenizer", "nonsense"), "Unknown model 'nonsense'"),
    ],
)
def test_wrong_inputs_are_a_sentence(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    outcome = run(*words)
    assert outcome.exit_code == 2
    assert message in outcome.stderr


def test_a_file_that_is_no_step_of_the_pipeline_says_so(tmp_path, log):
    outcome = run("split", log, "-o", tmp_path / "x")
    assert outcome.exit_code == 2
    assert "line 1: not a conversation of `simgym data`" in outcome.stderr


def test_intents_none_of_which_can_be_read_are_no_success(tmp_path, log):
    run("preprocess", log, "-o", tmp_path / "clean.jsonl")
    outcome = run("intents", tmp_path / "clean.jsonl", "-o", tmp_path / "named.jsonl", "--model", "scripted:no")
    assert outcome.exit_code == 1
    assert "0 of 40 conversations" in outcome.stdout
    assert "No intent was written" in outcome.stderr


def test_a_tokenizer_without_a_chat_template_is_refused_before_anything_is_written(tmp_path, log, tiny_model):
    import shutil

    from transformers import AutoTokenizer

    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare)
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(bare)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(bare)
    run("preprocess", log, "-o", tmp_path / "clean.jsonl")
    outcome = run("flip", tmp_path / "clean.jsonl", "-o", tmp_path / "flipped.jsonl", "--tokenizer", bare)
    assert outcome.exit_code == 2
    assert "has no chat template" in outcome.stderr
    assert not (tmp_path / "flipped.jsonl").exists()
