"""What tells a model on this disk from others that have been, or will be, saved under the same name.

A prompt and what is drawn behind it depend on more than the weights: on the tokenizer, on the chat template, and on the
generation settings, which say where a reply ends. Somebody mends a template in place, and the folder holds another
model from then on. Each has a hash of its own, so that a message can say which of them differs. Models on the Hub are
told apart by their revision, the default model and GGUF files by the SHA-256 of the file that they were read from.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

_END = 2**20
"""Bytes at either end of a file of weights that identify it."""
_TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
)
_TEMPLATE = "chat_template.jinja"
_OLDER_TEMPLATES = ("chat_template.json", "tokenizer_config.json")
"""Where a template may be instead, under the key `chat_template`."""


def local_files(name: str) -> dict[str, str]:
    """Hashes of the files of a local model, by what they are for; nothing for models on the Hub and the default one.

    Keys are `weights`, and for a folder `tokenizer` and `generation_config` where there is one.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        parts = {"weights": _folder_hash(path)}
        if files := {file for pattern in _TOKENIZER_FILES for file in path.glob(pattern) if file.is_file()}:
            parts["tokenizer"] = _joint_hash(files)
        if (settings := path / "generation_config.json").is_file():
            parts["generation_config"] = _joint_hash([settings])
        return parts
    if path.suffix.lower() == ".gguf" and path.is_file():
        return {"weights": f"sha256:{file_hash(path)[:16]}"}
    return {}


def local_chat_template(name: str) -> str | None:
    """The chat template in a model's folder; None if there is no folder, or no template in it."""
    folder = Path(name).expanduser()
    if (file := folder / _TEMPLATE).is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    for file in (folder / older for older in _OLDER_TEMPLATES):
        if file.is_file():
            try:
                settings = json.loads(file.read_text(encoding="utf-8"))
            except ValueError:  # loading the model says so
                continue
            template = settings.get("chat_template") if isinstance(settings, dict) else None
            if template:
                return template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return None


def file_hash(path: Path) -> str:
    """SHA-256 of the whole file: two quantisations of one model can be alike at both ends."""
    status = path.stat()
    return _hash_of_version(path.resolve(), status.st_size, status.st_mtime_ns)


def _folder_hash(folder: Path) -> str:
    """Of the configuration, and the size and both ends of every file of weights, which can be larger than memory.

    A training changes weights everywhere.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.name != "config.json" and path.suffix != ".safetensors":
            continue
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(_END))
            file.seek(max(0, size - _END))
            digest.update(file.read(_END))
    return f"sha256:{digest.hexdigest()[:16]}"


def _joint_hash(files: Iterable[Path]) -> str:
    parts = [f"{file.name} {file_hash(file)}" for file in sorted(files)]
    return f"sha256:{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:16]}"


@functools.lru_cache(maxsize=256)
def _hash_of_version(path: Path, size: int, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
