"""`simgym matrix`: every assistant with every simulated user, as a table, results.json and an HTML report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simgym.cli import options
from simgym.cli.terminal import complain, plain, shown, stderr, stdout
from simgym.errors import ConfigurationError
from simgym.language_models.weights import EMBEDDED

if TYPE_CHECKING:
    from rich.table import Table

    from simgym.assistants.language_model_assistant import LanguageModelAssistant
    from simgym.evaluation.comparisons import Comparisons
    from simgym.evaluation.matrix import Cell, Matrix
    from simgym.report.results import MatrixResults
    from simgym.statistics.intervals import Estimate
    from simgym.transcripts import Transcript

_QUESTION = "How well does each assistant do with simulated users, and does it depend on which simulator plays them?"


def matrix(
    assistant: Annotated[list[str], typer.Option(help=f"{options.ASSISTANT_HELP} Repeatable: one row each.")],
    env: Annotated[list[str], typer.Option(help="Environment id. Repeatable: one column each.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; an existing run is continued.")],
    scenarios: options.Scenarios = None,
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="Use the first so many scenarios. Default: all.", show_default=False)
    ] = None,
    seed: options.Seed = 0,
    max_turns: options.MaxTurns = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="[ENV=]MODEL of the simulated users, in all environments or in one. Repeatable.",
            show_default=False,
        ),
    ] = None,
    simulator_option: Annotated[
        list[str] | None, typer.Option(help="[ENV:]KEY=VALUE for the simulators. Repeatable.", show_default=False)
    ] = None,
    judge: options.Judge = None,
    judge_model: options.JudgeModel = None,
    max_new_tokens: options.MaxNewTokens = 256,
    user_max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest user turn, tokens, for simulators that write with a model.")
    ] = 256,
    temperature: options.Temperature = 1.0,
    batch_size: options.BatchSize = 32,
    reference: Annotated[
        str | None, typer.Option(help="The assistant that others are compared with.", show_default="the first")
    ] = None,
    trained_on: Annotated[
        list[str] | None,
        typer.Option(help="ASSISTANT=ENV: what it was trained with, for the gap. Repeatable.", show_default=False),
    ] = None,
    show_conversation: Annotated[bool, typer.Option(help="Print one conversation at the end.")] = True,
) -> None:
    """Evaluate assistants across simulators.

    Writes the generalization matrix as results.json and report.html. Every cell sees the same scenarios with the same
    seeds. Finished conversations are kept: the same command again goes on where it stopped.
    """
    from simgym.cli.progress import ConversationProgress
    from simgym.evaluation.comparisons import compare_cells
    from simgym.evaluation.matrix import evaluate_matrix
    from simgym.report.html import write_report
    from simgym.report.results import short_name
    from simgym.transcripts import write_json

    started = time.monotonic()
    rows = read_assistants(assistant, max_new_tokens, temperature)
    columns = list(dict.fromkeys(env))
    common = options.env_options(judge=judge, judge_model=judge_model, max_turns=max_turns)
    of_column = read_columns(columns, model or [], simulator_option or [], user_max_new_tokens)
    chosen = options.load(columns[0], scenarios, n)
    home = read_home(trained_on or [], rows, columns)
    if reference is not None and reference not in rows:
        raise ConfigurationError(f"--reference is {reference!r}, expected one of {', '.join(rows)}.")
    _load_models(rows)
    with ConversationProgress(len(rows) * len(columns) * len(chosen)) as progress:
        filled = evaluate_matrix(
            rows,
            columns,
            chosen,
            folder=output,
            seed=seed,
            batch_size=batch_size,
            env_options=common,
            simulator_options=of_column,
            progress=lambda row, column, one: progress.advance(one, f"{row} / {short_name(column)}"),
        )
    compared = compare_cells(filled, reference=reference, trained_on=home, seed=seed)
    results = replace(
        describe_run(filled, scenarios=chosen[0].source, seed=seed, seconds=time.monotonic() - started),
        comparisons=compared,
    )
    write_json(output / "results.json", results.to_json())
    write_report(output / "report.html", results, filled.transcripts, max_conversations=5)
    _show(results, filled.transcripts, output, show_conversation)
    if not any(cell.counted for cell in filled.cells):
        complain("No conversation counts: see why with `simgym view`.")
        raise typer.Exit(1)


def read_assistants(texts: Sequence[str], max_new_tokens: int, temperature: float) -> dict[str, LanguageModelAssistant]:
    """Assistants by name.

    Raises:
        ConfigurationError: two have the same name.
    """
    from simgym.assistants.language_model_assistant import assistant_from_text

    rows: dict[str, LanguageModelAssistant] = {}
    for text in texts:
        name, assistant = assistant_from_text(text, options.sampling(max_new_tokens, temperature))
        if name in rows:
            raise ConfigurationError(f"Two assistants are called {name!r}. Name them: --assistant NAME=MODEL[+PROMPT].")
        rows[name] = assistant
    return rows


def read_home(texts: Sequence[str], rows: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str]:
    """Environment id by assistant.

    Raises:
        ConfigurationError: there is no such row or column.
    """
    home = {name: str(env_id) for name, env_id in options.read_pairs(texts, "--trained-on").items()}
    for name, env_id in home.items():
        if name not in rows or env_id not in columns:
            raise ConfigurationError(
                f"--trained-on is {name}={env_id}, expected ASSISTANT=ENV with one of {', '.join(rows)} and one of "
                f"{', '.join(columns)}."
            )
    return home


def read_columns(
    env_ids: Sequence[str], models: Sequence[str], simulator_options: Sequence[str], user_max_new_tokens: int
) -> dict[str, dict[str, Any]]:
    """Arguments of the simulator of each environment."""
    arguments: dict[str, dict[str, Any]] = {}
    for env_id in env_ids:
        own: list[str] = []
        for text in simulator_options:
            head, colon, rest = text.partition(":")
            if colon and head in env_ids:
                own += [rest] if head == env_id else []
            else:
                own.append(text)
        given = options.read_pairs(own, "--simulator-option")
        if _takes(env_id, "max_new_tokens"):
            given.setdefault("max_new_tokens", user_max_new_tokens)
        if _takes(env_id, "model") and (model := _model_of(env_id, env_ids, models)) is not None:
            given["model"] = model
        arguments[env_id] = given
    return arguments


def describe_run(filled: Matrix, *, scenarios: str, seed: int, seconds: float) -> MatrixResults:
    """What goes into results.json."""
    from simgym import __version__
    from simgym.report.results import MatrixResults

    judge = filled.fingerprints["judge"]
    first = next(iter(filled.transcripts.values()))
    excluded = sum(cell.conversations - cell.counted for cell in filled.cells)
    notes = _what_to_know(filled.fingerprints)
    if excluded:
        many = "1 conversation" if excluded == 1 else f"{excluded} conversations"
        notes.append(f"{many} ended in a fault and do not enter the means.")
    return MatrixResults(
        title="Assistants and simulated users",
        question=_QUESTION,
        created=datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
        simgym_version=__version__,
        seed=seed,
        max_turns=first[0].fingerprints["env"]["max_turns"],
        judge=str(judge.get("judge", "unknown")),
        measures=str(judge.get("measures", "what its rubric says")),
        scenario_source=scenarios,
        scenarios_n=len(first),
        assistants=tuple(filled.fingerprints["assistants"]),
        simulators=tuple(filled.fingerprints["simulators"]),
        cells=filled.cells,
        seconds=round(seconds, 1),
        fingerprints=filled.fingerprints,
        notes=tuple(notes),
    )


def _what_to_know(fingerprints: Mapping[str, Any]) -> list[str]:
    """What a reader has to know before believing a number."""
    notes = []
    if fingerprints["judge"].get("judge") == "relevance":
        notes.append(
            "The judge measures relevance: whether the replies fit the user's words. It sees neither correctness nor "
            "tone nor effort, so the matrix does not say which assistant is more helpful."
        )
    if fingerprints["judge"].get("judge") == "reward_head":
        notes.append(
            "The judge is a small reward model: it tells answers like a strong model's from a small model's and from "
            "spoilt ones. Facts it does not check, and on close pairs it is often wrong (see its model card)."
        )
    if EMBEDDED in repr(fingerprints):
        notes.append(
            "Roles are played by the embedded 135M model, whose users and replies are weak: the run shows that the "
            "method works end to end, not what good simulators would find."
        )
    return notes


def matrix_table(results: MatrixResults, width: int) -> Table:
    """The matrix in `width` columns: assistants as rows if they fit, else simulators, else one line a cell."""
    from simgym.report.results import short_name

    texts = {(cell.assistant, short_name(cell.simulator)): cell_in_words(cell) for cell in results.cells}
    rows = [plain(row) for row in results.assistants]
    columns = [short_name(column) for column in results.simulators]
    texts = {(plain(row), column): text for (row, column), text in texts.items()}
    flipped = {(column, row): text for (row, column), text in texts.items()}
    layouts = [("assistant", rows, columns, texts), ("simulator", columns, rows, flipped)]
    for corner, down, across, entries in layouts:
        needed = max(map(len, [corner, *down])) + sum(
            3 + max(len(name), *(len(entries[row, name]) for row in down)) for name in across
        )
        if needed <= width:
            return _table([corner, *across], [[row, *(entries[row, name] for name in across)] for row in down])
    return _table(
        ["assistant", "simulator", "mean"], [[row, column, texts[row, column]] for row in rows for column in columns]
    )


def cell_in_words(cell: Cell) -> str:
    """`43.1 ± 4.1 (20)`: mean reward x 100, half the interval's length, conversations counted."""
    estimate = cell.estimate
    if estimate.value is None:
        return "none (0)"
    half = "?" if estimate.half_width is None else f"{estimate.half_width:.1f}"
    return f"{estimate.value:.1f} ± {half} ({cell.counted})"


