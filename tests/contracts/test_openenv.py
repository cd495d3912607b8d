from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

openenv = pytest.importorskip("openenv", reason="openenv has an environment of its own")
import uvicorn  # noqa: E402
from openenv.core import GenericEnvClient  # noqa: E402
from openenv.core.harness import HarnessRunLimits, ModelStepResult  # noqa: E402
from openenv.core.llm_client import LLMResponse  # noqa: E402

from simgym.conversation import INTENT_PREFIX  # noqa: E402
from simgym.data.training_files import ExportOptions  # noqa: E402
from simgym.errors import ConfigurationError, MissingDependency  # noqa: E402
from simgym.integrations.openenv import create_openenv_app  # noqa: E402
from simgym.integrations.openenv_harness import ConversationHarness, SimulatedUserSessions  # noqa: E402
from simgym.integrations.openenv_package import write_openenv  # noqa: E402
from simgym.serving.running import Guard  # noqa: E402

OPENENV = str(Path(sys.executable).with_name("openenv"))
IS_OLDER = importlib.metadata.version("openenv") == "0.9.0"
newest = pytest.mark.skipif(IS_OLDER, reason="refused by simgym")


def free_port():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def serve():
    servers = []

    def start(app):
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=free_port(), log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        while not server.started:
            time.sleep(0.05)
        return f"http://127.0.0.1:{server.config.port}"

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def url(serve, env_id, settings):
    return serve(create_openenv_app(env_id, settings))


async def play(url, says, **chosen):
    """What was heard, and the last result."""
    async with GenericEnvClient(base_url=url) as client:
        result = await client.reset(**chosen)
        heard = [result.observation["user_reply"]]
        while not result.done:
            result = await client.step({"message": says})
            heard.append(result.observation["user_reply"])
        return heard, result


@newest
def test_equal_seeds_give_equal_texts_in_two_sessions_and_the_reward_and_the_end_reason_arrive(url):
    first, second = (asyncio.run(play(url, "Sure.", seed=7)) for _ in range(2))
    assert first[0] == second[0] != asyncio.run(play(url, "Sure.", seed=8))[0]
    assert first[1].reward == pytest.approx(0.6)
    assert first[1].observation["end_reason"] == "turn_limit"


@newest
def test_an_unjudged_conversation_has_no_reward(url):
    _, result = asyncio.run(play(url, "unjudgeable", seed=7))
    assert (result.reward, result.done, result.observation["end_reason"]) == (None, True, "judge_fault")


@newest
def test_64_sessions_run_at_once_and_hear_what_they_would_hear_alone(url):
    async def crowd():
        opened = [GenericEnvClient(base_url=url) for _ in range(64)]
        await asyncio.gather(*(client.connect() for client in opened))  # all of them are open before the first speaks
        openings = await asyncio.gather(*(client.reset(seed=seed % 8) for seed, client in enumerate(opened)))
        replies = await asyncio.gather(*(client.step({"message": "Sure."}) for client in opened))
        await asyncio.gather(*(client.close() for client in opened))
        said = [[result.observation["user_reply"] for result in results] for results in (openings, replies)]
        return list(zip(*said, strict=True))

    heard = asyncio.run(crowd())
    assert heard[:8] * 8 == heard
    assert list(heard[3]) == asyncio.run(play(url, "Sure.", seed=3))[0][:2]


@newest
def test_the_task_api_lists_scenarios_and_an_index_chooses_one(url):
    import httpx

    api = httpx.Client(base_url=f"{url}/simgym")
    assert api.post("/num_tasks", json={"split": "train"}).json()["num_tasks"] > 3
    task = api.post("/task", json={"split": "train", "index": 3}).json()["task"]
    _, result = asyncio.run(play(url, "Sure.", seed=1, split="train", index=3))
    assert result.observation["metadata"]["scenario_id"] == task["id"]


@newest
def test_openenv_validates_the_running_server(url):
    outcome = subprocess.run([OPENENV, "validate", "--url", url], capture_output=True, text=True, timeout=600)
    assert outcome.returncode == 0, outcome.stdout[-3000:] + outcome.stderr[-3000:]
    assert "PASS" in outcome.stdout or '"passed": true' in outcome.stdout


@newest
def test_a_token_is_asked_for_before_a_session_begins(serve, env_id, settings):
    url = serve(Guard(create_openenv_app(env_id, settings), "a token of 20 letters"))

    async def reset(headers):
        async with GenericEnvClient(base_url=url, headers=headers) as client:
            return (await client.reset(seed=7)).observation["user_reply"]

    assert asyncio.run(reset({"Authorization": "Bearer a token of 20 letters"}))
    with pytest.raises(Exception, match=r"403|rejected|[Ff]ailed to connect"):
        asyncio.run(reset({"Authorization": "Bearer another"}))


