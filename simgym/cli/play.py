"""`simgym play`: one conversation against a policy behind a URL, as trainers start it for each rollout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from simgym.cli import options
from simgym.cli.completion import complete_env
from simgym.errors import ConfigurationError, ServerUnavailable


def play(
    base_url: Annotated[
        str, typer.Option(help="Root of the policy's API.", envvar="OPENAI_BASE_URL", show_default=False)
    ],
    model: Annotated[str, typer.Option(help="The name that the server knows the policy by.")],
    env: Annotated[str, typer.Option(help="Environment id; `simgym envs` lists them.", autocompletion=complete_env)],
    scenario: Annotated[
        str | None, typer.Option(help="Id of the scenario. Default: the seed draws one.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides everything the user says.")] = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE for the environment; VALUE is read as JSON if it is. Repeatable."),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            help='NAME=VALUE, an HTTP header for the policy\'s server; NAME={"env": "VARIABLE"} if it is secret. '
            "Repeatable.",
            show_default=False,
        ),
    ] = None,
    api_key_env: Annotated[str, typer.Option(help="Environment variable with the key.")] = "OPENAI_API_KEY",
    system: Annotated[
        str | None, typer.Option(help="System message of the policy. Default: none.", show_default=False)
    ] = None,
    reward_file: Annotated[
        Path | None,
        typer.Option(help="JSON file for reward, end reason and fault; null: not judged.", show_default=False),
    ] = None,
    transcript: Annotated[
        Path | None, typer.Option(help="JSONL file that the conversation is added to.", show_default=False)
    ] = None,
    json_output: options.Json = False,
) -> None:
    """Let a policy talk with one simulated user, and write the reward.

    Exit code 3: a server was unavailable; the reward file holds null.
    """
    from simgym.cli.terminal import plain
    from simgym.evaluation.axes import read_pairs
    from simgym.integrations.policy_url import PolicyUrl, rewarded
    from simgym.integrations.policy_url import play as play_once
    from simgym.output_files import refuse_unwritable, write_whole
    from simgym.transcripts import TranscriptWriter

    if not base_url.startswith(("http://", "https://")):
        # not quoted: it can hold a password
        raise ConfigurationError("--base-url is no address, expected one such as http://host:8000/v1.")
    for path in filter(None, (reward_file, transcript)):
        refuse_unwritable(path)
    policy = PolicyUrl(
        base_url=base_url,
        model=model,
        headers=read_pairs(header or (), "--header"),
        api_key_env=api_key_env,
        system=system,
    )
    played = play_once(policy, env, scenario_id=scenario, seed=seed, settings=read_pairs(setting or (), "--setting"))
    outcome = rewarded(played)
    if transcript is not None:
        with TranscriptWriter(transcript) as writer:
            writer.append(played)
    if reward_file is not None:
        write_whole(reward_file, json.dumps(outcome) + "\n")
    typer.echo(json.dumps(outcome) if json_output else plain(f"{outcome['end_reason']}: reward {outcome['reward']}"))
    if played.fault is not None and played.fault.is_outage:
        raise ServerUnavailable(str(played.fault))
