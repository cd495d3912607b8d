"""LoRA adapters on disk: what can share a base model is read, everything else is refused in a sentence.

Read as PEFT saves them, as safetensors only, added tokens (`trainable_token_indices`) included. An adapter that is not
plain LoRA would change the base model for everybody (IA3, VeRA, OFT, PiSSA, biases, whole modules), or cannot be
computed beside others in one batch (DoRA, aLoRA); it is refused before anything of the model is touched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simgym.engine import LoraAdapter
from simgym.errors import ConfigurationError, WeightsError
from simgym.jsonl import read_json
from simgym.transcripts import text_hash
from simgym.typed_json import read_as

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_DELTA, _EMBEDDINGS = ".token_adapter.trainable_tokens_delta", ("embed_tokens.weight", "lm_head.weight")
_LORA = (".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_embedding_B")
"""What names of LoRA weights contain."""
_VARIANTS = {
    "use_dora": "DoRA",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow",
    "use_bdlora": "BD-LoRA",
    "use_qalora": "QA-LoRA",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "target_parameters": "LoRA on parameters of mixtures of experts",
    "layer_replication": "LoRA with replicated layers",
}
"""Settings of PEFT that make LoRA something else, and what each is called."""
_HARMLESS = frozenset(
    [
        "task_type",
        "peft_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "r",
        "target_modules",
        "exclude_modules",
        "lora_alpha",
        "lora_dropout",
        "fan_in_fan_out",
        "bias",
        "use_rslora",
        "modules_to_save",
        "init_lora_weights",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "megatron_core",
        "trainable_token_indices",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "velora_config",
        "qalora_group_size",
        "runtime_config",
        "lora_bias",
        "ensure_weight_tying",
    ]
)
"""Settings of PEFT that plain LoRA has, those that only training and the start look at included."""
_CHANGING_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of `init_lora_weights` that subtract the adapter's start from the base model."""
_PREFIX = "base_model.model."
"""In front of each module's name in a file of PEFT."""
_PLAIN_PATTERN = re.compile(r"\^?([\w.*+]|\\\.)*\$?")
_DECIDING = ("use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "layers_to_transform")
_END_TOKEN = 49152
"""Of fine-tuned simulators on the default model."""
_MERGE = "Merge it with merge_and_unload and give the merged folder as model=."


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter as read from disk."""

    lora: LoraAdapter
    """What the engine puts on the model."""
    tokens: Mapping[str, int]
    """Added tokens and the ids that the adapter knows them by."""


def read_adapter(path: str) -> Adapter:
    """Read an adapter from a folder or the Hugging Face Hub.

    Raises:
        WeightsError: it cannot be found or read, is not safetensors, or is of a kind that cannot share a base model.
    """
    try:
        from peft import PeftConfig
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = adapter_folder(path)
        settings = read_as(dict, read_json(folder / CONFIG), CONFIG)
        _check_kind(path, settings)
        _check_patterns(path, settings)
        config = PeftConfig.from_pretrained(str(folder))
        weights = load_file(folder / WEIGHTS)
        ids = _token_ids(config)
        names = _token_names(folder, ids)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"Cannot load the adapter {path}: {(str(error).splitlines() or [type(error).__name__])[0]} "
            f"Expected a folder or Hugging Face id with {CONFIG} and {WEIGHTS}."
        ) from error
    # where it was trained does not matter (whether it fits is seen when it is put on), nor what its weights began with
    config.trainable_token_indices, config.inference_mode = None, True
    config.base_model_name_or_path, config.init_lora_weights = None, True
    rows = next((tensor for name, tensor in weights.items() if name.endswith(_DELTA)), None)
    lora = {name: tensor for name, tensor in weights.items() if any(part in name for part in _LORA)}
    if isinstance(config.target_modules, str) or config.layers_pattern or config.exclude_modules:
        # regular expressions of a stranger; which modules they mean, the weights say by their names
        config.target_modules = {name.removeprefix(_PREFIX).partition(".lora_")[0] for name in lora}
        config.layers_to_transform = config.layers_pattern = config.exclude_modules = None
    _check_names(path, [name for name in weights if name not in lora and not name.endswith(_DELTA)], ids)
    if ids and (rows is None or len(rows) != len(ids)):
        raise WeightsError(f"The adapter {path} adds the tokens {ids} but holds no rows for them. Save it again.")
    tokens = dict(zip(names, ids, strict=True))
    return Adapter(LoraAdapter(config, lora, tuple(ids), rows if ids else None), tokens)


def _check_kind(path: str, settings: Mapping[str, Any]) -> None:
    """Refuse what is not plain LoRA, by its settings alone."""
    kind = str(settings.get("peft_type"))
    variant = next((name for setting, name in _VARIANTS.items() if settings.get(setting)), None)
    start = str(settings.get("init_lora_weights")).lower()
    if kind != "LORA":
        reason = f"is of kind {kind}"
    elif variant is not None:
        reason = f"is {variant}"
    elif start.startswith(_CHANGING_STARTS):
        reason = f"starts from changed base weights ({start})"
    elif unknown := sorted(name for name, value in settings.items() if value and name not in _HARMLESS):
        reason = f"has the setting {unknown[0][:60]!r}, which plain LoRA does not have"
    elif settings.get("modules_to_save"):
        reason = f"replaces whole modules ({', '.join(settings['modules_to_save'])})"
    else:
        return
    raise WeightsError(f"The adapter {path} {reason}; only plain LoRA can share a base model. {_MERGE}")


def _check_patterns(path: str, settings: Mapping[str, Any]) -> None:
    """Refuse ranks and strengths by patterns that could take for ever to match; a module's name matches itself."""
    for setting in ("rank_pattern", "alpha_pattern"):
        for pattern in settings.get(setting) or ():
            if not _PLAIN_PATTERN.fullmatch(pattern) or sum(map(pattern.count, "*+")) > 2:
                raise WeightsError(
                    f"The adapter {path} has the {setting} {pattern[:60]!r}, expected names with at most two "
                    "wildcards (.*). Write the names out."
                )


def _check_names(path: str, names: Sequence[str], added_token_ids: Sequence[int]) -> None:
    """Refuse weights that would take the place of the base model's."""
    if any(name.endswith(_EMBEDDINGS) for name in names) and not added_token_ids:
        raise WeightsError(
            f"The adapter {path} holds whole embeddings, which cannot share a base model. {_MERGE} Or train the rows "
            "of added tokens alone (PEFT: trainable_token_indices)."
        )
    if other := [name for name in names if not name.endswith(_EMBEDDINGS)]:
        raise WeightsError(
            f"The adapter {path} holds weights of the base model ({other[0]}), which cannot share one. {_MERGE}"
        )


def adapter_folder(path: str) -> Path:
    """The local folder of an adapter; one on the Hub is downloaded."""
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path, allow_patterns=["*.json", WEIGHTS, "*.jinja"]))


