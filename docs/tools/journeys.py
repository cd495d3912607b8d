"""Print how a call travels through simgym: the functions on the stack when a function is reached for the first time.

    python docs/tools/journeys.py [--write] [step matrix grpo]

With `--write` the lists in `docs/architecture.md` are replaced. Each journey runs the real thing, with a tiny random
model or scripted models, and watches for its destinations. What is printed is the stack, one `file:function` a hop, so
that a callback upward or a detour cannot be overlooked. Frames of other packages are left out; TRL's count as one hop.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"


def hops(frame: FrameType | None) -> list[str]:
    """The stack, outermost first; frames of TRL are one hop."""
    stack: list[str] = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT / "simgym") or path.is_relative_to(ROOT / "agents"):
            stack.append(f"{path.relative_to(ROOT).as_posix().removeprefix('simgym/')}:{frame.f_code.co_qualname}")
        elif "trl" in path.parts and stack[-1:] != ["(TRL)"]:
            stack.append("(TRL)")
        frame = frame.f_back
    return stack[::-1]


def watch(run: Callable[[], object], destinations: tuple[str, ...]) -> list[list[str]]:
    """Run; the stack at the first call of each function whose qualified name is a destination, in that order."""
    waiting = set(destinations)
    stacks: list[list[str]] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_qualname in waiting and "simgym" in frame.f_code.co_filename:
            waiting.discard(frame.f_code.co_qualname)
            stacks.append(hops(frame))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    if waiting:
        raise SystemExit(f"Never reached: {', '.join(sorted(waiting))}.")
    return stacks


def step() -> list[list[str]]:
    """`env.step` to the sampled token, and to the judge."""
    import gymnasium

    from simgym.testing.tiny_models import save_tiny_model

    folder = str(save_tiny_model(Path(tempfile.mkdtemp()) / "model"))
    judge = {"judge": "relevance", "judge_options": {"model": folder}, "max_turns": 1}
    talking = gymnasium.make("UserSim-RolePlayOpening-v0", model=folder, **{**judge, "max_turns": 5})
    talking.reset(seed=0)
    to_the_token = watch(lambda: talking.step("What would you like to know?"), ("Sampler.sample",))
    ending = gymnasium.make("UserSim-Replay-v0", **judge)
    ending.reset(seed=0)
    return to_the_token + watch(lambda: ending.step("Well?"), ("TransformersLM.loglikelihood",))


def matrix() -> list[list[str]]:
    """A matrix cell from the command line to the report."""
    from typer.testing import CliRunner

    from simgym.cli.main import app

    command = [
        *("matrix", "--assistant", "first=scripted:clarify", "--assistant", "second=scripted:seed"),
        *("--env", "UserSim-RolePlay-v0", "--model", "scripted:seed", "--judge", "relevance"),
        *("--judge-model", "scripted:echo", "-n", "2", "--max-turns", "2", "-o", tempfile.mkdtemp() + "/run"),
    ]

    def run() -> None:
        outcome = CliRunner().invoke(app, command)
        if outcome.exit_code:
            raise SystemExit(outcome.output)

    return watch(run, ("Simulation.step", "TranscriptWriter.append", "write_report"))


def grpo() -> list[list[str]]:
    """A rollout of TRL's GRPO: to the simulated user, to the judge."""
    import warnings

    import trl
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from simgym.data.scenario_sets import load_scenarios
    from simgym.integrations.trl import judge_reward, make_rollout_func, scenario_dataset
    from simgym.testing.tiny_models import save_tiny_model

    folder = str(save_tiny_model(Path(tempfile.mkdtemp()) / "model"))
    scenarios = load_scenarios("everyday", limit=2)
    rollouts = make_rollout_func(
        "UserSim-RolePlayOpening-v0", scenarios=scenarios, model=folder, judge="relevance", max_turns=2
    )
    config = trl.GRPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=4, num_generations=4, max_completion_length=6,
        use_cpu=True, bf16=False, report_to="none", max_steps=1, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = trl.GRPOTrainer(
            AutoModelForCausalLM.from_pretrained(folder, dtype="float32"),
            judge_reward,
            args=config,
            train_dataset=scenario_dataset(scenarios),
            processing_class=AutoTokenizer.from_pretrained(folder),
            rollout_func=rollouts,
        )
    return watch(trainer.train, ("Simulation.step", "judge_reward"))


JOURNEYS: dict[str, Callable[[], list[list[str]]]] = {"step": step, "matrix": matrix, "grpo": grpo}


def write(name: str, text: str) -> None:
    """Replace a list in the page, between the comment with its name and the next `end`."""
    before, rest = PAGE.read_text(encoding="utf-8").split(f"<!-- {name} -->")
    _, after = rest.split("<!-- end -->", 1)
    PAGE.write_text(f"{before}<!-- {name} -->\n```\n{text}\n```\n<!-- end -->{after}", encoding="utf-8")


def main() -> None:
    """Print the journeys that are asked for, or all; with `--write`, into the page."""
    asked = [word for word in sys.argv[1:] if word != "--write"]
    for name in asked or JOURNEYS:
        text = "\n\n".join("\n".join(stack) for stack in JOURNEYS[name]())
        print(f"\n== {name}: {JOURNEYS[name].__doc__}\n{text}")
        if "--write" in sys.argv[1:]:
            write(name, text)


if __name__ == "__main__":
    main()
