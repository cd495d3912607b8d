"""`simgym data`: from logged conversations to the training data and scenarios of a user simulator, a verb a step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from simgym.cli.options import MODEL_HELP
from simgym.cli.terminal import plain, stderr
from simgym.errors import ConfigurationError

if TYPE_CHECKING:
    from simgym.data.logged import LoggedConversation, StepSummary

data = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Prepare logs: preprocess (or import, or chitchat), split, intents or topics, flip, scenarios.",
)

Conversations = Annotated[Path, typer.Argument(help="A file of an earlier step.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="The file to write.")]


@data.command()
def preprocess(
    source: Annotated[
        str,
        typer.Argument(help="Hugging Face id in WildChat's schema, or JSONL or Parquet files (a pattern, a folder)."),
    ],
    output: Output,
    language: Annotated[str, typer.Option(help="Keep this language; `all` keeps every one.")] = "English",
    threshold: Annotated[int, typer.Option(min=1, help="First turns that a 7-gram may occur in.")] = 100,
    split: Annotated[str, typer.Option(help="Split of a dataset on the Hub.")] = "train",
    revision: Annotated[str | None, typer.Option(help="Revision on the Hub.", show_default=False)] = None,
) -> None:
    """Keep one language and usable conversations; drop mass-produced openings (7-grams in over 100 first turns)."""
    from simgym.data import preprocess as run

    with _progress() as advance:
        summary = run(
            source,
            output,
            language=None if language == "all" else language,
            threshold=threshold,
            split=split,
            revision=revision,
            advance=advance,
        )
    _print(summary, output)


@data.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(help="JSONL, JSON or Parquet files (a pattern, a folder), or a Hugging Face id.")
    ],
    output: Output,
    format: Annotated[
        Literal["openai", "sharegpt", "lmsys", "oasst", "mirrorbench", "simulatorarena", "otel"],
        typer.Option(help="Format of the log."),
    ],
    split: Annotated[str, typer.Option(help="Split of a dataset on the Hub.")] = "train",
    revision: Annotated[str | None, typer.Option(help="Revision on the Hub.", show_default=False)] = None,
) -> None:
    """Read a log in another format. What cannot be used is counted by reason, and listed beside the file."""
    from simgym.data.log_formats import import_log

    with _progress() as advance:
        summary = import_log(source, output, format=format, split=split, revision=revision, advance=advance)
    _print(summary, output)


@data.command()
def chitchat(output: Output) -> None:
    """Write the conversations of the package chitchat-dataset, intents included."""
    from simgym.data.chitchat import chitchat_conversations
    from simgym.data.logged import StepOutput

    conversations = chitchat_conversations()
    with StepOutput(output) as step:
        for identifier, reason in conversations.skipped.items():
            step.skip(identifier, reason)
        for logged in conversations.conversations:
            step.keep(logged.to_json())
    _print(step.summary(), output)


@data.command()
def split(
    conversations: Conversations,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of train.jsonl, validation.jsonl, test.jsonl.")
    ],
    wildbench: Annotated[
        str | None,
        typer.Option(
            help="WildBench, whose conversations go to test: allenai/WildBench, or a file with session ids.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
) -> None:
    """Split by user, stratified by country: 89/5/6 into train, validation and test."""
    from simgym.data.logged import read_logged
    from simgym.data.splits import split_conversations, wildbench_ids

    forced = wildbench_ids(wildbench) if wildbench else set()
    with _progress() as advance:
        users = _told(read_logged(conversations), advance, "finding users")
        rows = _told(read_logged(conversations), advance, "writing")
        summary = split_conversations(users, rows, output, forced_test=forced, seed=seed)
    for name, count in summary.conversations.items():
        typer.echo(f"{name}: {count} conversations of {summary.users[name]} users")
    if wildbench:
        typer.echo(f"{summary.forced} users are in test because WildBench holds a conversation of theirs")


@data.command()
def intents(
    conversations: Conversations,
    output: Output,
    model: Annotated[str, typer.Option(help=f"Model that writes: {MODEL_HELP}.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Conversations per call of the model.")] = 32,
    max_attempts: Annotated[int, typer.Option(min=1, help="Tries per conversation.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the model's sampling.")] = 0,
) -> None:
    """Let a model write what each user wanted. Run it again to resume and to retry failures."""
    from simgym.data.intents import write_intents

    if conversations.resolve() == output.resolve():
        raise ConfigurationError(f"{conversations} would overwrite itself. Give another file for the output.")
    from simgym.data.logged import read_logged
    from simgym.language_models.loading import check_language_model, load_language_model

    with stderr().status("Loading the model"):
        check_language_model(model)
    with _progress() as advance:
        done = 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            advance("writing intents", done)

        summary = write_intents(
            read_logged(conversations),
            load_language_model(model),
            output,
            batch_size=batch_size,
            max_attempts=max_attempts,
            seed=seed,
            advance=count,
        )
    _print(summary, output)
    if summary.read and not summary.kept:
        typer.echo(f"No intent was written; {plain(str(output))} is empty. The list of reasons is beside it.", err=True)
        raise typer.Exit(1)


@data.command()
def topics(conversations: Conversations, output: Output) -> None:
    """Give intents without a model: a row's own task description, else the key words of its opening."""
    if conversations.resolve() == output.resolve():
        raise ConfigurationError(f"{conversations} would overwrite itself. Give another file for the output.")
    from simgym.data.logged import StepOutput, read_logged
    from simgym.data.topics import write_topics

    with _progress() as advance, StepOutput(output) as step:
        write_topics(_told(read_logged(conversations), advance, "writing intents"), step)
    _print(step.summary(), output)


