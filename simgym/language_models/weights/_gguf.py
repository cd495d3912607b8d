"""From a GGUF file to a folder of safetensors, by transformers."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

from simgym.errors import ConfigurationError, WeightsError
from simgym.extras import require_extra
from simgym.language_models.threads import settle_threads
from simgym.language_models.weights._cache import READY, cache_folder, draft_of, entry_is_ready

_VERSION = 2
"""Incremented when the conversion changes."""


def converted_folder(gguf: Path, digest: str) -> Path:
    """The folder in the cache with the weights of a GGUF file, converted if it is not there yet.

    Raises:
        MissingDependency: it has to be converted, and the extra `local` is not installed.
        ConfigurationError: it is not a GGUF file, or transformers cannot read its kind.
        WeightsError: it cannot be converted, or the cache cannot be written to.
    """
    entry = f"gguf-{digest[:16]}-{_VERSION}"
    if not entry_is_ready(entry):
        require_extra("local", f"Converting {gguf} to safetensors")
        with gguf.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ConfigurationError(f"{gguf} is not a GGUF file: it does not begin with GGUF. Download it again.")
        needed = 8 * gguf.stat().st_size  # 4-bit weights become 32-bit ones
        with draft_of(entry, purpose=gguf.name, needed_bytes=needed) as draft:
            if draft is not None:
                try:
                    convert(gguf, draft / READY)
                except WeightsError:
                    raise
                except Exception as error:  # its readers raise whatever a damaged or unknown file leads them to
                    raise WeightsError(_refusal(gguf, error)) from error
    return cache_folder() / entry


def convert(gguf: Path, folder: Path) -> None:
    """Write the weights of a GGUF file and its tokenizer to a folder; the extra `local` is there."""
    settle_threads()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(f"simgym: converting {gguf.name} to safetensors (once; 135M weights take about 30 s)", file=sys.stderr)
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
    _drop_tokens_without_rows(folder, model.get_input_embeddings().weight.shape[0])


def _drop_tokens_without_rows(folder: Path, rows: int) -> None:
    """Take out what transformers adds to the tokenizer of a GGUF file (`<|endoftext|>`) although the file has it not.

    The model has no row for such a token, and the next one that is added would be given a wrong one.
    """
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    dropped = {entry["content"] for entry in tokenizer["added_tokens"] if entry["id"] >= rows}
    if not dropped:
        return
    tokenizer["added_tokens"] = [entry for entry in tokenizer["added_tokens"] if entry["id"] < rows]
    file.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    kept = {name: value for name, value in settings.items() if not isinstance(value, str) or value not in dropped}
    kept.pop("added_tokens_decoder", None)  # tokenizer.json has them, too
    file.write_text(json.dumps(kept, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _refusal(gguf: Path, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return (
        f"Cannot convert {gguf}: {reason}. The file is damaged, or of an architecture or quantisation that "
        f"transformers does not read. To use it all the same, run `llama-server -m {gguf} --port 8080` and name the "
        'model {"kind": "openai", "model": "...", "base_url": "http://localhost:8080/v1"}.'
    )
