from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from simgym.cli.main import app
from simgym.conversation import INTENT_PREFIX, Conversation, Message, Scenario
from simgym.transcripts import Transcript, TranscriptWriter

JUDGE = {"judge": "relevance", "model": "a model"}


def transcript(seed, *texts, reward=0.5, scenario="s0", end_reason="turn_limit", fault=None):
    messages = tuple(Message("user" if at % 2 == 0 else "assistant", text) for at, text in enumerate(texts))
    return Transcript(
        env_id="UserSim-Persona-v0",
        scenario=Scenario(scenario, f"{INTENT_PREFIX}bake bread"),
        seed=seed,
        conversation=Conversation(messages),
        end_reason=end_reason,
        reward=reward,
        fault=fault,
        fingerprints={"judge": JUDGE},
    )


RUN = [
    transcript(1, "hi", "good", "more?", "sure", reward=0.9),
    transcript(2, "hi", "bad", "what?", "no", reward=0.1),
    transcript(3, "hi", "middling", "hm", "yes", reward=0.5),
    transcript(4, "hi", "unjudged", reward=None, end_reason="judge_fault", fault="unparsable: no number"),
    transcript(5, "hello", "alone", reward=0.7, scenario="s1"),
]


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "run.jsonl"
    with TranscriptWriter(path) as writer:
        for row in RUN:
            writer.append(row)
    return path


def export(source, to, output, *words):
    return CliRunner().invoke(app, ["export", str(source), "--to", to, "-o", str(output), *words])


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_preference_is_the_turn_by_which_the_best_and_the_worst_of_a_group_part(run_file, tmp_path):
    outcome = export(run_file, "dpo", tmp_path / "dpo.jsonl")
    assert outcome.exit_code == 0, outcome.output
    (pair,) = rows(tmp_path / "dpo.jsonl")
    assert pair["prompt"] == [{"role": "user", "content": "hi"}]
    assert pair["chosen"] == [{"role": "assistant", "content": "good"}]
    assert pair["rejected"] == [{"role": "assistant", "content": "bad"}]
    assert (pair["judge"], round(pair["margin"], 6)) == ("relevance", 0.8)
    assert "skipped 1: judge_fault" in outcome.stdout
    assert "skipped 1: alone in its group" in outcome.stdout
    outcome = export(run_file, "dpo", tmp_path / "none.jsonl", "--min-margin", "0.9")
    assert "skipped 1: margin of 0.9 or less" in outcome.stdout


def test_a_pair_has_a_prompt_that_both_sides_have_seen(tmp_path):
    path = tmp_path / "run.jsonl"
    with TranscriptWriter(path) as writer:
        writer.append(transcript(1, "hi", "same", "more?", "better", reward=0.9))
        writer.append(transcript(2, "hi", "same", "more?", "worse", reward=0.2))
        writer.append(transcript(3, "hey", "same", "a user's turn", "x", reward=0.2, scenario="s1"))
        writer.append(transcript(4, "hey", "same", "parts here", "y", reward=0.8, scenario="s1"))
    outcome = export(path, "dpo", tmp_path / "dpo.jsonl")
    (pair,) = rows(tmp_path / "dpo.jsonl")
    assert [message["content"] for message in pair["prompt"]] == ["hi", "same", "more?"]
    assert pair["chosen"][0]["content"] == "better"
    assert "skipped 1: best and worst say the same" in outcome.stdout


def test_completions_hold_each_assistant_turn_once_and_never_a_users(run_file, tmp_path):
    for to in ("sft", "kto"):
        outcome = export(run_file, to, tmp_path / f"{to}.jsonl")
        assert outcome.exit_code == 0, outcome.output
    completions = [message for row in rows(tmp_path / "sft.jsonl") for message in row["completion"]]
    said = [text for row in RUN if row.reward is not None for text in row.conversation.said_by("assistant")]
    assert completions == [{"role": "assistant", "content": text} for text in said]
    labels = {row["seed"]: row["label"] for row in rows(tmp_path / "kto.jsonl")}
    assert labels == {1: True, 2: False, 3: False, 5: True}  # the median is 0.6
    assert "threshold: 0.6" in outcome.stdout
    outcome = export(run_file, "sft", tmp_path / "best.jsonl", "--min-reward", "0.8")
    assert {row["seed"] for row in rows(tmp_path / "best.jsonl")} == {1}
    assert "skipped 3: reward below 0.8" in outcome.stdout


def test_whole_runs_keep_unjudged_conversations_with_the_reward_null(run_file, tmp_path):
    outcome = export(run_file, "hf", tmp_path / "hf")
    assert "without a reward: 1" in outcome.stdout
    by_seed = {row["seed"]: row for row in rows(tmp_path / "hf" / "data" / "train.jsonl")}
    assert by_seed[4]["reward"] is None
    assert by_seed[4]["fault"] == "unparsable: no number"
    assert "5 conversations" in (tmp_path / "hf" / "README.md").read_text()
    export(run_file, "verifiers", tmp_path / "vf")
    traces = [episode["traces"][0] for episode in rows(tmp_path / "vf" / "traces.jsonl")]
    assert traces[3]["rewards"] == {"relevance": None}
    assert [node["sampled"] for node in traces[0]["nodes"]] == [False, True, False, True]


def test_datasets_reads_the_folder(run_file, tmp_path):
    datasets = pytest.importorskip("datasets")
    export(run_file, "hf", tmp_path / "hf")
    table = datasets.load_dataset(str(tmp_path / "hf"), split="train", cache_dir=str(tmp_path / "cache"))
    assert table["reward"] == [0.9, 0.1, 0.5, None, 0.7]
    assert table[0]["messages"][1] == {"role": "assistant", "content": "good"}


@pytest.mark.parametrize(
    ("content", "words", "sentence"),
    [
        ("{}\n", [], "line 1: not a transcript"),
        ("", [], "holds no conversation that was judged"),
        (None, [], "is no run"),
        ("", ["--min-margin", "7"], "min_margin is 7.0, expected a number in [0, 1]"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_a_sentence(tmp_path, content, words, sentence):
    path = tmp_path / "run.jsonl"
    if content is not None:
        path.write_text(content)
    outcome = export(path, "dpo", tmp_path / "out.jsonl", *words)
    assert outcome.exit_code == 2
    assert sentence in " ".join(outcome.output.split())
    assert not (tmp_path / "out.jsonl").exists()


def test_an_unknown_format_is_named_with_those_there_are(run_file, tmp_path):
    outcome = export(run_file, "dpq", tmp_path / "out.jsonl")
    assert outcome.exit_code == 2
    assert "dpo" in outcome.output


@pytest.mark.slow
def test_the_trainers_of_trl_take_the_files(run_file, tmp_path, tiny_model):
    trl = pytest.importorskip("trl")
    from datasets import load_dataset

    trainers = {
        "sft": (trl.SFTTrainer, trl.SFTConfig),
        "dpo": (trl.DPOTrainer, trl.DPOConfig),
        "kto": (trl.KTOTrainer, trl.KTOConfig),
    }
    for to, (trainer, config) in trainers.items():
        export(run_file, to, tmp_path / f"{to}.jsonl")
        table = load_dataset("json", data_files=str(tmp_path / f"{to}.jsonl"), split="train", cache_dir=str(tmp_path))
        args = config(str(tmp_path / to), max_steps=1, per_device_train_batch_size=2, report_to="none", use_cpu=True)
        trained = trainer(tiny_model, args=args, train_dataset=table)
        trained.train()
        assert trained.state.log_history[-1]["train_loss"] > 0
