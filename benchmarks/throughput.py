"""How much faster are simulated conversations than elsewhere, for the same work? And what does the framework cost?

    python benchmarks/throughput.py --peers runs/peers/bin/python --verifiers runs/verifiers/bin/python

16 conversations of 5 assistant and 4 user turns, both played by the same 135M weights, greedily, in float32. The user
is a plain one: the role-play guideline and a goal as system message, and the chat with its roles swapped. Systems:

* `simgym`: one environment of 16 conversations;
* `generate`: one conversation after the other, transformers' `model.generate` on the whole history each turn;
* `threads`: 16 threads over `transformers serve` with the same weights, one request a turn;
* `skyrl-gym`: its environment class with that user inside, in a pool of 32 threads, over the same server;
* `simgym bfloat16-mixed`: the first with the faster numerics of a CPU; other sums, so its texts need not be the same.

Systems take turns within a repeat, each in a process of its own with the model loaded and warm; ratios are within a
repeat, their medians have intervals from resampled repeats. The hash of all texts says whether the work was the same.
Tokens a model has processed (read, and written ones read again by the next step) are counted against the distinct ones,
the nodes of the tree of all its sequences: 1.0 is the limit; of a server they are those of its `usage`, for it keeps
nothing between requests. What was measured is kept in `--folder`, and the same command goes on from there.

Then: time of 8 conversations by their number of turns (the exponent is 1 for linear cost), the framework's own
microseconds a turn with users and assistants that answer at once, beside other packages' (see `throughput_peers.py`;
verifiers starts a process for a turn, so it is asked for no more than 64 at once), and memory: all roles on one model
against the model alone.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from throughput_systems import NEW_TOKENS, hash_of, users

from simgym.language_models.weights import EMBEDDED, resolve_weights
from simgym.transcripts import write_json

RESULTS = Path(__file__).with_name("results") / "throughput.json"
CONVERSATIONS, TURNS = 16, 5
GROWTH = (2, 4, 8, 16)
"""Turns of the conversations whose time is fitted."""
SYSTEMS = ("simgym", "generate", "threads", "skyrl-gym", "simgym bfloat16-mixed")
ENVIRONMENTS = (1, 64, 1024)
MOST_PROCESSES = 64
"""At once, of a package that starts one for a turn."""
ON_SERVER = ("threads", "skyrl-gym")


def main() -> None:
    """Measure what is missing, then put it together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", help="interpreter with skyrl-gym and gem-llm; without: they are left out")
    parser.add_argument("--verifiers", help="interpreter with verifiers; without: it is left out")
    parser.add_argument("--serve-options", nargs="*", default=[], help="further options of `transformers serve`")
    parser.add_argument("--folder", type=Path, default=Path("runs/throughput"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    store = Store(given.folder, given.serve_options)
    systems = [name for name in SYSTEMS if given.peers or name != "skyrl-gym"]
    for repeat in range(given.repeats):
        store.drop_unless_all(f"{name} {repeat}" for name in systems)  # a ratio is one of the same minutes
        first = repeat % len(systems)
        for name in systems[first:] + systems[:first]:
            store.get(f"{name} {repeat}", lambda name=name: measure(name, given.serve_options, given.peers))
    for repeat in range(2):
        for turns in GROWTH:
            job = {"kind": "converse", "system": "simgym", "conversations": 8, "turns": turns}
            store.get(f"growth {turns} {repeat}", lambda job=job: in_process(job))
    for count in ENVIRONMENTS:
        for name in ("simgym", "simgym role-play"):
            job = {"kind": "overhead", "system": name, "environments": count}
            store.get(f"overhead {name} {count}", lambda job=job: in_process(job))
        for name, interpreter in peers_of(given, count):
            job = {"what": "overhead", "package": name, "environments": count}
            store.get(f"overhead {name} {count}", lambda job=job, by=interpreter: of_peer(by, job))
    for what in ("alone", "shared"):
        store.get(f"memory {what}", lambda what=what: in_process({"kind": "memory", "what": what}))
    result = put_together(store, systems, given.repeats)
    write_json(given.output, result)
    print(json.dumps(result, indent=1))


def peers_of(given: argparse.Namespace, environments: int) -> list[tuple[str, str]]:
    """Packages whose overhead is measured with so many environments, and their interpreters."""
    several = [(name, given.peers) for name in ("SyncVectorEnv", "skyrl-gym", "gem-llm")] if given.peers else []
    return [*several, *([("verifiers", given.verifiers)] if given.verifiers and environments <= MOST_PROCESSES else [])]


class Store:
    """Measurements by name, in a file of this code and these settings; each is made once."""

    def __init__(self, folder: Path, serve_options: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"measurements-{state(serve_options)}.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        self.found: dict[str, Any] = dict(map(json.loads, lines))

    def get(self, name: str, measured: Any) -> Any:
        """What was measured under the name, or what is measured now."""
        if name not in self.found:
            self.found[name] = measured()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, self.found[name]]) + "\n")
            shown = {key: value for key, value in self.found[name].items() if key not in ("said", "sequences")}
            print(name, json.dumps(shown)[:300], flush=True)
        return self.found[name]

    def drop_unless_all(self, names: Iterable[str]) -> None:
        """Forget some measurements unless all of them are there."""
        wanted = list(names)
        if not all(name in self.found for name in wanted):
            for name in wanted:
                self.found.pop(name, None)


