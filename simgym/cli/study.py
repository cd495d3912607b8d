"""`simgym study`: run a study with people, look at it, analyse it, plan it, and try all of it with scripted people."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simgym.cli import options
from simgym.cli.terminal import facts, plain, print_json, shown, stderr, stdout
from simgym.errors import ConfigurationError
from simgym.statistics.intervals import format_interval

if TYPE_CHECKING:
    from rich.table import Table

    from simgym.study.analysis import Pair, StudyResults
    from simgym.study.config import Study
    from simgym.study.store import Store

study = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="A study with people: init, serve, status, export, analyse, power, simulate, purge.",
)

File = Annotated[Path, typer.Argument(help="The study, YAML.")]
Database = Annotated[
    str | None,
    typer.Option(
        help="sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME. Default: an SQLite file beside the study. Also "
        "the environment variable SIMGYM_STUDY_DATABASE, which keeps a password out of the list of processes.",
        show_default=False,
        envvar="SIMGYM_STUDY_DATABASE",
        show_envvar=False,
    ),
]
WinRate = Annotated[float, typer.Option(help="True win rate, ties counted as half.")]
TieRate = Annotated[float, typer.Option(min=0, max=1, help="Share of ties.")]
Icc = Annotated[float, typer.Option(min=0, max=1, help="Intraclass correlation of a participant's choices.")]


@study.command()
def init(
    path: Annotated[Path, typer.Argument(help="The YAML file to write.")] = Path("study.yaml"),
) -> None:
    """Write a commented study file to start from."""
    config = _config()
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(config.study_template())
    except FileExistsError as error:
        raise ConfigurationError(f"{path} exists already and is left as it is. Give another name.") from error
    except OSError as error:
        raise ConfigurationError(f"Cannot write {path}: {error.strerror}.") from error
    typer.echo(f"{plain(str(path))}: change texts, tasks, assistants and pairs, then try it:")
    typer.echo(f"simgym study serve {plain(str(path))} --dry-run")


@study.command()
def serve(
    file: File,
    database: Database = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Try it out: default model, separate database, a banner on each page.",
        ),
    ] = False,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="For scripted participants: scripted replies, no rate limits.")
    ] = False,
    https: Annotated[
        bool,
        typer.Option("--https", help="Behind a proxy that speaks HTTPS: cookies over HTTPS only, its headers count."),
    ] = False,
    proxy: Annotated[
        str, typer.Option(help="With --https: where the proxy is, addresses or networks with commas between.")
    ] = "127.0.0.1",
    connections: Annotated[
        int | None,
        typer.Option(
            min=10,
            help="Largest number of connections; default: as many as the process may open files.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve a study until Ctrl-C; after a restart, participants continue where they stopped.

    The environment variable SIMGYM_STUDY_ADMIN_TOKEN (16 characters or more) opens /admin with that password.
    """
    config = _config()
    from simgym.study.serving import ServerSettings
    from simgym.study.serving import serve as run

    if dry_run and synthetic:
        raise ConfigurationError("--dry-run and --synthetic exclude each other. Give one.")
    kind = "dry_run" if dry_run else "synthetic" if synthetic else "real"
    loaded = config.load_study(file)
    url = _database(database, file, kind)
    stderr().print(shown(f"{loaded.name} ({kind.replace('_', ' ')}), hash {loaded.hash}: http://{host}:{port}/"))
    stderr().print(shown(f"Stored in {_public(url)}. Ctrl-C stops the server; nothing is lost."))
    settings = ServerSettings(
        host=host,
        port=port,
        admin_token=os.environ.get("SIMGYM_STUDY_ADMIN_TOKEN") or None,
        secure_cookies=https,
        proxies=proxy if https else None,
        connections=connections,
    )
    run(loaded, url, kind=kind, settings=settings)


@study.command()
def status(file: File, database: Database = None, json: options.Json = False) -> None:
    """Show the progress of the participants."""
    from simgym.study.records import participant_flow

    records, withdrawn = _records(file, database, texts=False)
    flow = participant_flow(records, withdrawn=withdrawn)
    if json:
        print_json(flow)
        return
    stdout().print(facts([(step, str(number)) for step, number in flow.items()]))


@study.command()
def export(
    file: File,
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL file to write.")],
    database: Database = None,
    no_texts: Annotated[bool, typer.Option("--no-texts", help="Lengths instead of what was written.")] = False,
) -> None:
    """Write anonymised records: no recruitment id, no secret, times since opening; one line per participant."""
    from simgym.output_files import write_whole
    from simgym.study.records import as_json_lines

    records, _ = _records(file, database, texts=not no_texts)
    write_whole(output, as_json_lines(records), errors="replace")
    typer.echo(f"{plain(str(output))}: {len(records)} participants")