@newest
def test_a_package_is_valid_serves_with_its_judge_and_refuses_another(tmp_path, settings, env_id):
    here = str(Path(__file__).parent)
    package = tmp_path / "package"
    scenarios = tmp_path / "own.jsonl"
    scenarios.write_text(json.dumps({"id": "party", "intent": f"{INTENT_PREFIX}plan a party."}) + "\n")
    write_openenv(env_id, package, ExportOptions(settings={**settings, "scenarios": str(scenarios)}))
    command = [OPENENV, "validate", str(package), "--level", "static", "--skip-build"]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert outcome.returncode == 0, outcome.stdout[-3000:] + outcome.stderr[-3000:]
    code = "import server.app as s; print(sorted(route.path for route in s.app.routes)[0])"

    def start():
        env = {**os.environ, "PYTHONPATH": here}
        return subprocess.run([sys.executable, "-c", code], cwd=package, capture_output=True, text=True, env=env)

    scenarios.unlink()  # the package has its own
    assert start().returncode == 0, start().stderr[-2000:]
    told = json.loads((package / "simgym.json").read_text())
    (package / "simgym.json").write_text(json.dumps({**told, "judge": {"judge": "kinder"}}))
    assert re.search(r"rewards of this package are those of the judge \{'judge': 'kinder'\}", start().stderr)


@newest
def test_the_client_of_a_package_needs_no_simgym(tmp_path, settings, env_id, url):
    write_openenv(env_id, tmp_path / "demo_user", ExportOptions(settings=settings))
    code = (
        "import sys; sys.modules['simgym'] = None\n"
        "from demo_user import AssistantTurn, SimulatedUserClient\n"
        f"with SimulatedUserClient(base_url={url!r}).sync() as user:\n"
        "    result = user.reset(seed=7)\n"
        "    while not result.done:\n"
        "        result = user.step(AssistantTurn(message='Sure.'))\n"
        "    print(result.reward, result.observation.end_reason, user.state().step_count)\n"
    )
    outcome = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert outcome.stdout.split() == ["0.6", "turn_limit", "3"], outcome.stderr[-2000:]


@newest
def test_settings_that_are_no_json_are_not_exported(tmp_path, env_id):
    with pytest.raises(ConfigurationError, match="hold an instance"):
        write_openenv(env_id, tmp_path / "x", ExportOptions(settings={"scenarios": [object()]}))


def sample(text):
    def step(messages, tools, sampling):
        return ModelStepResult(LLMResponse(content=text, tool_calls=[]), [1] * len(messages), [2, 3], [-0.1, -0.2])

    return step


@newest
def test_the_harness_gives_the_policy_the_users_turns_in_the_user_role_and_keeps_its_tokens(env_id, settings):
    sessions = SimulatedUserSessions(env_id, settings)
    prompt = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "everyday-creative-010"}]
    session = sessions.create(prompt, seed=7)
    result = ConversationHarness().run_white_box(sample("Sure."), session, HarnessRunLimits(max_turns=9))
    assert [message["role"] for message in result.messages] == ["system", *["user", "assistant"] * 3]
    assert (result.completion_ids, result.logprobs) == ([2, 3] * 3, [-0.1, -0.2] * 3)
    verdict = session.verify(result.messages)
    assert (verdict.env_reward, verdict.metrics["end_reason"]) == (pytest.approx(0.6), "turn_limit")
    same = sessions.create(prompt, seed=7).initial_messages()
    assert same == result.messages[:2] != sessions.create(prompt, seed=8).initial_messages()


@newest
def test_an_unjudged_or_unfinished_rollout_is_not_scored(env_id, settings):
    sessions = SimulatedUserSessions(env_id, settings)
    for text, limit, done in (("unjudgeable", 9, True), ("Sure.", 1, False)):
        session = sessions.create("everyday-creative-010", seed=7)
        result = ConversationHarness().run_white_box(sample(text), session, HarnessRunLimits(max_turns=limit))
        verdict = session.verify(result.messages)
        assert (verdict.env_reward, verdict.done, result.done) == (None, done, done)


@pytest.mark.skipif(not IS_OLDER, reason="not refused")
def test_an_older_openenv_is_refused_in_a_sentence_that_names_the_range(env_id, settings):
    with pytest.raises(MissingDependency, match=r"openenv 0\.9\.0 is installed, simgym works with <0\.11,>=0\.10"):
        create_openenv_app(env_id, settings)


@newest
def test_the_documented_block_runs(documented):
    assert documented("OpenEnv").startswith("user")