def state(serve_options: Sequence[str]) -> str:
    """Hash of what a measurement depends on: code, settings, versions."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256(json.dumps([CONVERSATIONS, TURNS, NEW_TOKENS, GROWTH, *serve_options]).encode())
    for package in ("torch", "transformers", "gymnasium", "numpy"):
        digest.update(version(package).encode())
    for path in sorted([*root.glob("simgym/**/*.py"), *root.glob("benchmarks/throughput*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def measure(name: str, serve_options: Sequence[str], peers: str | None) -> dict[str, Any]:
    """One system's repeat; memory is that of client and server together."""
    job = {"kind": "converse", "system": name, "conversations": CONVERSATIONS, "turns": TURNS}
    if name not in ON_SERVER:
        return in_process(job)
    with server(serve_options) as address:
        if name == "threads":
            found = in_process({**job, "address": address})
        else:
            weights = str(resolve_weights(EMBEDDED).path)
            work = {"base_url": address, "model": weights, "users": users(CONVERSATIONS), "turns": TURNS}
            found = of_peer(peers, {"what": "conversations", **work, "max_new_tokens": NEW_TOKENS})
            found |= {"hash": hash_of(found["said"]), "processed": sum(found["tokens"].values())}
        return {**found, "peak_mb": found["peak_mb"] + server_peak()}


def in_process(job: dict[str, Any]) -> dict[str, Any]:
    """A job of `throughput_systems.py`."""
    return run_script([sys.executable, "-W", "ignore", "throughput_systems.py"], job)


def of_peer(peers: str | None, job: dict[str, Any]) -> dict[str, Any]:
    """A job of `throughput_peers.py`."""
    return run_script([peers or "", "throughput_peers.py"], job)


def run_script(command: Sequence[str], job: dict[str, Any]) -> dict[str, Any]:
    """Give a job to a script beside this one."""
    script = str(Path(__file__).with_name(command[-1]))
    done = subprocess.run([*command[:-1], script], input=json.dumps(job), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{job} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


_serving: list[int] = []


@contextlib.contextmanager
def server(options: Sequence[str]) -> Iterator[str]:
    """`transformers serve` with the embedded weights, loaded and warm, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(resolve_weights(EMBEDDED).path)]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--dtype", "float32", "--port", str(port), "--log-level", "error", *options],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _serving[:] = [process.pid]
    try:
        wait_for(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        _serving.clear()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    """Until the server has answered once, so that its model is loaded and warm."""
    body = {"model": str(resolve_weights(EMBEDDED).path), "messages": [{"role": "user", "content": "hi"}]}
    request = urllib.request.Request(  # an address of our own
        f"{address}/v1/chat/completions",
        json.dumps({**body, "max_tokens": 2, "temperature": 0.0}).encode(),
        {"Content-Type": "application/json"},
    )
    for _ in range(120):
        if process.poll() is not None:
            raise SystemExit(f"transformers serve ended with code {process.returncode}. Install transformers[serving].")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(request, timeout=120).read()
            return
        time.sleep(1)
    raise SystemExit("transformers serve did not answer within two minutes.")


def server_peak() -> int:
    """Most memory of the server so far, MB."""
    for line in Path(f"/proc/{_serving[0]}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    return 0


def put_together(store: Store, systems: Sequence[str], repeats: int) -> dict[str, Any]:
    """Ratios, tokens, growth, overhead, memory."""
    found = store.found
    runs = {name: [found[f"{name} {repeat}"] for repeat in range(repeats)] for name in systems}
    reference = runs["simgym"]
    rows: dict[str, Any] = {}
    for name, several in runs.items():
        ratios = [one["seconds"] / mine["seconds"] for one, mine in zip(several, reference, strict=True)]
        processed, least = several[0]["processed"], several[0].get("distinct", reference[0]["distinct"])
        both = list(zip(several[0]["said"], reference[0]["said"], strict=True))
        rows[name] = {
            "seconds": round(statistics.median(one["seconds"] for one in several), 1),
            "times_as_long_as_simgym": interval(ratios),
            "hashes": sorted({one["hash"] for one in several}),
            "conversations_that_differ": sum(one != other for one, other in both),
            "tokens_processed": processed,
            "processed_per_distinct": round(processed / least, 2),
            "peak_mb": max(one["peak_mb"] for one in several),
        }
    seconds = [statistics.mean(found[f"growth {turns} {repeat}"]["seconds"] for repeat in range(2)) for turns in GROWTH]
    return {
        "work": {
            "conversations": CONVERSATIONS,
            "assistant_turns": TURNS,
            "user_turns": TURNS - 1,
            "max_new_tokens": NEW_TOKENS,
            "tokens_read_by_requests": reference[0]["asked"]["read"],
            "tokens_written": reference[0]["asked"]["written"],
            "distinct_tokens": reference[0]["distinct"],
            "repeats": repeats,
        },
        "systems": rows,
        "growth": {
            "turns": GROWTH,
            "seconds": [round(one, 1) for one in seconds],
            "exponent": round(float(np.polyfit(np.log(GROWTH), np.log(seconds), 1)[0]), 2),
        },
        "microseconds_a_turn": {
            name.removeprefix("overhead "): round(statistics.median(one["microseconds"]), 1)
            for name, one in found.items()
            if name.startswith("overhead ")
        },
        "process_with_all_roles_over_model_alone": round(
            found["memory shared"]["peak_mb"] / found["memory alone"]["peak_mb"], 2
        ),
    }


def interval(ratios: Sequence[float]) -> dict[str, Any]:
    """Median, and a 95 % percentile interval of it over resampled repeats."""
    rng = np.random.default_rng(0)
    drawn = np.median(rng.choice(np.asarray(ratios), size=(9999, len(ratios))), axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"median": round(statistics.median(ratios), 2), "low": round(float(low), 2), "high": round(float(high), 2)}


if __name__ == "__main__":
    main()
