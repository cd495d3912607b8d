"""What `throughput.py` measures of other packages, run by their own interpreter: they need other versions of packages.

    python -m venv runs/peers && runs/peers/bin/pip install skyrl-gym==0.4.0 gem-llm==0.1.0 gymnasium openai
    python -m venv runs/verifiers && runs/verifiers/bin/pip install verifiers==0.4.0 uv
    python benchmarks/throughput.py --peers runs/peers/bin/python --verifiers runs/verifiers/bin/python

Reads a job as JSON from standard input, writes its result as JSON to standard output. Nothing of simgym is imported.
The user of the conversations is the same as on the other side: the same server, messages and settings, inside the
package's own environment class, with its environments stepped as SkyRL's generator does it, in a pool of 32 threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

POOL = 32
"""Threads that SkyRL's generator steps environments in, by default."""
SAID = "And what would you like?"
REPEATS = 20
PROCESS_REPEATS = 3
"""The same where a turn starts a process."""


def main() -> None:
    """One job."""
    job = json.load(sys.stdin)
    print(json.dumps({"conversations": converse, "overhead": overhead}[job.pop("what")](**job)))


def converse(base_url: str, model: str, users: list[dict[str, str]], turns: int, max_new_tokens: int) -> dict[str, Any]:
    """Conversations of a policy with skyrl-gym environments whose user is played by the server."""
    import openai
    from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput

    completions = openai.OpenAI(base_url=base_url, api_key="none", timeout=3600).chat.completions  # imports the rest
    tokens = {"read": 0, "written": 0, "requests": 0}

    def ask(messages: list[dict[str, str]]) -> str:
        answer = completions.create(model=model, messages=messages, temperature=0.0, max_tokens=max_new_tokens)
        tokens["read"] += answer.usage.prompt_tokens
        tokens["written"] += answer.usage.completion_tokens
        tokens["requests"] += 1
        return (answer.choices[0].message.content or "").strip() or "..."

    class UserEnv(BaseTextEnv):
        """A user with a goal; an action is what the assistant says."""

        def __init__(self, goal: str, opening: str) -> None:
            super().__init__()
            self.goal, self.max_turns = goal, turns
            self.said = [{"role": "user", "content": opening}]

        def step(self, action: str) -> BaseTextEnvStepOutput:
            self.turns += 1
            self.said.append({"role": "assistant", "content": action})
            if self.turns >= self.max_turns:
                return BaseTextEnvStepOutput(observations=[], reward=0.0, done=True, metadata={})
            swapped = {"user": "assistant", "assistant": "user"}
            seen = [{"role": swapped[message["role"]], "content": message["content"]} for message in self.said]
            reply = {"role": "user", "content": ask([{"role": "system", "content": self.goal}, *seen])}
            self.said.append(reply)
            return BaseTextEnvStepOutput(observations=[reply], reward=0.0, done=False, metadata={})

    def run(user: dict[str, str]) -> list[dict[str, str]]:
        env = UserEnv(user["system"], user["opening"])
        history, _ = env.init([{"role": "user", "content": user["opening"]}])
        done = False
        while not done:
            said = ask(history)
            outcome = steps.submit(env.step, said).result()
            history = [*history, {"role": "assistant", "content": said}, *outcome["observations"]]
            done = outcome["done"]
        return env.said

    started = time.perf_counter()
    with ThreadPoolExecutor(POOL) as steps, ThreadPoolExecutor(len(users)) as policies:
        said = list(policies.map(run, users))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {
        "peak_mb": peak,
        "seconds": seconds,
        "said": [[[m["role"], m["content"]] for m in conversation] for conversation in said],
        "written": tokens["written"],
        "processed": tokens["read"] + tokens["written"] - tokens["requests"],  # a reply's last token is not fed
        "package": "skyrl-gym",
        "version": version("skyrl-gym"),
    }


