"""`simgym rollout`: one assistant in one environment, transcripts to a file that can be continued."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simgym.cli import options
from simgym.cli.terminal import complain, facts, print_json, shown, stderr, stdout
from simgym.cli.view import tokens_in_words

if TYPE_CHECKING:
    from simgym.evaluation.matrix import Cell
    from simgym.transcripts import Transcript


def rollout(
    assistant: Annotated[str, typer.Option(help=options.ASSISTANT_HELP)],
    env: Annotated[str, typer.Option(help="Environment id; `simgym envs` lists them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL file; an existing one is continued.")],
    scenarios: options.Scenarios = None,
    n: Annotated[
        int | None,
        typer.Option("-n", min=1, help="How many conversations. Default: each scenario once.", show_default=False),
    ] = None,
    seed: options.Seed = 0,
    max_turns: options.MaxTurns = None,
    model: options.Model = None,
    simulator_option: options.SimulatorOption = None,
    judge: options.Judge = None,
    judge_model: options.JudgeModel = None,
    max_new_tokens: options.MaxNewTokens = 256,
    temperature: options.Temperature = 1.0,
    batch_size: options.BatchSize = 32,
    free_running: options.FreeRunning = False,
    response_cache: options.ResponseCache = None,
    cache_mode: options.CacheMode = "record",
    json: options.Json = False,
) -> None:
    """Let an assistant talk with simulated users.

    Conversations are appended to the file of transcripts as they finish. The same command again goes on where it
    stopped, and does nothing when all are there.
    """
    from simgym.assistants.language_model_assistant import assistant_from_text
    from simgym.cli.progress import ConversationProgress
    from simgym.evaluation.matrix import summarise_cell
    from simgym.rollout.collect import collect

    name, answering = assistant_from_text(assistant, options.sampling(max_new_tokens, temperature))
    answering.model_spec = options.remembered(answering.model_spec, response_cache, cache_mode)
    arguments = options.env_options(
        model=model,
        judge=judge,
        judge_model=judge_model,
        max_turns=max_turns,
        simulator_options=simulator_option,
        response_cache=response_cache,
        cache_mode=cache_mode,
    )
    environment = options.open_env(env, scenarios, arguments, limit=n)
    with ConversationProgress(n or len(environment.unwrapped.episodes.scenarios)) as progress:
        transcripts = collect(
            answering,
            environment,
            n=n,
            seed=seed,
            path=output,
            batch_size=batch_size,
            free_running=free_running,
            progress=progress.advance,
            before_batch=progress.begin,
        )
    if not progress.begun:
        stderr().print(shown(nothing_to_do(len(transcripts), output)), soft_wrap=True)
    cell = summarise_cell(name, env, transcripts, path=str(output), seed=seed)
    if json:
        print_json(_as_json(cell, transcripts))
    else:
        console = stdout()
        console.print(facts(_as_rows(cell, transcripts)))
        console.print(shown(f"Transcripts: {output}"), soft_wrap=True)
    if not cell.counted:
        complain("No conversation counts: see why with `simgym view`.")
        raise typer.Exit(1)


def nothing_to_do(count: int, place: Path) -> str:
    """What a run says that has found everything done."""
    return f"All {count} conversations are already in {place}; nothing to do."


def judge_in_words(fingerprint: Any) -> str:
    """Name of a judge, and what its value measures if it says so."""
    name = str(fingerprint.get("judge", "unknown"))
    return f"{name}: measures {fingerprint['measures']}" if fingerprint.get("measures") else name


def exclusions_in_words(cell: Cell) -> str:
    """`2 x simulator_fault: role_flip`, or `none`."""
    return ", ".join(f"{count} x {reason}" for reason, count in cell.excluded.items()) or "none"


def mean_in_words(cell: Cell) -> str:
    """`43.1 [39.0, 47.2]`: mean reward x 100 with its interval."""
    estimate = cell.estimate
    if estimate.value is None:
        return "none"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.1f} (no interval: {estimate.method})"
    return f"{estimate.value:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"


def _as_rows(cell: Cell, transcripts: list[Transcript]) -> list[tuple[str, str]]:
    turns = cell.mean_assistant_turns
    return [
        ("conversations", f"{cell.conversations} held, {cell.counted} counted"),
        ("excluded", exclusions_in_words(cell)),
        ("mean reward x 100", f"{mean_in_words(cell)}, {cell.estimate.level:.0%} interval"),
        ("judge", judge_in_words(transcripts[0].fingerprints["judge"])),
        ("assistant turns", f"{turns:.1f} per counted conversation" if turns is not None else ""),
        ("tokens", tokens_in_words(cell.tokens)),
    ]


def _as_json(cell: Cell, transcripts: list[Transcript]) -> dict[str, Any]:
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
