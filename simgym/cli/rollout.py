"""`simgym rollout`: one assistant in one environment, transcripts to a file that can be continued."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simgym.cli import options
from simgym.cli.completion import complete_assistant, complete_env
from simgym.cli.terminal import complain, facts, print_json, shown, stdout
from simgym.cli.view import format_tokens
from simgym.statistics.intervals import format_interval

if TYPE_CHECKING:
    from simgym.evaluation.matrix import Cell
    from simgym.transcripts import Transcript


@options.with_bundles
def rollout(
    assistant: Annotated[str, typer.Option(help=options.ASSISTANT_HELP, autocompletion=complete_assistant)],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL file; an existing one is continued.")],
    user: options.UserOptions,
    judging: options.JudgeOptions,
    conversations: options.ConversationOptions,
    replies: options.SamplingOptions,
    running: options.RunOptions,
    caching: options.CacheOptions,
    env: Annotated[
        str | None,
        typer.Option(help="Environment id; `simgym envs` lists them.", show_default=False, autocompletion=complete_env),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("-n", min=1, help="Number of conversations. Default: each scenario once.", show_default=False),
    ] = None,
    json: options.Json = False,
) -> None:
    """Let an assistant talk with simulated users.

    Conversations are appended to the file of transcripts as they finish. The same command again resumes where it
    stopped, and does nothing when all are there.
    """
    from simgym.assistants.loading import load_assistant
    from simgym.cli.progress import ConversationProgress, load_models, say_nothing_to_do
    from simgym.evaluation.matrix import make_env, summarise_cell
    from simgym.rollout import Job, collect_jobs
    from simgym.rollout.collection import is_complete

    named = load_assistant(assistant, replies.sampling, cache=caching.cache)
    column = user.column(env, caching.cache)
    arguments = {**judging.env_options(caching), **conversations.env_options, "simulator_options": column.options}
    environment = make_env(column.env_id, conversations.load_scenarios(column.env_id, n), arguments)
    simulation = environment.unwrapped.simulation
    job = Job(assistant=named.assistant, env=environment, path=output, n=n, seed=running.seed)
    complete = is_complete(job, settings := running.settings)
    if not complete:
        parts = [("assistant", named.assistant), ("simulator", simulation.simulator), ("judge", simulation.judge)]
        load_models(parts)
    with ConversationProgress(job.conversations) as progress:
        (transcripts,) = collect_jobs([replace(job, progress=progress.advance)], settings)
    if complete:
        say_nothing_to_do(len(transcripts), "conversations", output)
    cell = summarise_cell(named.name, column.env_id, transcripts, path=str(output), seed=running.seed)
    if json:
        print_json(_as_json(cell, transcripts))
    else:
        console = stdout()
        console.print(facts(_as_rows(cell, transcripts)))
        console.print(shown(f"Transcripts: {output}"), soft_wrap=True)
    if not cell.counted:
        complain("No conversation counts: see why with `simgym view`.")
        raise typer.Exit(1)


def format_exclusions(cell: Cell) -> str:
    """`2 x simulator_fault: role_flip`, or `none`."""
    return ", ".join(f"{count} x {reason}" for reason, count in cell.excluded.items()) or "none"


def _as_rows(cell: Cell, transcripts: Sequence[Transcript]) -> list[tuple[str, str]]:
    turns, mean, judge = cell.mean_assistant_turns, cell.estimate, transcripts[0].fingerprints["judge"]
    measured = f": measures {judge['measures']}" if judge.get("measures") else ""
    return [
        ("conversations", f"{cell.conversations} held, {cell.counted} counted"),
        ("excluded", format_exclusions(cell)),
        ("mean reward x 100", "none" if mean.value is None else f"{mean.value:.1f} {format_interval(mean)}"),
        ("judge", f"{judge.get('judge', 'unknown')}{measured}"),
        ("assistant turns", f"{turns:.1f} per counted conversation" if turns is not None else ""),
        ("tokens", format_tokens(cell.tokens)),
    ]


def _as_json(cell: Cell, transcripts: Sequence[Transcript]) -> dict[str, object]:
    return {
        "path": cell.transcripts,
        "env_id": cell.simulator,
        "assistant": cell.assistant,
        "conversations": cell.conversations,
        "counted": cell.counted,
        "mean_reward_x100": cell.estimate.to_json(),
        "excluded": dict(cell.excluded),
        "mean_assistant_turns": cell.mean_assistant_turns,
        "tokens": cell.tokens,
        "fingerprints": json_format.loads(json_format.dumps(transcripts[0].fingerprints)),
    }