def overhead(package: str, environments: int) -> dict[str, Any]:
    """Microseconds a turn of environments whose user answers at once.

    Of the first three this is a bare `step` of an environment that never ends, without rewards; of verifiers a turn of
    its tool-less agent, the one its own simulated user has: a process and a call of a model over HTTP.
    """
    if package == "verifiers":
        samples = asyncio.run(verifiers_turns(environments))
    else:
        samples = timed(
            {"skyrl-gym": skyrl_step, "gem-llm": gem_step, "SyncVectorEnv": sync_step}[package], environments
        )
    name = {"SyncVectorEnv": "gymnasium"}.get(package, package)
    return {"microseconds": samples, "package": name, "version": version(name)}


def timed(make: Any, environments: int) -> list[float]:
    """Microseconds a turn, several times."""
    step, samples = make(environments), []
    for _ in range(REPEATS):
        started = time.perf_counter()
        step()
        samples.append((time.perf_counter() - started) / environments * 1e6)
    return samples


def skyrl_step(environments: int) -> Any:
    """N environments of skyrl-gym in its pool of threads."""
    from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput

    class Echo(BaseTextEnv):
        def step(self, action: str) -> BaseTextEnvStepOutput:
            self.turns += 1
            return BaseTextEnvStepOutput(
                observations=[{"role": "user", "content": action}], reward=0.0, done=False, metadata={}
            )

    pool = ThreadPoolExecutor(POOL)
    echoes = [Echo() for _ in range(environments)]
    return lambda: [future.result() for future in [pool.submit(env.step, SAID) for env in echoes]]


def gem_step(environments: int) -> Any:
    """N environments in gem's own vector environment, stepped one after the other."""
    from gem.core import Env
    from gem.vector.sync_vector_env import SyncVectorEnv

    class Echo(Env):
        def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
            return "hello", {}

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            return action, 0.0, False, False, {}

    vector = SyncVectorEnv(["echo"] * environments, [Echo for _ in range(environments)])
    vector.reset()
    return lambda: vector.step([SAID] * environments)


def sync_step(environments: int) -> Any:
    """N environments with texts as observations in Gymnasium's SyncVectorEnv."""
    import gymnasium

    class Echo(gymnasium.Env[str, str]):
        observation_space = gymnasium.spaces.Text(200)
        action_space = gymnasium.spaces.Text(200)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
            return "hello", {}

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            return action, 0.0, False, False, {}

    vector = gymnasium.vector.SyncVectorEnv([Echo for _ in range(environments)])
    vector.reset()
    return lambda: vector.step((SAID,) * environments)


class Fine(BaseHTTPRequestHandler):
    """A server that always says the same, at once."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        head = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "fine"}
        said = {"index": 0, "delta": {"role": "assistant", "content": "fine"}, "finish_reason": None}
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        parts = [{**head, "choices": [said]}, {**head, "choices": [end], "usage": usage}]
        body = "".join(f"data: {json.dumps(part)}\n\n" for part in parts).encode() + b"data: [DONE]\n\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Nothing: a line a request would be measured, too."""


async def verifiers_turns(environments: int) -> list[float]:
    """N interactions of verifiers' tool-less agent on this machine, the caller being the user; all speak at once."""
    import verifiers.v1 as vf

    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it calls `uv`
    server = ThreadingHTTPServer(("127.0.0.1", 0), Fine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = vf.AgentConfig(
        harness={"id": "null"},
        runtime=vf.SubprocessConfig(),
        model="fine",
        client=vf.EvalClientConfig(base_url=f"http://127.0.0.1:{server.server_port}/v1"),
    )
    samples = []
    async with vf.make_agent(config) as agent, contextlib.AsyncExitStack() as stack:
        talks = [
            await stack.enter_async_context(agent.interaction(vf.Task(vf.TaskData(idx=number, prompt=None))))
            for number in range(environments)
        ]
        for _ in range(PROCESS_REPEATS + 1):
            started = time.perf_counter()
            turns = await asyncio.gather(*(talk.turn(SAID) for talk in talks))
            samples.append((time.perf_counter() - started) / environments * 1e6)
            if failed := [turn for turn in turns if turn.terminated or turn.last_reply != "fine"]:
                raise SystemExit(f"{len(failed)} turns failed: {talks[0].trace.errors}")
    return samples[1:]  # the first prepares the process's packages


if __name__ == "__main__":
    main()
