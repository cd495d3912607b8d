"""inspect_ai over simulated users: a task, a solver, a scorer, and simulators as models.

    inspect eval simgym/conversations --model openai/gpt-5 -T env_id=UserSim-Persona-v0 -T limit=20
    inspect eval their_task.py --model openai/gpt-5 --model-role user=simgym/FineTuned

A sample is a scenario; the model under test is the assistant, and the simulated user speaks in the user role. Scenario
and epoch decide the user, whatever the assistant says. A conversation that was not judged scores NaN, which `mean` and
`stderr` leave out. inspect finds this module by its entry point.
"""

from __future__ import annotations

import functools
import math
import statistics
from typing import Any

from simgym.envs.settings import outcome_of
from simgym.envs.shared_simulation import shared_simulation
from simgym.extras import imports_of, require_extra
from simgym.seeding import derive_seed

with imports_of("inspect", "The inspect_ai task"):
    import anyio.to_thread
    from inspect_ai import Task, task
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import ChatMessageUser
    from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, metric, scorer
    from inspect_ai.solver import Generate, Solver, TaskState, solver

from simgym.integrations.inspect_model import SimulatedUserAPI

__all__ = ["SimulatedUserAPI", "conversations", "judge_score", "judged_mean", "judged_stderr", "simulated_user"]

_KEY = "simgym"
"""Where a sample's metadata hold the outcome."""


@task
def conversations(
    env_id: str = "UserSim-Persona-v0", limit: int | None = None, seed: int = 0, settings: dict[str, Any] | None = None
) -> Task:
    """Conversations with simulated users, one scenario a sample.

    Args:
        env_id: `UserSim-...`: who plays the user.
        limit: Number of scenarios, from the first; None: all.
        seed: Decides, with scenario and epoch, everything random in the user.
        settings: Arguments of the environment: model, scenarios, judge, judge_model, max_turns, ...
    """
    require_extra("inspect", "The inspect_ai task")
    scenarios = list(shared_simulation(env_id, settings or {}).scenarios.values())[:limit]
    samples = [
        Sample(id=scenario.id, input=scenario.opening or "(the user opens)", metadata={"source": scenario.source})
        for scenario in scenarios
    ]
    return Task(
        dataset=MemoryDataset(samples, name=env_id),
        solver=simulated_user(env_id, seed, settings),
        scorer=judge_score(),
    )


@solver
def simulated_user(
    env_id: str = "UserSim-Persona-v0", seed: int = 0, settings: dict[str, object] | None = None
) -> Solver:
    """Let the model talk with a simulated user; a sample's id is that of a scenario. Arguments as for the task."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        simulation = shared_simulation(env_id, settings or {})
        chosen = derive_seed(seed, "inspect", str(state.sample_id), state.epoch)
        opening = functools.partial(simulation.open, [chosen], [str(state.sample_id)])
        (dialogue,) = await anyio.to_thread.run_sync(opening)
        state.messages = [message for message in state.messages if message.role == "system"]
        while not dialogue.ended:
            state.messages.append(ChatMessageUser(content=dialogue.user_reply))
            state = await generate(state)
            stepping = functools.partial(simulation.step, [dialogue], [state.output.completion])
            (dialogue,) = await anyio.to_thread.run_sync(stepping)
            state.metadata[_KEY] = outcome_of(dialogue)
            if state.completed:  # a limit of inspect's
                break
        last = dialogue.conversation.messages[-1:]
        if dialogue.ended and last and last[0].role == "user":  # last words that are not to be answered
            state.messages.append(ChatMessageUser(content=last[0].content))
        state.metadata[_KEY] = {**outcome_of(dialogue), "parting_word": dialogue.user_reply if dialogue.leaving else ""}
        return state

    return solve


def _judged(scores: list[SampleScore]) -> list[float]:
    values = [score.score.as_float() for score in scores]
    return [value for value in values if not math.isnan(value)]


@metric(name="mean")
def judged_mean() -> Metric:
    """Mean over the samples that were judged; NaN if none was."""

    def mean(scores: list[SampleScore]) -> float:
        values = _judged(scores)
        return statistics.fmean(values) if values else math.nan

    return mean


@metric(name="stderr")
def judged_stderr() -> Metric:
    """Standard error of that mean over samples; NaN for fewer than two."""

    def stderr(scores: list[SampleScore]) -> float:
        values = _judged(scores)
        return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan

    return stderr


@scorer(metrics=[judged_mean(), judged_stderr()])
def judge_score() -> Scorer:
    """The environment's judge: what `simulated_user` has left; NaN for a conversation without a judgement."""

    async def score(state: TaskState, target: Target) -> Score:
        outcome = state.metadata.get(_KEY, {})
        reward, fault = outcome.get("reward"), outcome.get("fault")
        explanation = f"{outcome.get('end_reason') or 'not ended'}{f': {fault}' if fault else ''}"
        return Score(value=math.nan if reward is None else reward, explanation=explanation, metadata=outcome)

    return score
