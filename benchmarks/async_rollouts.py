"""How long does the policy's GPU wait for users, judges and the longest reply, in step and asynchronously?

    python benchmarks/async_rollouts.py            # --small: seconds instead of minutes

Rollouts for GRPO with a role-playing user and a rubric judge, at 64 and at 512 conversations at a time. In step is
`make_rollout_func`, as TRL's `GRPOTrainer` calls it: a turn of everybody, then everybody's users, and so on.
Asynchronous is `SimulatedUserWorker`, as TRL's `AsyncGRPOTrainer` runs it: each conversation for itself, and the next
one begins when one has ended. Nothing is trained. Policy, users and judge are a simulated server
(`simulated_server.py`), and how long a reply takes is lognormal. How unlike replies are in length is measured: on turns
of assistants and of people in `human_ai_dev.jsonl` (`--measure`, with that file in the data folder; what was found is
stored with the results). Judges are given the spread of people, for lack of logs.

The policy has as many places as conversations are allowed at a time. `idle` is the time in which no place is in use,
`empty` the share of places that are not, over the time in which the conversations are played.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from server_collection import scenario
from simulated_server import Latency, Served, ServerConfig, simulated_server

RESULTS = Path(__file__).parent / "results" / "async_rollouts.json"
MEDIANS = {"policy": 6.0, "user": 3.0, "judge": 3.0}
"""Seconds of a reply of median length; their ratio matters, and that work of this process is small beside them."""
LONGEST = 4.0
"""Times the median: the bound of new tokens. One in nine of the policy's replies reaches it."""
GROUP = 4
TURNS = 3
ROUNDS = 2
"""Batches in step; as many conversations are taken from the worker."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How unlike in length the replies of a role are."""

    sigma: float
    """Standard deviation of the logarithm of their lengths in characters."""
    replies: int
    """How many were measured."""