@data.command()
def flip(
    conversations: Conversations,
    output: Output,
    tokenizer: Annotated[str, typer.Option(help="Model whose tokenizer and chat template are used.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest example; longer ones are cut at a turn.")] = 2048,
) -> None:
    """Turn conversations with intents into token ids and labels, seen from the user's seat."""
    from transformers import AutoTokenizer

    from simgym.chat_template import add_end_token
    from simgym.data.flipped import flip_conversations
    from simgym.data.logged import StepOutput, read_logged
    from simgym.language_models.weights import resolve_weights

    weights = resolve_weights(tokenizer)
    loaded = AutoTokenizer.from_pretrained(weights.path, revision=weights.revision)
    if not loaded.chat_template:
        raise ConfigurationError(f"The tokenizer of {tokenizer} has no chat template. Use an instruction-tuned model.")
    add_end_token(loaded)
    with _progress() as advance, StepOutput(output) as step:
        done = itertools.count(1)
        flip_conversations(
            read_logged(conversations),
            loaded,
            step,
            max_tokens=max_tokens,
            advance=lambda: advance("flipping", next(done)),
        )
    _print(step.summary(), output)


@data.command()
def scenarios(
    conversations: Conversations,
    output: Output,
    source: Annotated[str, typer.Option(help="Where the conversations come from, as results will state it.")],
    longest: Annotated[int, typer.Option(min=1, help="Characters of the longest opening.")] = 400,
) -> None:
    """Make scenarios of conversations with an intent and an opening of at least five words."""
    from simgym.data.logged import StepOutput, read_logged
    from simgym.data.openings import write_scenarios

    with StepOutput(output) as step:
        write_scenarios(read_logged(conversations), step, source=source, longest=longest)
    _print(step.summary(), output)


@data.command()
def sources() -> None:
    """List the data of other people that recipes, benchmarks and tests read: whose it is, and how to get it."""
    from simgym.data.sources import SOURCES, availability, data_folder

    typer.echo(f"Files are looked for in {plain(str(data_folder()))} (SIMGYM_DATA).")
    for source in SOURCES:
        typer.echo(f"\n{source.name}: {availability(source).value}")
        typer.echo(f"  content  {source.content}")
        typer.echo(f"  author   {source.author}")
        typer.echo(f"  licence  {source.licence}")
        typer.echo(f"  used by  {source.used_by}")
        typer.echo(f"  obtain   {source.obtain}")


def _told(
    conversations: Iterable[LoggedConversation], advance: Callable[[str, int], object], phase: str
) -> Iterator[LoggedConversation]:
    """The conversations, counted as they pass."""
    for number, logged in enumerate(conversations, 1):
        yield logged
        if number % 1000 == 0:
            advance(phase, number)


@contextmanager
def _progress() -> Iterator[Callable[[str, int], None]]:
    """A line that says how many conversations are done; nothing where stderr is not a terminal."""
    console = stderr()
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting")
        yield lambda phase, count: bar.update(task, description=f"{phase}: {count} conversations")


def _print(summary: StepSummary, path: Path) -> None:
    typer.echo(f"{plain(str(path))}: {summary.kept} of {summary.read} conversations")
    for reason, count in sorted(summary.skipped.items(), key=lambda pair: -pair[1]):
        typer.echo(f"  skipped {count}: {plain(reason)}")
    for name in (
        "intents_from_openings", "intents_from_descriptions", "conversations_cut", "turns_cut", "tokens", "user_tokens",
    ):  # fmt: skip
        if name in summary.details:
            typer.echo(f"  {name.replace('_', ' ')}: {summary.details[name]}")
