"""`simgym chat`: talk to a simulated user as the assistant, or to an assistant as the user."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from simgym.cli import options
from simgym.cli.terminal import plain, screen, show_message
from simgym.conversation import Message


class Seat(str, Enum):
    """Whom the person plays."""

    assistant = "assistant"
    """The simulator is the user."""
    user = "user"
    """A model is the assistant."""


def chat(
    env: Annotated[str, typer.Argument(help="Environment id, e.g. UserSim-RolePlay-v0.")] = "UserSim-RolePlayOpening-v0",
    seat: Annotated[Seat, typer.Option("--as", help="Whom you play.")] = Seat.assistant,
    assistant: Annotated[str, typer.Option(help=f"With --as user: {options.ASSISTANT_HELP}")] = "smollm2-135m-instruct",
    scenarios: options.Scenarios = "everyday",
    scenario_id: Annotated[str | None, typer.Option(help="Play this scenario instead of drawing one.")] = None,
    max_turns: options.MaxTurns = 5,
    max_new_tokens: options.MaxNewTokens = 256,
    model: options.Model = None,
    judge: options.Judge = "relevance",
    judge_model: options.JudgeModel = None,
    seed: Annotated[int | None, typer.Option(help="Decides scenario and user; default: random.")] = None,
) -> None:
    """Talk to a simulated user (you are the assistant), or to an assistant (--as user)."""
    from simgym.assistants.language_model_assistant import assistant_from_text
    from simgym.data.scenario_sets import load_scenarios
    from simgym.evaluation.matrix import make_env
    from simgym.language_models.base import Sampling
    from simgym.seeding import derive_seed

    if seat is Seat.user:
        env = "UserSim-Human-v0"
    given = {"model": model, "judge": judge, "judge_model": judge_model, "max_turns": max_turns}
    environment = make_env(env, load_scenarios(scenarios), given)
    _, speaker = assistant_from_text(assistant, Sampling(max_new_tokens=max_new_tokens))
    wanted = {"scenario_id": scenario_id} if scenario_id else None
    observation, info = environment.reset(seed=seed, options=wanted)
    episode = environment.unwrapped.episode
    screen.print(plain("You are the assistant. Ctrl-D leaves." if seat is Seat.assistant else "", style="dim"))
    while episode.end_reason is None:
        if seat is Seat.assistant:
            show_message(Message("user", observation["user_reply"]))
            try:
                utterance = input("assistant  ").strip()
            except EOFError:
                screen.print(plain("\nYou left before the end.", style="dim"))
                break
        else:
            turn = speaker.respond([episode.conversation], seeds=[derive_seed(episode.seed, "assistant", episode.turn)])[0]
            if turn.fault:
                screen.print(plain(f"The assistant failed: {turn.fault}", style="red"))
                break
            utterance = turn.text
        if not utterance:
            screen.print(plain("Say something.", style="dim"))
            continue
        observation, _, _, _, info = environment.step(utterance)
    if seat is Seat.user and info["end_reason"] == "turn_limit":
        show_message(episode.conversation.messages[-1])
    elif seat is Seat.assistant and info["end_reason"] == "user_end" and observation["user_reply"]:
        show_message(Message("user", observation["user_reply"]))
    judged = "not judged" if episode.reward is None else f"reward {episode.reward:.2f}"
    screen.print(plain(f"    ended  by {info['end_reason'] or 'you'}, {judged}", style="dim"))
    if info["fault"]:
        screen.print(plain(f"    fault  {info['fault']}", style="red"))
    screen.print(plain(f"   intent  {episode.scenario.goal}", style="dim"))
