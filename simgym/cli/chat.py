"""`simgym chat`: sit in one of the two chairs.

By default you are the assistant and a simulator is the user; with `--as user` you are the user and an assistant
answers. When the conversation is over the hidden intent, the end reason and the judge's value are shown.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simgym.cli import options
from simgym.cli.completion import complete_assistant, complete_env
from simgym.cli.terminal import bubble, complain, facts, shown, stderr, stdout
from simgym.cli.view import outcome_rows
from simgym.errors import ConfigurationError, InvalidAction

if TYPE_CHECKING:
    from rich.console import Console

    from simgym.assistants.base import Assistant
    from simgym.simulation import Dialogue

_DEFAULT_ENV, _HUMAN_ENV = "UserSim-RolePlay-v0", "UserSim-Human-v0"
_TOLD_BY_ASSISTANT = "assistant: "


class Seat(StrEnum):
    """Whom the person plays."""

    ASSISTANT = "assistant"
    USER = "user"


@options.with_bundles
def chat(
    user: options.UserOptions,
    judging: options.JudgeOptions,
    conversations: options.ConversationOptions,
    replies: options.SamplingOptions,
    env: Annotated[
        str | None,
        typer.Argument(
            help="Environment id; `simgym envs` lists them.", show_default=_DEFAULT_ENV, autocompletion=complete_env
        ),
    ] = None,
    seat: Annotated[Seat, typer.Option("--as", help="The role that you play.")] = Seat.ASSISTANT,
    assistant: Annotated[
        str | None,
        typer.Option(
            help=f"With --as user, who answers: {options.ASSISTANT_HELP}",
            show_default="the default model",
            autocompletion=complete_assistant,
        ),
    ] = None,
    scenario_id: Annotated[
        str | None, typer.Option(help="Use this scenario instead of drawing one.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the scenario and of everything random.", show_default="random")
    ] = None,
) -> None:
    """Talk with a simulated user, or as a user with an assistant.

    Ctrl-D or Ctrl-C leaves.
    """
    from simgym.evaluation.matrix import make_env
    from simgym.rollout.readiness import check_all_ready

    _check_seat(env or user.simulator, seat, assistant)
    caching = options.CacheOptions()
    column = user.column(env, caching.cache, _HUMAN_ENV if seat is Seat.USER else _DEFAULT_ENV)
    arguments = {**judging.env_options(caching), **conversations.env_options, "simulator_options": column.options}
    answering = None
    if seat is Seat.USER:
        from simgym.assistants.loading import load_assistant
        from simgym.language_models.weights import DEFAULT_MODEL

        answering = load_assistant(assistant or DEFAULT_MODEL, replies.sampling).assistant
        arguments["simulator_options"] = {"ask": _ask_person, "tell": _tell_person}
    environment = make_env(column.env_id, conversations.load_scenarios(column.env_id), arguments)
    started = False
    try:
        with _thinking(True):
            simulation = environment.unwrapped.simulation
            check_all_ready(
                [("assistant", answering), ("simulator", simulation.simulator), ("judge", simulation.judge)]
            )
        with _thinking(seat is Seat.ASSISTANT):
            environment.reset(seed=seed, options={"scenario_id": scenario_id} if scenario_id else None)
        started = True
        _converse(environment, answering)
    except (EOFError, KeyboardInterrupt):
        stdout().print("\nYou left before the end, so nothing is judged.")
    if started:
        _reveal(environment.unwrapped.dialogue, stdout())


def _converse(environment: Any, answering: Assistant | None) -> None:
    """Take turns until the conversation ends; `answering` None: the person answers."""
    console = stdout()
    base = environment.unwrapped
    if answering is None:
        console.print(f"You are the assistant, for at most {base.settings.max_turns} turns.")
    while not base.dialogue.ended:
        if answering is None:
            console.print(bubble("user", base.dialogue.user_reply))
            if base.dialogue.leaving:
                console.print(shown("The user is leaving; you have the last word.", "dim"))
            utterance = _ask("assistant (you): ")
        else:
            reply = _answer(answering, base.dialogue)
            if reply is None:
                return
            utterance = reply
        try:
            with _thinking(answering is None):
                environment.step(utterance)
        except InvalidAction as error:
            complain(str(error))
            if answering is not None:
                return
    _print_last(base.dialogue, answering)


def _print_last(dialogue: Dialogue, answering: Assistant | None) -> None:
    """What was said at the end and the person has not seen."""
    last = dialogue.conversation.messages[-1:]
    others = "user" if answering is None else "assistant"
    if dialogue.ended and last and last[0].role == others:
        stdout().print(bubble(others, last[0].content))


def _answer(answering: Assistant, dialogue: Dialogue) -> str | None:
    with _thinking(True):
        turn = answering.respond([dialogue.conversation], seeds=[dialogue.assistant_seed])[0]
    if turn.fault is not None:
        complain(f"The assistant failed: {turn.fault}.")
        return None
    return turn.text


def _reveal(dialogue: Dialogue, console: Console) -> None:
    console.rule(style="dim")
    rows = [("intent", dialogue.scenario.goal), ("scenario", f"{dialogue.scenario.id}, seed {dialogue.seed}")]
    console.print(facts(rows + outcome_rows(dialogue.end_reason, dialogue.reward, dialogue.fault, dialogue.reasons)))


def _ask(prompt: str) -> str:
    """A line that is not empty; EOFError or KeyboardInterrupt when the person leaves."""
    with suppress(ModuleNotFoundError):
        import readline  # noqa: F401  # arrow keys and history in input()
    while True:
        if text := input(prompt).strip():
            return text


def _ask_person(prompt: str) -> str:
    try:
        return _ask(prompt)
    except KeyboardInterrupt:
        raise EOFError from None


def _tell_person(text: str) -> None:
    said = text.removeprefix(_TOLD_BY_ASSISTANT)
    stdout().print(bubble("assistant", said) if said != text else shown(text, "bold"))


def _thinking(somebody: bool) -> Any:
    console = stderr()
    return console.status("thinking") if somebody and console.is_terminal else nullcontext()


def _check_seat(simulator: str | None, seat: Seat, assistant: str | None) -> None:
    """Refuse options that the other seat has."""
    if seat is Seat.USER and simulator not in (None, _HUMAN_ENV):
        raise ConfigurationError(f"With --as user you play the user yourself. Leave {simulator} out.")
    if seat is Seat.ASSISTANT and simulator in (_HUMAN_ENV, "human"):
        raise ConfigurationError(f"With {simulator} you are the user. Add --as user.")
    if seat is Seat.ASSISTANT and assistant is not None:
        raise ConfigurationError(
            "--assistant says who answers you. Add --as user, or leave it out: you are the assistant."
        )
