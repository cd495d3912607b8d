"""How fast is `simgym view --web` over 10,000 conversations, in headless Chromium?

    python benchmarks/viewer.py

A matrix of four assistants and five simulators is written, 500 scenarios a cell, with prompts as long as role-play's.
The server is a process of its own, as a reader starts it. Measured in the page, from the key or click until the rows or
the conversation are there (two frames later, so that they are drawn): the first list after the start of the server, all
10,000 indexed, filters and searches, conversations opened at random, the next one by key, and scrolling: frames that
took longer than 50 ms while the list is drawn through its whole length. Written to `benchmarks/results/viewer.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from simgym.conversation import INTENT_PREFIX, Conversation, Scenario
from simgym.evaluation.matrix import file_stem
from simgym.evaluation.plan import Plan
from simgym.study.serving import free_port
from simgym.transcripts import ModelCall, Transcript, write_json

RESULTS = Path(__file__).with_name("results") / "viewer.json"
ASSISTANTS = ("plain", "clarify", "grpo-step-200", "ppo-step-400")
SIMULATORS = ("RolePlay", "RolePlayOpening", "Persona", "FineTuned", "Mixture")
PERSONAS = {"default": "1", "impatient": "2", "typos": "3", "side_questions": "4"}
FAULTS = ("role_flip: speaks as the assistant", "repeated", "context_overflow", "unparsable: no JSON object")
TEXT = (
    "could you help me plan a trip for two people in spring with little money and no car because the last time we went "
    "by train it rained all week and the museum was closed so this time I want something that works in any weather and "
    "a list of things to pack please keep it short I have ten minutes before my next meeting thanks that is better but "
    "what about the evening is there a place where children can play while we eat and how much would it cost roughly"
)
WORDS = TEXT.split()
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", type=int, default=500, help="per cell; 20 cells")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        size = write_run(run, args.scenarios)
        result = {
            "conversations": args.scenarios * len(ASSISTANTS) * len(SIMULATORS),
            "megabytes": round(size / 1e6, 1),
            "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
            "load": [round(value, 1) for value in os.getloadavg()[:2]],
            **measure(run),
        }
    write_json(args.output, result)
    print(json.dumps(result, indent=1))


def write_run(folder: Path, scenarios: int, *, seed: int = 0) -> int:
    """A matrix folder of conversations that nobody had, the same for the same seed; returns its bytes."""
    rng = np.random.default_rng(seed)
    fingerprint = {"kind": "scripted", "model": "none"}
    role_play = {"simulator": "role_play", "model": fingerprint, "guideline_hashes": PERSONAS}
    env_ids = [f"UserSim-{name}-v0" for name in SIMULATORS]
    plan = Plan(
        seed=0,
        max_turns=5,
        judge={"judge": "rubric"},
        assistants={name: {"assistant": "language_model", "model": name} for name in ASSISTANTS},
        simulators=dict.fromkeys(env_ids, role_play),
        scenarios={f"scenario-{number:05}": "0" for number in range(scenarios)},
    )
    write_json(folder / "plan.json", plan.to_json())
    (folder / "transcripts").mkdir()
    size = 0
    for assistant in ASSISTANTS:
        for env_id in env_ids:
            path = folder / "transcripts" / f"{file_stem(assistant, env_id)}.jsonl"
            prints = {"assistant": plan.assistants[assistant], "simulator": role_play, "judge": dict(plan.judge)}
            with path.open("w", encoding="utf-8") as file:
                for number in range(scenarios):
                    transcript = drawn_transcript(number, env_id, prints, rng)
                    file.write(json.dumps(transcript.to_json(), ensure_ascii=False) + "\n")
            size += path.stat().st_size
    return size


def drawn_transcript(number: int, env_id: str, fingerprints: dict[str, Any], rng: np.random.Generator) -> Transcript:
    """A conversation of one to five turns with its model calls; one of twelve has a fault."""

    def text(least: int, most: int) -> str:
        return " ".join(rng.choice(WORDS, int(rng.integers(least, most)))).capitalize() + "."

    talk, calls = Conversation(), []
    for turn in range(int(rng.integers(1, 6))):
        for role, least, most in (("user", 6, 40), ("assistant", 30, 150)):
            prompt = f"{' '.join(WORDS * 4)}\n{' '.join(said.content for said in talk.messages)}"
            talk = talk.add(role, text(least, most))  # type: ignore[arg-type]
            calls.append(
                ModelCall(
                    role=role,  # type: ignore[arg-type]
                    turn=turn,
                    seed=turn,
                    prompt=prompt,
                    output=talk.messages[-1].content,
                    prompt_tokens=len(prompt) // 4,
                    completion_tokens=len(talk.messages[-1].content) // 4,
                    finish_reason="stop",
                )
            )
    fault = str(rng.choice(FAULTS)) if rng.random() < 1 / 12 else None
    return Transcript(
        env_id=env_id,
        scenario=Scenario(f"scenario-{number:05}", f"{INTENT_PREFIX}{text(8, 20)}", persona_seed=number),
        seed=number,
        conversation=talk,
        end_reason="turn_limit" if fault is None else "simulator_fault",
        reward=round(float(rng.random()), 4) if fault is None else None,
        fault=fault,  # type: ignore[arg-type]
        reasons=(text(8, 20),),
        fingerprints=fingerprints,
        calls=tuple(calls),
    )


def measure(run: Path) -> dict[str, Any]:
    """Start the server, drive the page."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("Chromium is not installed.")
    script = shutil.which("simgym", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if script is None:
        raise SystemExit("The script `simgym` is not installed beside this Python.")
    port = str(free_port())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        began = time.perf_counter()
        command = [script, "view", "--web", str(run), "--port", port]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            go_to(page, re.search(r"http://\S+", server.stderr.readline())[0], server)
            page.wait_for_selector(".row")
            first = time.perf_counter() - began
            page.wait_for_function(f"() => !{STATUS}.includes('reading')", timeout=300_000)
            indexed = time.perf_counter() - began
            print(f"first rows after {first:.2f} s, everything indexed after {indexed:.2f} s", flush=True)
            driven = drive(page)
            status = Path(f"/proc/{server.pid}/status")
            peak = re.search(r"VmHWM:\s+(\d+)", status.read_text(encoding="ascii")) if status.exists() else None
        finally:
            server.terminate()
            server.wait(10)
        browser.close()
    return {
        "seconds_to_first_rows": round(first, 2),
        "seconds_to_all_indexed": round(indexed, 2),
        **driven,
        "server_peak_mib": round(int(peak[1]) / 1024) if peak else None,
    }


def go_to(page: Any, address: str, server: Any) -> None:
    """Open the page as soon as the server listens."""
    from playwright.sync_api import Error

    while True:
        try:
            page.goto(address)
            return
        except Error:
            if server.poll() is not None:
                raise
            time.sleep(0.02)


def timed(page: Any, act: str, done: str) -> float:
    """Milliseconds from an action until its outcome, both JavaScript, is drawn."""
    return page.evaluate(
        f"""async () => {{
          const before = performance.now();
          {act};
          while (!({done})) await new Promise((next) => requestAnimationFrame(next));
          await new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next)));
          return performance.now() - before;
        }}"""
    )


STATUS = "document.getElementById('status').textContent"
CHANGED = "document.getElementById('rows').firstChild !== window.before"


def reset(page: Any) -> None:
    """All conversations, as they were written."""
    page.evaluate("window.before = document.getElementById('rows').firstChild")
    timed(page, "document.querySelector('#filters button[type=reset]').click()", CHANGED)


def drive(page: Any) -> dict[str, Any]:
    """Filter, search, open, go on, scroll."""
    rng = np.random.default_rng(1)
    filters = []
    for name, value in (
        ("fault", "any"),
        ("assistant", "clarify"),
        ("simulator", "UserSim-Persona-v0"),
        ("lowest", "0.9"),
        ("order", "highest"),
        ("text", "museum weather"),
        ("text", "scenario-00007"),
        ("text", "a"),
    ):
        reset(page)
        page.evaluate("window.before = document.getElementById('rows').firstChild")
        act = (
            f"const field = document.getElementById('filters').elements.{name}; field.value = '{value}'; "
            "field.dispatchEvent(new Event('input', { bubbles: true }))"
        )
        # the list is drawn anew when the answer is there; 120 ms of it is the pause after the last key
        filters.append(timed(page, act, CHANGED))
    reset(page)
    total = page.evaluate("Math.round(document.getElementById('list').scrollHeight / 62)")
    opened = []
    for _ in range(20):
        place = int(rng.integers(0, total - 20))
        page.evaluate(f"document.getElementById('list').scrollTop = {place} * 62")
        page.wait_for_function(f"() => document.querySelector('[aria-posinset=\"{place + 3}\"]')")
        page.evaluate("window.before = document.querySelector('#reader article')")
        act = f"document.querySelector('[aria-posinset=\"{place + 3}\"]').click()"
        done = (
            "document.querySelector('#reader article') && document.querySelector('#reader article') !== window.before"
        )
        opened.append(timed(page, act, done))
    keyed = []
    for _ in range(50):
        page.evaluate("window.before = document.querySelector('#reader article')")
        act = "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'j', bubbles: true }))"
        keyed.append(timed(page, act, "document.querySelector('#reader article') !== window.before"))
    scroll = page.evaluate(
        """async () => {
          const box = document.getElementById("list"), frames = [];
          const length = box.scrollHeight, steps = 300;
          let last = performance.now(), blank = 0;
          for (let step = 0; step <= steps; step++) {
            box.scrollTop = (length * step) / steps;
            await new Promise((next) => requestAnimationFrame(next));
            const now = performance.now();
            frames.push(now - last);
            last = now;
            if (!document.querySelector("#rows .row")) blank += 1;
          }
          const until = performance.now();
          while (!document.querySelector("#rows .row")) await new Promise((next) => requestAnimationFrame(next));
          const elements = document.querySelectorAll(".row").length;
          return { frames, blank, settled: performance.now() - until, elements };
        }"""
    )
    return {
        "milliseconds": {
            "filter_or_search": quantiles(filters),
            "open": quantiles(opened),
            "next_by_key": quantiles(keyed),
            "frame_while_scrolling": quantiles(scroll["frames"]),
        },
        "filter_includes_pause_ms": 120,
        "frames_over_50_ms": sum(frame > 50 for frame in scroll["frames"]),
        "frames_without_rows": scroll["blank"],
        "frames": len(scroll["frames"]),
        "milliseconds_until_rows_after_the_last_frame": round(scroll["settled"], 1),
        "rows_in_the_document": scroll["elements"],
    }


def quantiles(milliseconds: list[float]) -> dict[str, float]:
    """Median, 95 % and largest."""
    p50, p95 = np.quantile(milliseconds, [0.5, 0.95])
    largest = max(milliseconds)
    return {"n": len(milliseconds), "p50": round(p50, 1), "p95": round(p95, 1), "max": round(largest, 1)}


if __name__ == "__main__":
    main()
