"""`simgym doctor`: what is installed, what this machine offers, and whether simgym can work here.

Reads the installed metadata rather than a list of its own, so it cannot disagree with `pyproject.toml`. Importing the
heavy packages is part of the check: one that is installed may still be broken.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import sys
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from simgym.cli.options import Json
from simgym.cli.terminal import facts, print_json, shown, stdout
from simgym.errors import SimgymError

_IMPORTED = ("numpy", "gymnasium", "torch", "transformers", "peft", "xgrammar", "scipy")
"""Imported as part of the check; the others are looked up only."""
_KINDS = ("simulators", "judges", "language_models")


@dataclass(frozen=True, slots=True)
class Package:
    """One requirement of simgym and what is installed."""

    name: str
    """Name on the package index."""
    needed: str
    """Version specifier; empty for any."""
    extra: str | None
    """Which extra brings it; None: the core."""
    installed: str | None
    """Installed version, or None."""
    problem: str | None
    """Why it cannot be used, or None."""


def doctor(
    check_model: Annotated[bool, typer.Option("--check-model", help="Load the model and write 8 tokens.")] = False,
    model: Annotated[str | None, typer.Option(help="Which model to check.", show_default="the embedded one")] = None,
    bench: Annotated[
        bool, typer.Option("--bench", help="Measure which numbers (dtype) the model is fastest with here; minutes.")
    ] = False,
    json: Json = False,
) -> None:
    """Say whether simgym works here.

    Lists versions, machine, cache and plug-ins; exit code 1 if something that simgym cannot do without is missing.
    """
    packages = list_packages()
    plugins = {kind: check_plugins(kind) for kind in _KINDS}
    problems = [f"{one.name}: {one.problem}" for one in packages if one.extra is None and one.problem]
    problems += [
        f"{kind} {name}: {problem}" for kind, found in plugins.items() for name, problem in found.items() if problem
    ]
    report: dict[str, Any] = {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "simgym": metadata.version("simgym"),
        "packages": [asdict(one) for one in packages],
        "machine": describe_machine(),
        "cache": describe_cache(),
        "environments": _environments(),
        **{kind: sorted(found) for kind, found in plugins.items()},
    }
    if check_model:
        report["model"] = try_model(model)
        problems += [f"model: {report['model']['problem']}"] if report["model"]["problem"] else []
    if bench:
        from simgym.evaluation.numerics import compare_numerics

        report["numerics"] = [asdict(one) for one in compare_numerics(model)]
    report["problems"] = problems
    report["ok"] = not problems
    if json:
        print_json(report)
    else:
        _show(report, packages)
    if problems:
        raise typer.Exit(1)


def list_packages() -> list[Package]:
    """Every requirement in simgym's metadata, core first, then by extra."""
    packages = []
    for line in metadata.requires("simgym") or ():
        requirement, _, marker = line.partition(";")
        match = re.match(r"\s*([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*(.*)", requirement)
        if match is None or match.group(1) == "simgym":
            continue
        found = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
        packages.append(_check_package(match.group(1), match.group(2).strip(), found.group(1) if found else None))
    return sorted(packages, key=lambda one: (one.extra is not None, one.extra or ""))


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