def changes_table(compared: Comparisons) -> Table:
    """A line for each change, and the gap."""
    from simgym.report.results import short_name

    rows = [
        [
            plain(one.assistant),
            short_name(one.simulator),
            difference_in_words(one.estimate),
            "-" if one.p_corrected is None else f"{one.p_corrected:.3f}",
        ]
        for one in compared.changes
    ]
    if compared.gap is not None:
        rows.append(["generalization gap", "", difference_in_words(compared.gap), ""])
    return _table([f"against {plain(compared.reference)}", "simulator", "change", "p (Holm)"], rows)


def difference_in_words(estimate: Estimate) -> str:
    """`+3.1 [0.4, 5.9]`."""
    if estimate.value is None:
        return "none"
    ends = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:.1f}, {estimate.high:.1f}]"
    return f"{estimate.value:+.1f}{ends}"


def _show(
    results: MatrixResults,
    transcripts: Mapping[tuple[str, str], Sequence[Transcript]],
    folder: Path,
    show_conversation: bool,
) -> None:
    from simgym.cli.rollout import exclusions_in_words
    from simgym.cli.view import transcript_view
    from simgym.report.results import short_name

    console = stdout()
    console.print("Mean reward x 100 ± half of its 95 % interval (conversations counted)")
    console.print(shown(f"Judge: {results.judge}; measures {results.measures}", "dim"))
    console.print(matrix_table(results, console.width))
    excluded = [
        f"  {cell.assistant} / {short_name(cell.simulator)}: {exclusions_in_words(cell)}"
        for cell in results.cells
        if cell.excluded
    ]
    if results.comparisons is not None:
        console.print(changes_table(results.comparisons))
    console.print(shown("\n".join(["Excluded:", *excluded]) if excluded else "Excluded: none"))
    if show_conversation:
        counted = [one for several in transcripts.values() for one in several if one.counts]
        everything = [one for several in transcripts.values() for one in several]
        console.print(shown("\nOne of the conversations:", "bold"))
        console.print(transcript_view((counted or everything)[0]))
    console.print()
    for name in ("results.json", "report.html", "transcripts"):
        console.print(shown(str(folder / name)), soft_wrap=True)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for number, name in enumerate(header):
        names = number == 0 or name == "simulator"
        fits = header[-1] != "mean"  # else the last resort, where long names may fold
        table.add_column(shown(name), no_wrap=fits or not names, overflow="fold", justify="left" if names else "right")
    for row in rows:
        table.add_row(*(shown(text) for text in row))
    return table


def _load_models(rows: Mapping[str, LanguageModelAssistant]) -> None:
    # A row whose model cannot be loaded shall fail now, not when the rows above it are done.
    from simgym.language_models.loading import load_language_model

    with stderr().status("Loading models"):
        for assistant in rows.values():
            load_language_model(assistant.model_spec).generate([])


def _model_of(env_id: str, env_ids: Sequence[str], models: Sequence[str]) -> Any:
    common = own = None
    for text in models:
        head, equals, rest = text.partition("=")
        if equals and head in env_ids:
            own = rest if head == env_id else own
        else:
            common = text
    found = own or common
    return options.read_model(found) if found else None


def _takes(env_id: str, argument: str) -> bool:
    import gymnasium

    from simgym.simulators.loading import takes_option

    row = gymnasium.registry.get(env_id)
    simulator = row.kwargs.get("simulator") if row is not None else None
    return isinstance(simulator, str) and takes_option(simulator, argument)