def not_loaded(name: str, loaded: Iterable[str]) -> ConfigurationError:
    """What to raise for a request to an adapter that the model does not have."""
    known = ", ".join(loaded) or "none"
    return ConfigurationError(f"No adapter {name!r} is loaded. Loaded: {known}. Use load_adapter(name, path).")


def adapter_fingerprint(path: str) -> str:
    """Identifies an adapter by its content if it is a local folder, else by its name.

    The content are the weights, and of the settings what says how they are applied, where it is not as in the adapters
    of earlier versions: a strength of two ranks, on every layer, for the end token of the default model.
    """
    folder = Path(path).expanduser()
    if not (folder / WEIGHTS).is_file():
        return path
    weights = f"sha256:{text_hash((folder / WEIGHTS).read_bytes().hex())}"
    settings = _deciding_settings(folder / CONFIG)
    return f"{weights} {text_hash(json.dumps(settings, sort_keys=True))}" if settings else weights


def _deciding_settings(path: Path) -> dict[str, object]:
    """Settings that decide what the weights do and that the weights themselves do not show."""
    try:
        config = read_as(dict, read_json(path), CONFIG)
    except (OSError, ValueError):  # loading the adapter says so
        return {}
    settings = {name: config[name] for name in _DECIDING if config.get(name)}
    if config.get("lora_alpha") != 2 * (config.get("r") or 0):
        settings |= {name: config.get(name) for name in ("lora_alpha", "r")}
    if (tokens := config.get("trainable_token_indices")) not in (None, [], {}, [_END_TOKEN]):
        settings["trainable_token_indices"] = tokens
    return settings


def _token_ids(config: object) -> list[int]:
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