def describe_machine() -> dict[str, Any]:
    """Processor cores, memory in GB, and the device that models run on."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine: dict[str, Any] = {"cores": usable, "memory_gb": _memory_gb(), "device": None, "torch_threads": None}
    try:
        import torch
    except (ImportError, OSError):
        return machine
    machine["torch_threads"] = torch.get_num_threads()
    if torch.cuda.is_available():
        machine["device"] = f"cuda: {torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    else:
        machine["device"] = "mps" if torch.backends.mps.is_available() else "cpu"
    return machine


def describe_cache() -> dict[str, Any]:
    """Where converted weights are kept, and whether the embedded model is there."""
    from simgym.language_models.weights import EMBEDDED, cache_folder, embedded_is_ready

    folder = cache_folder()
    ready = embedded_is_ready()
    nearest = next((one for one in (folder, *folder.parents) if one.exists()), folder)
    return {
        "folder": str(folder),
        "writable": os.access(nearest, os.W_OK),
        "embedded_model": EMBEDDED,
        "converted": ready,
    }


def try_model(name: str | None) -> dict[str, Any]:
    """Load a model and let it write 8 tokens."""
    from simgym.conversation import Message
    from simgym.language_models.base import Request, Sampling
    from simgym.language_models.loading import check_language_model, load_language_model
    from simgym.language_models.weights import EMBEDDED

    spec = name or EMBEDDED
    asked = Request((Message("user", "Say hello."),), Sampling(temperature=0, max_new_tokens=8))
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


def _show(report: dict[str, Any], packages: list[Package]) -> None:
    console = stdout()
    machine, cache = report["machine"], report["cache"]
    memory = f"{machine['memory_gb']} GB" if machine["memory_gb"] else "unknown"
    console.print(
        facts(
            [
                ("Python", report["python"]),
                ("simgym", report["simgym"]),
                ("system", report["system"]),
                ("device", f"{machine['device'] or 'none: torch cannot be imported'}, {machine['cores']} cores"),
                ("memory", memory),
                ("cache", f"{cache['folder']} ({'writable' if cache['writable'] else 'not writable'})"),
                (
                    "model",
                    f"{cache['embedded_model']}: {'ready' if cache['converted'] else 'prepared on first use (1 min)'}",
                ),
                ("environments", ", ".join(report["environments"])),
                *((kind.replace("_", " "), ", ".join(report[kind])) for kind in _KINDS),
                (
                    "core",
                    ", ".join(f"{one.name} {one.installed or 'MISSING'}" for one in packages if one.extra is None),
                ),
                *((f"[{extra}]", text) for extra, text in _extras(packages).items()),
            ]
        )
    )
    if "model" in report and not (tried := report["model"])["problem"]:
        speed = f"loaded in {tried['load_seconds']} s, {tried['tokens']} tokens in {tried['generate_seconds']} s"
        console.print(facts([("model says", f"{tried['text']!r} ({speed})")]))
    for one in report.get("numerics", ()):
        console.print(
            facts(
                [
                    (
                        f"dtype {one['dtype']}",
                        f"{one['speed']:.2f} times float32's speed; KL from it {one['kl']:.1e} nats a token",
                    )
                ]
            )
        )
    if report["ok"]:
        console.print(shown("All is well.", "green"))
    for problem in report["problems"]:
        console.print(shown(f"Problem: {problem}", "red"))


def _extras(packages: list[Package]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for extra in dict.fromkeys(one.extra for one in packages if one.extra is not None):
        members = [one for one in packages if one.extra == extra]
        missing = [one.name for one in members if one.problem]
        command = f"missing {', '.join(missing)}: pip install 'simgym[{extra}]'" if missing else "present"
        texts[extra] = command
    return texts


def _check_package(name: str, needed: str, extra: str | None) -> Package:
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Package(name, needed, extra, None, f"not installed; simgym needs {name}{needed}")
    problem = None
    lowest = re.search(r">=\s*([\d.]+)", needed)
    if lowest and _numbers(installed) < _numbers(lowest.group(1)):
        problem = f"version {installed} is installed; simgym needs {name}{needed}"
    elif name in _IMPORTED:
        try:
            importlib.import_module(name)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            problem = f"installed, but cannot be imported ({type(error).__name__}: {error})"
    return Package(name, needed, extra, installed, problem)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _environments() -> list[str]:
    import gymnasium

    return [env_id for env_id in gymnasium.registry if env_id.startswith("UserSim-")]


def _memory_gb() -> float | None:
    """Physical memory, or the container's limit if that is lower."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        size = min(size, int(text))
    return round(size / 1e9, 1)
