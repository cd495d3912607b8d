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

from simgym.cli.terminal import bubble, facts, shown, stderr, stdout
from simgym.errors import ConfigurationError

if TYPE_CHECKING:
    from simgym.faults import Fault
    from simgym.transcripts import Transcript


def view(
    runs: Annotated[
        list[Path],
        typer.Argument(help="File of transcripts (JSONL), or folder of a matrix. Repeatable.", metavar="RUN..."),
    ],
    index: Annotated[
        int | None, typer.Option(min=0, help="Show only the transcript of this number, from 0.", show_default=False)
    ] = None,
    scenario_id: Annotated[
        str | None, typer.Option(help="Show only transcripts of this scenario.", show_default=False)
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many to show.")] = 3,
    calls: Annotated[bool, typer.Option("--calls", help="Show every model call with its exact prompt.")] = False,
    web: Annotated[
        bool, typer.Option("--web", help="Serve a page on this machine instead: filter, compare, label.")
    ] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="--web: port to listen on.")] = 8010,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="--web: JSONL file of labels; an existing one is continued.",
            show_default="labels.jsonl in the folder, or RUN.labels.jsonl beside the file",
        ),
    ] = None,
    person: Annotated[
        str | None,
        typer.Option(help="--web: who gives the labels; recorded in the file.", show_default="your login name"),
    ] = None,
) -> None:
    """Read transcripts, in the terminal or on a local page."""
    if index is not None and scenario_id is not None:
        raise ConfigurationError("--index and --scenario-id were both given. Give one of them.")
    if web:
        if index is not None or scenario_id is not None or calls:
            raise ConfigurationError("--index, --scenario-id and --calls belong to the terminal; the page shows all.")
        _serve(runs, port, labels, person)
        return
    if labels is not None or person is not None:
        raise ConfigurationError("--labels and --person belong to --web.")
    transcripts = _read(runs)
    console = stdout()
    count = 0
    for number, transcript in islice(_wanted(transcripts, index, scenario_id), n):
        count += 1
        console.print(Rule(shown(f"{number}: {transcript.scenario.id}"), align="left", style="dim"))
        console.print(transcript_view(transcript, calls=calls))
    if not count:
        which = f"number {index}" if index is not None else f"scenario {scenario_id!r}"
        wanted = "transcripts" if index is None and scenario_id is None else f"transcript of {which}"
        names = ", ".join(map(str, runs))
        raise ConfigurationError(f"{names} has no {wanted}. It holds {sum(1 for _ in _read(runs))}.")


def _read(runs: Sequence[Path]) -> Iterator[Transcript]:
    from simgym.data.training_files import read_run
    from simgym.transcripts import read_transcripts

    for run in runs:
        yield from read_run(run) if run.is_dir() else read_transcripts(run)


def _serve(runs: Sequence[Path], port: int, labels: Path | None, person: str | None) -> None:
    """The page, until Ctrl-C."""
    import secrets

    from simgym.extras import require_extra

    require_extra("serve", "simgym view --web")
    from simgym.serving.running import ListenSettings, check_port
    from simgym.serving.running import serve as run
    from simgym.viewer.app import create_viewer_app
    from simgym.viewer.index import TranscriptIndex
    from simgym.viewer.label_book import LabelBook, labels_path

    conversations = TranscriptIndex(runs)
    book = LabelBook(labels or labels_path(runs[0]), person or _login_name())
    token = secrets.token_urlsafe(24)
    listen = ListenSettings(port=port)
    check_port(listen)
    stderr().print(shown(f"Open http://{listen.host}:{port}/#token={token}"), soft_wrap=True)
    stderr().print(shown(f"Labels go to {book.path}. Ctrl-C stops the server."), soft_wrap=True)
    run(create_viewer_app(conversations, book, token=token), listen)


def _login_name() -> str:
    from getpass import getuser

    try:
        return getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in containers
        return "reader"


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
