"""LoRA adapters on one copy of the base weights, tokens that an adapter adds included.

A user simulator's adapter may bring tokens of its own, such as `<|endconversation|>`, with a trained embedding row
each. Rows go behind the base model's embeddings, one set per adapter, and `own_logits` shows every sequence of a batch
the rows of its adapter only: to the base model and to other adapters the tokens do not exist, so nothing that they say
changes because an adapter was loaded. Read as PEFT saves them (`trainable_token_indices`), as safetensors only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simgym.errors import WeightsError
from simgym.transcripts import text_hash

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_DELTA, _EMBEDDINGS = ".token_adapter.trainable_tokens_delta", ("embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter as read from disk."""

    config: Any
    """PEFT's configuration, without the added tokens."""
    weights: Mapping[str, Tensor]
    """LoRA weights by PEFT's names."""
    tokens: Mapping[str, int]
    """Added tokens and the ids that the adapter knows them by."""
    rows: Tensor | None
    """(tokens, width) embedding rows in the order of `tokens`; None without added tokens."""


def read_adapter(path: str) -> Adapter:
    """Read an adapter from a folder or the Hugging Face Hub.

    Raises:
        WeightsError: it cannot be found or read, is not safetensors, or changes embeddings that the base model has.
    """
    try:
        from peft import PeftConfig
        from safetensors.torch import load_file

        folder = adapter_folder(path)
        config = PeftConfig.from_pretrained(str(folder))
        weights = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"Cannot load the adapter {path}: {(str(error).splitlines() or [type(error).__name__])[0]} "
            f"Expected a folder or Hugging Face id with {CONFIG} and {WEIGHTS}."
        ) from error
    if getattr(config, "modules_to_save", None):
        raise WeightsError(
            f"The adapter {path} replaces whole modules ({', '.join(config.modules_to_save)}), which cannot share a "
            "base model. Merge it into its base and give the merged folder as model=."
        )
    ids = _token_ids(config)
    config.trainable_token_indices, config.inference_mode = None, True
    config.base_model_name_or_path = None  # what it is called elsewhere; whether it fits is seen when it is put on
    rows = next((tensor for name, tensor in weights.items() if name.endswith(_DELTA)), None)
    names = _token_names(folder, ids)
    lora = {
        name: tensor for name, tensor in weights.items() if not name.endswith(_DELTA) and not name.endswith(_EMBEDDINGS)
    }
    if not ids and any(name.endswith(_EMBEDDINGS) for name in weights):
        raise WeightsError(
            f"The adapter {path} holds whole embeddings, which cannot share a base model. Merge it into its base and "
            "give the merged folder as model=, or train the rows of added tokens alone (PEFT: trainable_token_indices)."
        )
    if ids and (rows is None or len(rows) != len(ids)):
        raise WeightsError(f"The adapter {path} adds the tokens {ids} but holds no rows for them. Save it again.")
    return Adapter(config, lora, dict(zip(names, ids, strict=True)), rows if ids else None)


def adapter_folder(path: str) -> Path:
    """The local folder of an adapter; one on the Hub is downloaded."""
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path, allow_patterns=["*.json", WEIGHTS, "*.jinja"]))


def adapter_fingerprint(path: str) -> str:
    """Identifies an adapter by its content if it is a local folder, else by its name."""
    weights = Path(path).expanduser() / WEIGHTS
    if not weights.is_file():
        return path
    return f"sha256:{text_hash(weights.read_bytes().hex())}"


def own_logits(logits: Tensor, base_width: int, stored_N: Sequence[Mapping[int, int]]) -> Tensor:
    """Logits over the base vocabulary and the added tokens that each sequence may write.

    Args:
        logits: (N, L, base_width + stored rows).
        base_width: Vocabulary of the base model.
        stored_N: For each sequence, where the row of each of its added tokens is stored, by token id.

    Returns:
        (N, L, width); an added token is -inf where it is not the sequence's own. Width is that of the base model if
        no sequence has any.
    """
    largest = max((token for stored in stored_N for token in stored), default=-1)
    own = logits[..., : max(base_width, largest + 1)].clone() if largest >= 0 else logits[..., :base_width]
    own[..., base_width:] = float("-inf")
    for index, stored in enumerate(stored_N):
        for token, row in stored.items():
            own[index, :, token] = logits[index, :, row]
    return own


def _token_ids(config: Any) -> list[int]:
    indices = getattr(config, "trainable_token_indices", None) or []
    if isinstance(indices, dict):
        if len(indices) > 1:
            raise WeightsError("The adapter adds tokens to several embeddings, expected one. Merge it into its base.")
        indices = next(iter(indices.values()), [])
    return [int(token) for token in indices]


def _token_names(folder: Path, ids: Sequence[int]) -> list[str]:
    """What the added tokens are called, from the tokenizer files beside the adapter."""
    known: dict[int, str] = {}
    if (tokenizer := folder / "tokenizer.json").is_file():
        entries = json.loads(tokenizer.read_text(encoding="utf-8")).get("added_tokens", [])
        known |= {int(entry["id"]): str(entry["content"]) for entry in entries}
    if (added := folder / "added_tokens.json").is_file():
        known |= {int(token): str(name) for name, token in json.loads(added.read_text(encoding="utf-8")).items()}
    if missing := [token for token in ids if token not in known]:
        raise WeightsError(
            f"The adapter in {folder} trains the embedding of token {missing[0]}, but does not say which token that "
            "is. Put the tokenizer it was trained with, or an added_tokens.json, beside it."
        )
    return [known[token] for token in ids]