def measure_spread() -> dict[str, Spread]:
    """How unlike in length turns are in conversations of people with assistants."""
    from simgym.data.sources import data_file

    lengths: dict[str, list[float]] = {"assistant": [], "user": []}
    with data_file("human_ai_dev.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            for turn in json.loads(line)["conversation"]:
                if turn["content"].strip():
                    lengths[turn["role"]].append(math.log(len(turn["content"])))
    policy, user = (
        Spread(round(statistics.stdev(lengths[role]), 3), len(lengths[role])) for role in ("assistant", "user")
    )
    return {"policy": policy, "user": user, "judge": user}


def settings_of(url: str, at_once: int) -> dict[str, Any]:
    """Who plays the user, and the judge."""
    model = {"kind": "openai", "model": "m", "base_url": url, "max_concurrency": at_once, "timeout": 3600}
    return {"model": model, "judge": "rubric", "judge_model": model, "max_turns": TURNS}


def arguments_of(url: str, at_once: int) -> SimpleNamespace:
    """What of an `AsyncGRPOConfig` the worker and the policy's server ask for."""
    return SimpleNamespace(
        num_generations=GROUP, max_inflight_tasks=at_once, queue_maxsize=8 * at_once, max_staleness=10**6,
        vllm_server_base_url=url.removesuffix("/v1"), max_completion_length=64, temperature=1.0, top_p=1.0, top_k=0,
        min_p=None, repetition_penalty=1.0, request_timeout=3600, chat_template_kwargs=None,
    )  # fmt: skip


def in_step(url: str, at_once: int, tokenizer: Any) -> float:
    """Seconds of `ROUNDS` batches, one after the other."""
    from accelerate import Accelerator

    from simgym.integrations import make_rollout_func
    from simgym.language_models.policy_server import PolicyServer

    scenarios = [scenario(number) for number in range(at_once // GROUP)]
    rollouts = make_rollout_func("UserSim-RolePlayOpening-v0", scenarios=scenarios, **settings_of(url, at_once))
    server = PolicyServer(arguments_of(url, at_once))
    with ThreadPoolExecutor(at_once) as pool:

        def write(numbered: tuple[int, list[int]]) -> Any:
            return server.write("m", numbered[1], numbered[0])

        def generate(prompt_ids: list[list[int]], *_: Any) -> tuple[list[list[int]], list[list[float]]]:
            replies = list(pool.map(write, enumerate(prompt_ids)))
            return [reply.ids for reply in replies], [reply.logprobs for reply in replies]

        trainer = SimpleNamespace(
            processing_class=tokenizer, accelerator=Accelerator(cpu=True), use_vllm=False, vllm_generation=None,
            _generate_single_turn=generate, chat_template_kwargs={}, state=SimpleNamespace(global_step=0),
            model=SimpleNamespace(training=True, config=SimpleNamespace(max_position_embeddings=10**6)),
            args=SimpleNamespace(max_completion_length=64, vllm_max_model_length=None),
        )  # fmt: skip
        prompts = [[{"role": "user", "content": each.id}] for each in scenarios for _ in range(GROUP)]
        began = time.perf_counter()
        for step in range(ROUNDS):
            trainer.state.global_step = step
            rollouts(prompts, trainer)
        seconds = time.perf_counter() - began
    server.close()
    return seconds


def asynchronous(url: str, at_once: int, tokenizer: Any) -> float:
    """Seconds until as many conversations have come out of the buffer."""
    from simgym.integrations.trl_async import SimulatedUserWorker

    settings = settings_of(url, at_once)
    worker = SimulatedUserWorker(
        "UserSim-RolePlayOpening-v0", scenarios=[scenario(number) for number in range(at_once // GROUP)], model="m",
        user_model=settings.pop("model"), tokenizer=tokenizer, args=arguments_of(url, at_once), **settings,
    )  # fmt: skip
    began = time.perf_counter()
    worker.start()
    try:
        for _ in range(ROUNDS * at_once):
            worker.rollout_buffer.get(timeout=3600)
            worker.check_health(3600)
        return time.perf_counter() - began
    finally:
        worker.stop()


def use(served: list[Served], seconds: float, places: int) -> dict[str, float]:
    """How much of the policy's places was in use, from its first request on."""
    turns = sorted((turn.began, turn.began + turn.seconds) for turn in served if turn.role == "policy")
    first = min(request.began for request in served)
    last = first + seconds
    turns = [(begin, min(end, last)) for begin, end in turns if begin < last]
    busy, until = 0.0, first
    for begin, end in turns:
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    occupied = sum(end - begin for begin, end in turns)
    return {
        "policy_turns": len(turns),
        "seconds": round(seconds, 2),
        "idle_seconds": round(seconds - busy, 2),
        "idle": round(1 - busy / seconds, 4),
        "empty": round(1 - occupied / (places * seconds), 4),
    }


def compare(at_once: int, spread: dict[str, Spread], scale: float) -> dict[str, Any]:
    """Both ways at a number of conversations."""
    from transformers import AutoTokenizer

    from simgym.testing import save_tiny_model

    latencies = {
        role: Latency(scale * median, spread[role].sigma, scale * median * LONGEST) for role, median in MEDIANS.items()
    }
    row: dict[str, Any] = {"conversations": at_once}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = AutoTokenizer.from_pretrained(save_tiny_model(folder, context_length=10**6))
        reply = (*tokenizer("Yes, and a river.", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)
        for name, play in (("in_step", in_step), ("asynchronous", asynchronous)):
            with simulated_server(ServerConfig(latencies, policy_reply=reply)) as (url, log):
                seconds = play(url, at_once, tokenizer)
            row[name] = use(log.served, seconds, at_once)
    step, free = row["in_step"], row["asynchronous"]
    row["empty_in_step_over_asynchronous"] = round(step["empty"] / max(free["empty"], 1e-4), 2)
    row["seconds_in_step_over_asynchronous"] = round(step["seconds"] / free["seconds"], 2)
    for name, mode in (("in step", step), ("asynchronously", free)):
        print(
            f"{at_once} conversations {name}: {mode['seconds']:.0f} s, "
            f"the policy idle for {mode['idle_seconds']:.0f} s, {mode['empty']:.0%} of its places empty"
        )
    print(
        f"In step over asynchronous: {row['seconds_in_step_over_asynchronous']:.2f} in time, "
        f"{row['empty_in_step_over_asynchronous']:.2f} in empty places",
        flush=True,
    )
    return row


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--small", action="store_true", help="8 conversations with short replies, for a test")
    parser.add_argument("--measure", action="store_true", help="measure the spread of lengths anew")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    os.environ["NO_PROXY"] = "127.0.0.1"
    spread = measure_spread() if args.measure else stored_spread()
    sizes, scale = ([8], 0.02) if args.small else (args.conversations, 1.0)
    rows = [compare(at_once, spread, scale) for at_once in sizes]
    machine = {"processors": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()}
    lengths = {role: {"sigma": each.sigma, "replies": each.replies} for role, each in spread.items()}
    result = {
        "machine": machine, "medians": {role: scale * median for role, median in MEDIANS.items()},
        "longest_over_median": LONGEST,
        "measured_spread_of_lengths": lengths, "group": GROUP, "turns": TURNS, "rounds": ROUNDS, "runs": rows,
    }  # fmt: skip
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def stored_spread() -> dict[str, Spread]:
    """What an earlier `--measure` found."""
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))["measured_spread_of_lengths"]
    return {role: Spread(each["sigma"], each["replies"]) for role, each in stored.items()}


if __name__ == "__main__":
    main()
