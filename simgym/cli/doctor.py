"""`simgym doctor`: what is installed, what is missing, and whether the model runs."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from rich.table import Table

from simgym import __version__
from simgym.cli.terminal import plain, print_json, screen

_CORE = ("torch", "transformers", "gymnasium", "peft", "xgrammar", "datasets", "scipy", "matplotlib")
_EXTRAS = {"openai": "openai", "chitchat": "chitchat-dataset", "train": "trl"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    check_model: Annotated[bool, typer.Option("--check-model", help="Load the embedded model and generate.")] = False,
) -> None:
    """Check the installation; exit code 1 if something that simgym needs is missing."""
    from simgym.plugins import available

    report: dict[str, Any] = {
        "simgym": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _CORE},
        "extras": {extra: _version(name) for extra, name in _EXTRAS.items()},
        "plug-ins": {kind: list(available(kind)) for kind in ("simulators", "judges", "language_models")},
    }
    missing = [name for name, found in report["packages"].items() if found is None]
    if "torch" not in missing:
        report["device"] = _device()
        report["weights"] = _weights()
    if check_model and not missing:
        report["model check"] = _generate()
    if as_json:
        print_json(report)
    else:
        _print(report)
    if missing:
        raise typer.Exit(1)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}"
    if torch.backends.mps.is_available():
        return "mps"
    return f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def _weights() -> str:
    from simgym.language_models.weights import EMBEDDED, cache_folder

    ready = any(cache_folder().glob(f"{EMBEDDED}-*/model.safetensors"))
    return f"{EMBEDDED} {'is ready' if ready else 'will be fetched on first use (90 MB, once)'}"


def _generate() -> str:
    from simgym.conversation import Message
    from simgym.language_models.base import Request, Sampling
    from simgym.language_models.loading import load_language_model
    from simgym.language_models.weights import EMBEDDED

    model = load_language_model(EMBEDDED)
    request = Request((Message("user", "Say hello."),), Sampling(temperature=0, max_new_tokens=8))
    return f"says {model.generate([request])[0].text!r}"


def _print(report: dict[str, Any]) -> None:
    table = Table("", "", show_header=False, box=None, pad_edge=False)
    for key, value in report.items():
        if key == "extras":
            rows = [f"{extra}: {found or f'''missing (pip install 'simgym[{extra}]')'''}" for extra, found in value.items()]
        elif isinstance(value, dict):
            rows = [f"{name}: {', '.join(found) if isinstance(found, list) else found or 'MISSING'}" for name, found in value.items()]
        else:
            rows = [str(value)]
        table.add_row(plain(key, style="bold"), plain("\n".join(rows)))
    screen.print(table)
