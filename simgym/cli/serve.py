"""`simgym serve`: simulated users for other programs, as a model behind a protocol that they know."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simgym.cli import options
from simgym.cli.completion import complete_simulator
from simgym.cli.terminal import shown, stderr
from simgym.errors import ConfigurationError

if TYPE_CHECKING:
    from simgym.serving.running import ListenSettings
    from simgym.serving.seats import SeatSettings


def serve(
    openai: Annotated[
        bool, typer.Option("--openai", help="The user seat as a model: /v1/chat/completions and /v1/models.")
    ] = False,
    openenv: Annotated[
        str | None,
        typer.Option(help="An environment as a server for OpenEnv's clients.", metavar="ENV", show_default=False),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            help="--openenv: KEY=VALUE for the environment; VALUE is read as JSON if it is. Repeatable.",
            show_default=False,
        ),
    ] = None,
    simulator: Annotated[
        list[str] | None,
        typer.Option(
            help="Simulator to serve, as the model simgym/NAME. Repeatable.",
            show_default="role_play",
            autocompletion=complete_simulator,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help=f"Model of the simulators: {options.MODEL_HELP}. Default: their own.", show_default=False),
    ] = None,
    simulator_option: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE for the simulators; VALUE is read as JSON if it is. Repeatable.", show_default=False
        ),
    ] = None,
    scenarios: Annotated[str, typer.Option(help="Where ids of scenarios are looked up.")] = "everyday",
    stop: Annotated[str, typer.Option(help="What a user who leaves says.")] = "###STOP###",
    transcripts: Annotated[
        Path | None, typer.Option(help="JSONL file of what was said; an existing one is continued.", show_default=False)
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Serve simulated users until Ctrl-C.

    Beyond loopback a token (16 characters or more) is required in SIMGYM_SERVE_TOKEN; callers send it as API key.
    """
    if openai == (openenv is not None):
        raise ConfigurationError("Say what to serve: --openai or --openenv ENV.")
    from simgym.evaluation.axes import read_pairs
    from simgym.extras import require_extra

    require_extra("serve", "simgym serve")
    from simgym.serving.running import ListenSettings

    listen = ListenSettings(host=host, port=port, token=os.environ.get("SIMGYM_SERVE_TOKEN") or None)
    if openenv is not None:
        given = (simulator, model, simulator_option, transcripts)
        if any(value is not None for value in given) or (scenarios, stop) != ("everyday", "###STOP###"):
            raise ConfigurationError("--openenv takes the arguments of its environment: --setting KEY=VALUE.")
        _serve_openenv(openenv, read_pairs(setting or (), "--setting"), listen)
        return
    if setting:
        raise ConfigurationError("--setting belongs to --openenv. With --openai, give --simulator-option.")
    from simgym.serving.seats import SeatSettings

    pairs = read_pairs(simulator_option or (), "--simulator-option")
    settings = SeatSettings(model=model, options=pairs, scenarios=scenarios)
    _serve_openai(simulator or ["role_play"], settings, stop, transcripts, listen)


def _serve_openenv(env_id: str, settings: Mapping[str, object], listen: ListenSettings) -> None:
    from simgym.integrations.openenv import create_openenv_app
    from simgym.serving.running import serve as run

    app = create_openenv_app(env_id, settings)
    stderr().print(shown(f"{env_id}: http://{listen.host}:{listen.port}. Ctrl-C stops the server."))
    run(app, listen)


def _serve_openai(
    simulators: Sequence[str], settings: SeatSettings, stop: str, transcripts: Path | None, listen: ListenSettings
) -> None:
    from simgym.plugins import check_ready
    from simgym.serving.conversation_log import ConversationLog
    from simgym.serving.openai_app import create_openai_app
    from simgym.serving.running import serve as run
    from simgym.serving.seats import Seat

    seats = {name: Seat(name, settings) for name in dict.fromkeys(simulators)}
    with stderr().status("Loading models"):
        for seat in seats.values():
            check_ready(seat.simulation.simulator)
    log = None
    if transcripts is not None:
        fingerprints = {name: seat.simulation.simulator.fingerprint() for name, seat in seats.items()}
        log = ConversationLog(transcripts, fingerprints)
    names = ", ".join(f"simgym/{name}" for name in seats)
    stderr().print(shown(f"{names}: http://{listen.host}:{listen.port}/v1. Ctrl-C stops the server."))
    run(create_openai_app(seats, stop=stop, token=listen.token, log=log), listen)
