from __future__ import annotations

import math
import subprocess
import sys

import pytest

inspect_ai = pytest.importorskip("inspect_ai", reason="inspect_ai has an environment of its own")
from inspect_ai import eval as run_inspect  # noqa: E402
from inspect_ai.log import read_eval_log  # noqa: E402
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, ModelOutput, ModelUsage, get_model  # noqa: E402

from simgym.integrations.inspect_ai import conversations  # noqa: E402


def says(text):
    """A policy that says one thing. Without `usage` inspect would fetch a tokenizer to count."""

    def output(*_, **__):
        answer = ModelOutput.from_content("mockllm/model", text)
        answer.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        return answer

    return get_model("mockllm/model", custom_outputs=output)


@pytest.fixture
def evaluate(env_id, settings, tmp_path):
    def run(text, *, epochs=1, seed=0):
        task = conversations(env_id=env_id, limit=3, seed=seed, settings=settings)
        log = run_inspect(task, model=says(text), log_dir=str(tmp_path), display="none", epochs=epochs)[0]
        assert log.status == "success", log.error
        return log

    return run


def words(sample, role):
    return [message.text for message in sample.messages if message.role == role]


def metrics(log):
    return {name.split("/")[-1]: metric.value for name, metric in log.results.scores[0].metrics.items()}


def test_the_user_speaks_in_the_user_role_and_scenario_seed_and_epoch_decide_it(evaluate):
    log, other = evaluate("Sure.", epochs=2), evaluate("Tell me more.", epochs=2)
    assert len(log.samples) == 6
    for sample, again in zip(log.samples, other.samples, strict=True):
        assert [message.role for message in sample.messages] == ["user", "assistant"] * 3
        assert words(sample, "user") == words(again, "user")  # a scripted user hears nothing; the seed alone speaks
        assert words(sample, "assistant") == ["Sure."] * 3
    assert len({words(sample, "user")[0] for sample in log.samples}) == 6
    assert words(evaluate("Sure.", seed=1).samples[0], "user") != words(log.samples[0], "user")


def test_the_reward_and_the_end_reason_arrive(evaluate):
    log = evaluate("Sure.")
    score = log.samples[0].scores["judge_score"]
    assert score.value == 0.6
    assert score.metadata["end_reason"] == "turn_limit"
    assert metrics(log) == {"mean": pytest.approx(0.6), "stderr": 0.0}


def test_an_unjudged_conversation_is_not_0(evaluate):
    log = evaluate("unjudgeable")
    assert all(math.isnan(sample.scores["judge_score"].value) for sample in log.samples)
    assert {sample.scores["judge_score"].metadata["end_reason"] for sample in log.samples} == {"judge_fault"}
    assert math.isnan(metrics(log)["mean"])


def test_a_simulator_is_a_model_that_plays_the_user():
    import asyncio

    model = get_model("simgym/role_play", simulator_model="scripted:seed")
    wish = ChatMessageSystem(content="bake bread")
    opening = asyncio.run(model.generate([wish])).completion
    assert opening.startswith("number ")
    reply = asyncio.run(model.generate([wish, ChatMessageUser(content="How may I help?")])).completion
    assert reply == opening  # a greeting is not answered
    assert asyncio.run(model.generate([wish])).completion == opening
    other = asyncio.run(model.generate([ChatMessageSystem(content="mend a tyre")])).completion
    assert other != opening


BY_NAME = """
from inspect_ai import eval
from inspect_ai.model import ModelOutput, ModelUsage, get_model

def output(*_, **__):
    answer = ModelOutput.from_content("mockllm/model", "Sure.")
    answer.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    return answer

settings = {"model": "scripted:seed", "judge": "relevance", "judge_model": "scripted:echo", "max_turns": 1}
(log,) = eval("simgym/conversations", model=get_model("mockllm/model", custom_outputs=output), display="none",
              task_args={"limit": 1, "settings": settings})
print(log.status, log.samples[0].metadata["simgym"]["end_reason"])
"""


def test_inspect_finds_the_task_by_its_entry_point(tmp_path):
    # away from the checkout, whose own metadata do not say that simgym is installed
    outcome = subprocess.run([sys.executable, "-c", BY_NAME], cwd=tmp_path, capture_output=True, text=True)
    assert outcome.stdout.split() == ["success", "turn_limit"], outcome.stderr


def test_exported_runs_are_read_by_inspects_own_reader(tmp_path, env_id, settings):
    import gymnasium

    import simgym
    from simgym.data.training_files import ExportOptions
    from simgym.integrations.inspect_log import write_inspect
    from simgym.language_models import ScriptedLM

    env = gymnasium.make(env_id, **settings)
    replies = iter(["Sure.", "Sure.", "Sure.", "unjudgeable"] * 10)
    model = ScriptedLM(lambda request: next(replies))
    transcripts = simgym.collect(simgym.LanguageModelAssistant(model), env, n=4, path=tmp_path / "run.jsonl")
    write_inspect(tmp_path / "run.jsonl", tmp_path / "logs", ExportOptions())
    (file,) = (tmp_path / "logs").glob("*.eval")
    log = read_eval_log(str(file))
    assert log.eval.task == env_id
    rewards = {sample.id: sample.scores["length"].value for sample in log.samples}
    assert len(rewards) == 4
    for transcript in transcripts:
        value = rewards[transcript.scenario.id]
        assert math.isnan(value) if transcript.reward is None else value == transcript.reward
    assert any(math.isnan(value) for value in rewards.values())
    sample = next(sample for sample in log.samples if sample.id == transcripts[0].scenario.id)
    assert [(m.role, m.text) for m in sample.messages] == [
        (m.role, m.content) for m in transcripts[0].conversation.messages
    ]


def test_the_documented_block_runs(documented):
    assert documented("inspect_ai").startswith("success 0.")