@study.command()
def analyse(
    records: Annotated[
        Path, typer.Argument(help="Records of `simgym study export`, or of another app: file or folder.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results.json and report.html.")],
    file: Annotated[
        Path | None,
        typer.Option("--study", help="The study: its exclusion rules, pairs and margin.", show_default=False),
    ] = None,
    withdrawn: Annotated[int, typer.Option(min=0, help="Withdrawn participants (see `simgym study status`).")] = 0,
    seed: options.Seed = 0,
) -> None:
    """Estimate win rates with clustered intervals, corrected tests and robustness checks."""
    config = _config()
    from simgym.report.study import write_study_report
    from simgym.study.analysis import AnalysisPlan
    from simgym.study.analysis import analyse as compute
    from simgym.study.records import read_records
    from simgym.transcripts import write_json

    settings: Study | None = config.load_study(file) if file else None
    plan = AnalysisPlan.of(settings) if settings else None
    results = compute(read_records(records), plan=plan, withdrawn=withdrawn, seed=seed)
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "results.json", results.to_json())
    write_study_report(output / "report.html", results, title=settings.texts.title if settings else records.name)
    print_results(results)
    for name in ("results.json", "report.html"):
        stdout().print(shown(str(output / name)), soft_wrap=True)


@study.command()
def power(
    win_rate: WinRate = 0.58,
    turns: Annotated[int, typer.Option(min=1, help="Choices of a participant.")] = 5,
    tie_rate: TieRate = 0.15,
    icc: Icc = 0.1,
    power: Annotated[float, typer.Option(help="Desired probability of detecting the difference, in (0, 1).")] = 0.8,
    alpha: Annotated[float, typer.Option(help="Two-sided level, in (0, 1).")] = 0.05,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs tested; alpha is divided by it (Bonferroni).")] = 1,
    simulations: Annotated[int, typer.Option(min=0, help="Studies simulated to check the formula; 0: none.")] = 2000,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Compute the participants needed per pair, and simulate the power of the test that `analyse` uses."""
    from simgym.statistics.power import plan_tied_win_rate
    from simgym.statistics.votes import VoteDistribution, rejection_rate

    try:
        plan = plan_tied_win_rate(
            win_rate, per_cluster=turns, tie_rate=tie_rate, icc=icc, power=power, alpha=alpha / pairs
        )
        rejections = None
        if simulations:
            truth = VoteDistribution(win_rate, tie_rate, icc)
            rejections = rejection_rate(
                plan.clusters, turns, truth, alpha=alpha / pairs, studies=simulations, seed=seed
            )
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    if json:
        simulated = rejections.robust.to_json() if rejections else None
        print_json({"participants_per_pair": plan.clusters, "design_effect": plan.design_effect, "power": simulated})
        return
    needed = f"{plan.clusters} participants per pair (design effect {plan.design_effect:.2f})"
    typer.echo(f"{needed}, {plan.clusters * pairs} in all")
    if rejections is not None and rejections.robust.value is not None:
        typer.echo(
            f"simulated power {_interval(rejections.robust)} of the cluster-robust test, in {simulations:,} studies"
        )


@study.command()
def simulate(
    file: File,
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for database, records and report.")],
    participants: Annotated[int, typer.Option("-n", min=1, help="Scripted participants.")] = 40,
    win_rate: WinRate = 0.58,
    tie_rate: TieRate = 0.15,
    icc: Icc = 0.2,
    at_once: Annotated[int, typer.Option(min=1, help="Participants at the same time.")] = 10,
    doubled: Annotated[float, typer.Option(min=0, max=1, help="Share of forms sent twice at the same time.")] = 0.1,
    database: Annotated[
        str | None, typer.Option(help="Database; default: SQLite in the folder.", show_default=False)
    ] = None,
    seed: options.Seed = 0,
) -> None:
    """Run scripted participants with known preferences through the pages; results are labelled synthetic."""
    config = _config()
    from simgym.statistics.votes import VoteDistribution
    from simgym.study.serving import served
    from simgym.study.simulate import Traffic, disagreements, play

    loaded = config.load_study(file)
    if (output / "study.db").exists():
        raise ConfigurationError(f"{output} holds a simulated study already. Give another folder.")
    output.mkdir(parents=True, exist_ok=True)
    url = database or f"sqlite:///{(output / 'study.db').absolute()}"
    traffic = Traffic(at_once=at_once, doubled=doubled)
    try:
        truth = VoteDistribution(win_rate, tie_rate, icc)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    with served(file, url, "--synthetic") as (address, _):
        ledgers = asyncio.run(play(address, loaded, participants=participants, truth=truth, traffic=traffic, seed=seed))
    export(file, output / "records.jsonl", url)
    from simgym.study.records import read_records

    problems = disagreements(ledgers, read_records(output / "records.jsonl"), loaded.pairs)
    for problem in problems[:10]:
        stderr().print(shown(problem, "red"))
    typer.echo(
        f"{participants} synthetic participants; {len(problems)} disagreements between what they did and the records"
    )
    if problems:
        raise typer.Exit(1)
    analyse(output / "records.jsonl", output, file, 0, seed)


@study.command()
def purge(
    file: File,
    database: Database = None,
    recruitment: Annotated[bool, typer.Option("--recruitment", help="Delete recruitment ids.")] = False,
    drafts: Annotated[bool, typer.Option("--drafts", help="Delete drafts.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete recruitment ids or drafts that are no longer needed; answers stay."""
    config = _config()
    if not (recruitment or drafts):
        raise ConfigurationError("There is nothing to delete. Give --recruitment, --drafts or both.")
    loaded = config.load_study(file)
    from simgym.study.store import Purge

    if not yes:
        typer.confirm("This cannot be undone. Go on?", abort=True)

    async def delete() -> Purge:
        async with _store_of(loaded, _database(database, file, "real")) as store:
            return await store.purge(recruits=recruitment, drafts=drafts)

    purged = asyncio.run(delete())
    for table, number in purged.rows.items():
        typer.echo(f"{table}: {number} deleted")
    if not purged.erased:
        stderr().print(
            shown("They are still on the disk: somebody is reading the database. Purge again when it is free.", "red")
        )
        raise typer.Exit(1)


def print_results(results: StudyResults) -> None:
    """A table a pair, or ratings."""
    from simgym.statistics.intervals import format_p_equation

    out = stdout()
    if results.kind != "real":
        out.print(
            shown(f"NOT FROM PEOPLE: {results.kind.replace('_', ' ')}" if results.kind != "unknown" else "imported")
        )
    out.print(facts([(step, str(number)) for step, number in results.flow.items()]))
    out.print(facts([(f"excluded: {why}", str(number)) for why, number in results.excluded.items() if number]))
    for pair in results.pairs:
        out.print(pair_table(pair))
    for name, estimate in results.ratings.items():
        out.print(shown(f"{name}: mean rating {_interval(estimate)} of {estimate.n}"))
    for difference in results.rating_differences:
        test = format_p_equation(difference.p_adjusted)
        out.print(shown(f"{difference.first} - {difference.second}: {_interval(difference.difference)}, {test} (Holm)"))
    for warning in results.warnings:
        out.print(shown(warning, "yellow"))


def pair_table(pair: Pair) -> Table:
    """The rows of a pair."""
    from rich import box
    from rich.table import Table

    from simgym.statistics.intervals import format_p, format_p_equation

    title = f"{pair.first} against {pair.second}: {pair.wins} wins, {pair.ties} ties, {pair.losses} losses"
    table = Table(title=shown(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("win rate", "people", "choices", "rate [95 %]", "p"):
        table.add_column(name, justify="left" if name == "win rate" else "right")
    for row in (*pair.rows, *((pair.left,) if pair.left else ())):
        p = format_p(row.test.p_value if row.test else None)
        table.add_row(shown(row.title), str(row.participants), str(row.votes), _interval(row.rate), p)
    holm = format_p(pair.p_adjusted)
    same = pair.equivalence
    words = f"{'yes' if same.equivalent else 'not shown'} ({format_p_equation(same.p_value)})"
    table.caption = shown(
        f"main p corrected (Holm) {holm}; intraclass correlation {_interval(pair.icc)}; within 0.5 ± "
        f"{same.margin:g}: {words}"
    )
    table.caption_justify = "left"
    return table


def _interval(estimate: Any) -> str:
    if estimate is None or estimate.value is None:
        return "–"
    return f"{estimate.value:.3f} {format_interval(estimate, '.3f')}"


def _config() -> Any:
    from simgym.extras import optional_import

    for module in ("pydantic", "yaml", "sqlalchemy", "starlette", "nh3", "markdown_it", "regex", "httptools"):
        optional_import(module, "study")
    import simgym.study.config as config

    return config


def _records(file: Path, database: str | None, *, texts: bool) -> tuple[list[dict[str, object]], int]:
    loaded = _config().load_study(file)
    from simgym.study.records import export as read

    async def both() -> tuple[list[dict[str, object]], int]:
        async with _store_of(loaded, _database(database, file, "real")) as store:
            return await read(store, texts=texts), await store.withdrawn()

    return asyncio.run(both())


@asynccontextmanager
async def _store_of(loaded: Study, url: str) -> AsyncIterator[Store]:
    """The open database of a study; refuses that of another."""
    from simgym.study.store import Store

    store = Store(url)
    try:
        meta = await store.meta()
        if meta.name != loaded.name:
            raise ConfigurationError(
                f"The database belongs to the study {meta.name!r}, the file describes {loaded.name!r}. "
                "Give the database of this study (--database, or SIMGYM_STUDY_DATABASE)."
            )
        yield store
    finally:
        await store.close()


def _database(given: str | None, file: Path, kind: str) -> str:
    if given:
        return given
    ending = {"real": ".db", "dry_run": ".dry-run.db", "synthetic": ".synthetic.db"}[kind]
    return f"sqlite:///{file.with_suffix(ending).absolute()}"


def _public(url: str) -> str:
    """A database's address without a password."""
    kind, _, rest = url.partition("://")
    return f"{kind}://{rest.rpartition('@')[2]}"
