"""How much faster are simulated conversations than elsewhere, for the same work? And what does the framework cost?

    python benchmarks/throughput.py --peers runs/peers/bin/python --verifiers runs/verifiers/bin/python \
      --vllm .venv-vllm/bin/python --llama llama-server --openvino runs/openvino/bin/python --gguf runs/gguf

16 conversations of 5 assistant and 4 user turns, both played by the same 135M weights, greedily, in float32. The user
is a plain one: the role-play persona prompt and a goal as system message, and the chat with its roles swapped. Systems:

* `simgym`: one environment of 16 conversations;
* `generate`: one conversation after the other, transformers' `model.generate` on the whole history each turn;
* `generate, batched`: the same, all conversations in step, padded on the left;
* `threads`: 16 threads over `transformers serve` with the same weights, one request a turn;
* `threads, continuous batching`: the same with the server's paged continuous batching and its shared prefixes;
* `skyrl-gym`: its environment class with that user inside, in a pool of 32 threads, over the server without batching;
* `simgym bfloat16-mixed`, `simgym int8`: the first with the faster numerics of a CPU; other sums, so its texts need not
  be the same;
* `simgym OpenVINO`, `simgym int8 OpenVINO`: with OpenVINO installed, which then makes the engine's passes
  (`simgym.engine.openvino_decoder`);
* `vLLM`: a task for each conversation, over vLLM's server for CPUs in float32, with its prefix cache, without its
  compiler; `vLLM compiled`: with it, which takes minutes at each start (they are not counted);
* `vLLM in process`: the environment of the first, with `VllmLM` instead of `TransformersLM`;
* `llama.cpp float32`, `llama.cpp Q8_0`: tasks over its server with 16 slots and the same weights;
* `OpenVINO float32`, `OpenVINO Q8_0`: OpenVINO GenAI's continuous batching in process (`throughput_openvino.py`).

`generate`, `threads` and `skyrl-gym` are one engine at batch size 1, which is what a loop over environments gets; the
batched ones say how much of the difference is batching and how much is that nothing is read twice. Turns are short (24
tokens) and equally many, prefixes shared: work in which both pay.

Systems take turns within a repeat, each in a process of its own with the model loaded and warm; ratios are within a
repeat, given as the median and the range of the repeats. The hash of all texts says whether the work was the same.
Tokens that a model has processed (read, and written ones when the next step reads them) are counted against the
distinct ones, the nodes of the tree of all that was fed: 1.0 is the limit. A server without batching keeps nothing
between requests, so its tokens are those of its `usage`; what one with shared prefixes has processed it does not say.

`phases` says how many tokens a second each reads and writes when it does nothing else, what share that is of what the
machine's products of the same shapes allow (`throughput_phases.py`), and what the machine allows.

Before: seconds by number of turns (linear cost has the same seconds for each further turn), the framework's own
microseconds a turn with users and assistants that answer at once, beside other packages' (see `throughput_peers.py`;
verifiers starts a process for a turn, so it is asked for no more than 64 at once), and memory: all roles on one model
against the model alone. What was measured is kept in `--folder`, and the same command goes on from there; `--rehearse`
does all of it in small. Needs Linux, for memory is read from /proc, and `pip install 'transformers[serving]' openai`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from throughput_results import GROWTH, ON_SERVER, PHASES, Size, put_together
from throughput_servers import Programs, Serving, llama_server, transformers_server, vllm_server
from throughput_systems import NEW_TOKENS, hash_of, users

from simgym.jsonl import cut_torn_line
from simgym.transcripts import write_json

RESULTS = Path(__file__).with_name("results") / "throughput.json"
PHASES_SCRIPT = [sys.executable, "-W", "ignore", "throughput_phases.py"]
SYSTEMS = (
    "simgym",
    "generate",
    "generate, batched",
    "threads",
    "threads, continuous batching",
    "skyrl-gym",
    "simgym bfloat16-mixed",
    "simgym int8",
    "simgym OpenVINO",
    "simgym int8 OpenVINO",
    "vLLM",
    "vLLM compiled",
    "vLLM in process",
    "llama.cpp float32",
    "llama.cpp Q8_0",
    "OpenVINO float32",
    "OpenVINO Q8_0",
)
GGUF = {
    "llama.cpp float32": "smollm2-f32.gguf",
    "llama.cpp Q8_0": "smollm2-q8_0.gguf",
    "OpenVINO float32": "smollm2-f16.gguf",
    "OpenVINO Q8_0": "smollm2-q8_0.gguf",
}
PARTS = ("costs", "conversations", "phases")
MOST_PROCESSES = 64
"""At once, of a package that starts one for a turn."""


def main() -> None:
    """Measure what is missing, then put it together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", help="interpreter with skyrl-gym and gem-llm; without: they are left out")
    parser.add_argument("--verifiers", help="interpreter with verifiers; without: it is left out")
    parser.add_argument("--vllm", help="interpreter with vLLM; without: it is left out")
    parser.add_argument("--llama", help="llama.cpp's llama-server; without: it is left out")
    parser.add_argument("--openvino", help="interpreter with openvino-genai; without: it is left out")
    parser.add_argument("--gguf", type=Path, help="folder with smollm2-f32.gguf, smollm2-f16.gguf, smollm2-q8_0.gguf")
    parser.add_argument("--only", action="append", help="a system to measure, or several; without: all")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure; without: all")
    parser.add_argument("--folder", type=Path, default=Path("runs/throughput"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--rehearse", action="store_true", help="two conversations of two turns, once")
    given = parser.parse_args()
    size = Size(2, 2, (1, 2), (1, 4), 8, 2) if given.rehearse else Size()
    programs = Programs(given.vllm, given.llama, given.openvino, given.gguf)
    repeats = 1 if given.rehearse else given.repeats
    for interpreter, packages in (
        (given.peers, "skyrl_gym, gem, gymnasium, openai"),
        (given.verifiers, "verifiers.v1"),
        (given.vllm, "vllm, simgym"),
        (given.openvino, "openvino_genai, simgym"),
    ):
        if interpreter is not None:
            check(interpreter, packages)
    systems = [name for name in given.only or SYSTEMS if is_there(name, given)]
    store = Store(given.folder, size)
    if "costs" in given.parts:
        measure_costs(store, size, given)
    for repeat in range(repeats):
        if "conversations" in given.parts:
            store.drop_unless_all(f"{name} {repeat}" for name in systems)  # a ratio is one of the same minutes
            first = repeat % len(systems)
            for name in systems[first:] + systems[:first]:
                store.get(f"{name} {repeat}", lambda name=name: measure(name, size, programs, given.peers))
        if "phases" in given.parts:
            job = {"kind": "limits", "small": given.rehearse}
            store.get(f"limits {repeat}", lambda job=job: run_script(PHASES_SCRIPT, job))
            for name in (name for name in PHASES if is_there(name, given)):
                store.get(f"phases {name} {repeat}", lambda name=name: measure_phases(name, size, programs))
    result = put_together(store.kept, size, systems)
    write_json(given.folder / "rehearsal.json" if given.rehearse else given.output, result)
    print(json.dumps(result, indent=1))


def check(interpreter: str, packages: str) -> None:
    """Leave at once if an interpreter lacks a package: it is asked for after minutes of measuring."""
    try:
        probe = subprocess.run([interpreter, "-c", f"import {packages}"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise SystemExit(f"{interpreter} cannot be run: {error.strerror}. See throughput_peers.py.") from error
    if probe.returncode:
        last = probe.stderr.strip().splitlines()[-1:]
        raise SystemExit(f"{interpreter} cannot import {packages}: {''.join(last)}. See throughput_peers.py.")


def is_there(name: str, given: argparse.Namespace) -> bool:
    """Whether the user has what a system needs."""
    if name == "skyrl-gym":
        return given.peers is not None
    if name in ("simgym OpenVINO", "simgym int8 OpenVINO"):
        return given.openvino is not None
    if name.startswith("vLLM"):
        return given.vllm is not None
    if name in GGUF:
        return given.gguf is not None and (given.openvino if name.startswith("OpenVINO") else given.llama) is not None
    return True


def measure_costs(store: Store, size: Size, given: argparse.Namespace) -> None:
    """Growth, overhead and memory."""
    for system, (conversations, most) in GROWTH.items():
        for turns in (turns for turns in size.growth if turns <= most):
            job = {"kind": "converse", "system": system, "conversations": conversations, "turns": turns}
            store.get(f"growth {system} {turns}", lambda job=job: in_process(job))
    for count in size.environments:
        for name in ("simgym", "simgym role-play"):
            job = {"kind": "overhead", "system": name, "environments": count}
            store.get(f"overhead {name} {count}", lambda job=job: in_process(job))
        for name, interpreter in peers_of(given, count):
            job = {"what": "overhead", "package": name, "environments": count}
            store.get(f"overhead {name} {count}", lambda job=job, by=interpreter: of_peer(by, job))
    for what in ("alone", "shared"):
        store.get(f"memory {what}", lambda what=what: in_process({"kind": "memory", "what": what}))


def peers_of(given: argparse.Namespace, environments: int) -> list[tuple[str, str]]:
    """Packages whose overhead is measured with so many environments, and their interpreters."""
    peers = [(name, given.peers) for name in ("SyncVectorEnv", "skyrl-gym", "gem-llm")] if given.peers else []
    return [*peers, *([("verifiers", given.verifiers)] if given.verifiers and environments <= MOST_PROCESSES else [])]


class Store:
    """Measurements by name, in a file of this code and these settings; each is made once."""

    def __init__(self, folder: Path, settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.state = state(settings)
        self.path = folder / f"measurements-{self.state}.jsonl"
        lines = []
        if self.path.is_file():
            cut_torn_line(self.path)
            lines = self.path.read_text(encoding="utf-8").splitlines()
        self.kept: dict[str, Any] = dict(map(json.loads, lines))

    def get(self, name: str, measured: Callable[[], Any]) -> Any:
        """What was measured under the name, or what is measured now."""
        if name not in self.kept:
            measurement = measured()
            if state(self.settings) != self.state:
                raise SystemExit("The code has changed while it was measured. Measure from a copy that stays as it is.")
            self.kept[name] = measurement
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, measurement]) + "\n")
            print(
                name, json.dumps({key: value for key, value in measurement.items() if key != "said"})[:300], flush=True
            )
        return self.kept[name]

    def drop_unless_all(self, names: Iterable[str]) -> None:
        """Forget some measurements unless all of them are there; the file's last line of a name counts."""
        wanted = list(names)
        if not all(name in self.kept for name in wanted):
            for name in wanted:
                self.kept.pop(name, None)


def state(settings: Any) -> str:
    """Hash of what a measurement depends on: settings, versions, code (not what asks for it or sums it up)."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256(repr([settings, ON_SERVER, NEW_TOKENS, GGUF]).encode())
    for package in ("torch", "transformers", "gymnasium", "numpy"):
        digest.update(version(package).encode())
    for path in sorted([*root.glob("simgym/**/*.py"), *root.glob("benchmarks/throughput_*.py")]):
        if path.name != "throughput_results.py":
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def measure(name: str, size: Size, programs: Programs, peers: str | None) -> dict[str, Any]:
    """One system's repeat; memory is that of client and server together."""
    job = {"kind": "converse", "system": name, "conversations": size.conversations, "turns": size.turns}
    if name == "vLLM in process":
        return run_script([programs.vllm or "", "throughput_systems.py"], job)
    if name in ("simgym OpenVINO", "simgym int8 OpenVINO"):
        return run_script([programs.openvino or "", "throughput_systems.py"], job)
    if name.startswith("OpenVINO"):
        return run_script(*of_openvino(name, job, programs))
    if name.startswith(("simgym", "generate")):
        return in_process(job)
    with serving(name, programs) as server:
        if name == "skyrl-gym":
            work = {"base_url": server.address, "model": server.model, "users": users(size.conversations)}
            limits = {"turns": size.turns, "max_new_tokens": NEW_TOKENS}
            measurement = of_peer(peers or "", {"what": "conversations", **work, **limits})
            measurement |= {"hash": hash_of(measurement["said"])}
        else:
            measurement = in_process({**job, "address": server.address, "model": server.model})
        if "--continuous-batching" in ON_SERVER.get(name, ()):
            measurement["processed"] = None  # of a prompt's tokens it reads those that it does not know
        return {**measurement, "peak_mb": measurement["peak_mb"] + server.peak_mb()}


def serving(name: str, programs: Programs) -> contextlib.AbstractContextManager[Serving]:
    """The server of a system."""
    if name.startswith("vLLM"):
        return vllm_server(programs.vllm or "", compiled=name == "vLLM compiled")
    if name in GGUF:
        return llama_server(programs.llama or "", (programs.gguf or Path()) / GGUF[name])
    return transformers_server(ON_SERVER[name])


def measure_phases(name: str, size: Size, programs: Programs) -> dict[str, Any]:
    """One system's tokens a second."""
    job = {"kind": "phases", "system": name, "length": size.length, "written": size.written}
    if name in ("simgym OpenVINO", "simgym int8 OpenVINO"):
        return run_script([programs.openvino or "", *PHASES_SCRIPT[1:]], job)
    if name.startswith("simgym"):
        return run_script(PHASES_SCRIPT, job)
    if name.startswith("OpenVINO"):
        return run_script(*of_openvino(name, job, programs))
    with serving(name, programs) as server:
        return run_script(PHASES_SCRIPT, {**job, "address": server.address, "model": server.model})


def of_openvino(name: str, job: dict[str, Any], programs: Programs) -> tuple[list[str], dict[str, Any]]:
    """A job of `throughput_openvino.py`, and what runs it."""
    weights = str((programs.gguf or Path()) / GGUF[name])
    return [programs.openvino or "", "throughput_openvino.py"], {**job, "weights": weights}


def in_process(job: dict[str, Any]) -> dict[str, Any]:
    """A job of `throughput_systems.py`."""
    return run_script([sys.executable, "-W", "ignore", "throughput_systems.py"], job)


def of_peer(interpreter: str, job: dict[str, Any]) -> dict[str, Any]:
    """A job of `throughput_peers.py`."""
    return run_script([interpreter, "throughput_peers.py"], job)


def run_script(command: Sequence[str], job: dict[str, Any]) -> dict[str, Any]:
    """Give a job to a script beside this one."""
    script = str(Path(__file__).with_name(command[-1]))
    done = subprocess.run(
        [*command[:-1], script],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},  # this simgym, whatever is installed there
    )
    if done.returncode:
        raise SystemExit(f"{job} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
