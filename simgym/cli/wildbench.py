"""`simgym wildbench`: answer the tasks, judge the answers, compare two assistants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simgym.cli import options
from simgym.cli.completion import complete_assistant
from simgym.cli.terminal import format_estimate, plain, print_facts, print_json, shown, stderr
from simgym.errors import ConfigurationError

if TYPE_CHECKING:
    from simgym.evaluation.wildbench_results import Summary

wildbench = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="WildBench v2: run (answer the tasks), score, compare."
)

Tasks = Annotated[str, typer.Option(help="allenai/WildBench, or a JSONL or Parquet file in its schema.")]
Limit = Annotated[
    int | None, typer.Option("-n", min=1, help="Use the first N tasks. Default: all.", show_default=False)
]
Run = Annotated[Path, typer.Argument(help="Folder of a run.")]


@dataclass(frozen=True)
class ReplyOptions(options.SamplingOptions):
    """How answers are drawn: longer than turns of a conversation, and the most likely ones."""

    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, tokens.")] = 2048
    temperature: Annotated[
        float, typer.Option(min=0.0, help="Temperature of the assistant; 0 picks the most likely token.")
    ] = 0.0


@wildbench.command()
@options.with_bundles
def run(
    assistant: Annotated[str, typer.Option(help=options.ASSISTANT_HELP, autocompletion=complete_assistant)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; an existing run is continued.")],
    replies: ReplyOptions,
    caching: options.CacheOptions,
    tasks: Tasks = "allenai/WildBench",
    n: Limit = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 32,
) -> None:
    """Let an assistant answer the tasks."""
    from simgym.assistants.loading import load_assistant
    from simgym.cli.progress import counting, load_models, say_nothing_to_do
    from simgym.evaluation.wildbench import answer_tasks, unanswered

    answering = load_assistant(assistant, replies.sampling, cache=caching.cache).assistant
    chosen = _load(tasks, n)
    if unanswered(chosen, output):
        load_models([("assistant", answering)])
    else:
        say_nothing_to_do(len(chosen), "answers", output)
    with counting("answering", len(chosen)) as advance:
        answers = answer_tasks(
            answering,
            chosen,
            folder=output,
            seed=seed,
            max_new_tokens=replies.max_new_tokens,
            batch_size=batch_size,
            advance=advance,
        )
    failed, cut = sum(answer.fault is not None for answer in answers), sum(answer.cut_off for answer in answers)
    typer.echo(f"{plain(str(output))}: {len(answers)} tasks, {failed} without an answer, {cut} cut off")


@wildbench.command()
@options.with_bundles
def score(
    folder: Run,
    judge_model: Annotated[str, typer.Option(help=f"Model that judges: {options.MODEL_HELP}.")],
    caching: options.CacheOptions,
    protocol: Annotated[
        str, typer.Option(help="checklist (items satisfied), score (WB-Score) or reward (WB-Reward).")
    ] = "checklist",
    reference: Annotated[
        Path | None, typer.Option(help="Folder of the reference run, for reward.", show_default=False)
    ] = None,
    official: Annotated[
        bool, typer.Option(help="Treat cut-off answers and missing references as the published numbers do.")
    ] = False,
    tasks: Tasks = "allenai/WildBench",
    n: Limit = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 16,
    json: options.Json = False,
) -> None:
    """Judge the answers of a run. Run it again to retry failed judgements."""
    from simgym.assistants.language_model_assistant import LanguageModelAssistant
    from simgym.cli.progress import counting, load_models, say_nothing_to_do
    from simgym.evaluation import wildbench as bench
    from simgym.evaluation import wildbench_results as results
    from simgym.transcripts import write_json

    if protocol not in bench.PROTOCOLS:
        raise ConfigurationError(f"Unknown protocol {protocol!r}. Known: {', '.join(bench.PROTOCOLS)}.")
    chosen = _load(tasks, n)
    answers, _ = bench.read_answers(folder)
    others = bench.read_answers(reference)[0] if reference is not None else None
    name = reference.name if reference is not None else ""
    judging = caching.model(judge_model)
    if bench.unjudged(chosen, answers, folder, f"reward-{name}" if protocol == "reward" else protocol):
        load_models([("judge", LanguageModelAssistant(judging))])
    else:
        say_nothing_to_do(len(chosen), "verdicts", folder)
    with counting("judging", len(chosen)) as advance:
        rows = bench.judge_answers(
            chosen,
            answers,
            protocol=protocol,
            model=judging,
            folder=folder,
            reference=others,
            reference_name=name,
            seed=seed,
            batch_size=batch_size,
            advance=advance,
        )
    if protocol == "checklist":
        summaries = {"items satisfied": results.checklist_share(chosen, rows)}
    elif protocol == "score":
        summaries = {"WB-Score": results.wb_score(bench.graded(chosen, rows), official=official, seed=seed)}
    else:
        pairs = bench.compared(chosen, rows)
        summaries = {
            "WB-Reward" if penalty is None else f"WB-Reward, K = {penalty}": results.wb_reward(
                pairs, penalty=penalty, official=official, seed=seed
            )
            for penalty in results.PENALTIES
        }
    value = {
        "protocol": protocol,
        "official": official,
        "figures": {key: summary.to_json() for key, summary in summaries.items()},
    }
    write_json(folder / f"results-{protocol}{'-' + name if name else ''}.json", value)
    if json:
        print_json(value)
        return
    for title, summary in summaries.items():
        print_facts(_rows(summary), title)


@wildbench.command()
def compare(
    first: Run,
    second: Annotated[Path, typer.Argument(help="Folder of the other run.")],
    json: options.Json = False,
) -> None:
    """Compare two runs by the checklist items they satisfy; both must have been judged alike."""
    from simgym.evaluation.wildbench import read_judgements, satisfied
    from simgym.evaluation.wildbench_results import compare_checklists

    (rows, header), (other_rows, other_header) = (read_judgements(path, "checklist") for path in (first, second))
    if differing := sorted(key for key in {*header, *other_header} if header.get(key) != other_header.get(key)):
        raise ConfigurationError(
            f"{first} and {second} were judged with another {', '.join(differing)}, so they cannot be compared. Judge "
            "both with the same model, prompt, tasks and seed."
        )
    comparison = compare_checklists(satisfied(rows), satisfied(other_rows))
    if json:
        print_json(comparison.to_json())
        return
    gap = comparison.mean_length_difference
    print_facts(
        [
            ("win rate", format_estimate(comparison.adjusted_win_rate, percent=True)),
            ("at equal length", format_estimate(comparison.length_controlled, percent=True)),
            ("wins, ties, losses", f"{comparison.wins}, {comparison.ties}, {comparison.losses}"),
            ("left out", f"{comparison.left_out} tasks without a judgement of both" if comparison.left_out else ""),
            ("length", "" if gap is None else f"{gap:+.0f} characters against the other"),
        ]
    )


def _load(source: str, limit: int | None) -> Sequence[Any]:
    from simgym.data.wildbench import load_wildbench

    tasks = load_wildbench(source, limit=limit)
    for identifier, reason in list(tasks.skipped.items())[:5]:
        stderr().print(shown(f"left out {identifier}: {reason}", "dim"))
    if len(tasks.skipped) > 5:
        stderr().print(shown(f"left out {len(tasks.skipped) - 5} more tasks", "dim"))
    return tasks.tasks


def _rows(summary: Summary) -> list[tuple[str, str]]:
    rows = [("all tasks", format_estimate(summary.overall))]
    rows += [(group, format_estimate(estimate)) for group, estimate in summary.by_group.items()]
    rows.append(("macro mean", "" if summary.macro is None else f"{summary.macro:.2f}"))
    failed = ", ".join(f"{number} {kind}" for kind, number in summary.failures.items())
    rows.append(("failures", failed or "none"))
    rows.append(("mean length", "" if summary.mean_length is None else f"{summary.mean_length:.0f} characters"))
    return rows
