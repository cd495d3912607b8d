"""`simgym view`: transcripts to be read by a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from simgym.cli.terminal import bubble, facts, shown, stdout
from simgym.errors import ConfigurationError

if TYPE_CHECKING:
    from simgym.faults import Fault
    from simgym.transcripts import Transcript


def view(
    file: Annotated[Path, typer.Argument(help="JSONL file of transcripts.", metavar="FILE.jsonl")],
    index: Annotated[
        int | None, typer.Option(min=0, help="Show only the transcript of this number, from 0.", show_default=False)
    ] = None,
    scenario_id: Annotated[
        str | None, typer.Option(help="Show only transcripts of this scenario.", show_default=False)
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many to show.")] = 3,
    calls: Annotated[bool, typer.Option("--calls", help="Show every model call with its exact prompt.")] = False,
) -> None:
    """Read transcripts in the terminal."""
    from simgym.transcripts import read_transcripts

    if index is not None and scenario_id is not None:
        raise ConfigurationError("--index and --scenario-id were both given. Give one of them.")
    console = stdout()
    count = 0
    for number, transcript in islice(_wanted(read_transcripts(file), index, scenario_id), n):
        count += 1
        console.print(Rule(shown(f"{number}: {transcript.scenario.id}"), align="left", style="dim"))
        console.print(transcript_view(transcript, calls=calls))
    if not count:
        which = f"number {index}" if index is not None else f"scenario {scenario_id!r}"
        wanted = "transcripts" if index is None and scenario_id is None else f"transcript of {which}"
        raise ConfigurationError(f"{file} has no {wanted}. It holds {sum(1 for _ in read_transcripts(file))}.")


def transcript_view(transcript: Transcript, *, calls: bool = False) -> RenderableType:
    """A transcript with its hidden intent, what was said, how it ended and what it cost."""
    from simgym.report.turns import cut_turns, format_cut

    parts: list[RenderableType] = [
        facts([("env", f"{transcript.env_id}, seed {transcript.seed}"), ("intent", transcript.scenario.goal)])
    ]
    for message, cut in zip(transcript.conversation.messages, cut_turns(transcript), strict=True):
        title = message.role if cut is None else f"{message.role}, {format_cut(cut)}"
        parts.append(bubble(message.role, message.content, title))
    end = outcome_rows(transcript.end_reason, transcript.reward, transcript.fault, transcript.reasons)
    parts.append(facts([*end, ("tokens", format_tokens(transcript.tokens()))]))
    if calls:
        for call in transcript.calls:
            parts.append(
                Text.assemble((f"\n{call.role} call at turn {call.turn}", "bold"), shown(f", seed {call.seed}"))
            )
            parts += [bubble(call.role, call.prompt, "prompt"), bubble(call.role, call.output, "output")]
            if call.fault:
                parts.append(facts([("fault", call.fault)]))
    return Group(*parts)


def outcome_rows(
    end_reason: str | None, reward: float | None, fault: Fault | None, reasons: Sequence[str]
) -> list[tuple[str, str]]:
    """How a conversation ended and what the judge made of it."""
    return [
        ("end", end_reason or "not ended"),
        ("reward", "none: not judged" if reward is None else f"{reward:.3f}"),
        ("judge", "\n".join(reasons)),
        ("fault", "" if fault is None else str(fault)),
    ]


def format_tokens(tokens: Mapping[str, Mapping[str, int]]) -> str:
    """`user 1,204 read, 96 written; ...`, without roles that used none."""
    used = [(role, counts) for role, counts in tokens.items() if any(counts.values())]
    return "; ".join(f"{role} {counts['prompt']:,} read, {counts['completion']:,} written" for role, counts in used)


def _wanted(
    transcripts: Iterator[Transcript], index: int | None, scenario_id: str | None
) -> Iterator[tuple[int, Transcript]]:
    numbered = enumerate(transcripts)
    if index is not None:
        return islice(numbered, index, index + 1)
    return (pair for pair in numbered if scenario_id in (None, pair[1].scenario.id))
