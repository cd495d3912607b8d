"""Loading by transformers, its errors in sentences.

transformers reports what is wrong with a checkpoint by whatever class its readers raise, and lets some of it pass:
weights that the files lack are drawn at random, with a warning among others. Here anything that fails is a
`WeightsError` that says which model, what is wrong and what to do, and so is a model that would be partly random.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from simgym.engine.numerics import MIXED
from simgym.errors import ConfigurationError, MissingDependency, SimgymError, WeightsError
from simgym.language_models.weights import Weights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LAYER = re.compile(r"\.(layers|h|blocks)\.\d+\.")
"""In names of weights of a layer."""
_MOST_REASON = 300
"""Characters of a reason that are shown."""


def load_pretrained(
    model_class: type[PreTrainedModel], name: str, weights: Weights, common: Mapping[str, object], **options: object
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Tokenizer and model, complete.

    Args:
        model_class: An auto class of transformers.
        name: What the user calls the model.
        weights: Where it is.
        common: Options of both: revision, whether code of the model may run.
        options: Options of the model's `from_pretrained`.

    Raises:
        MissingDependency: a package is missing that this model needs, such as that of its quantisation.
        WeightsError: it cannot be loaded, or lacks weights.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(weights.path, **common)
        model, report = model_class.from_pretrained(
            weights.path, use_safetensors=True, output_loading_info=True, **common, **options
        )
    except SimgymError:
        raise
    except ImportError as error:
        raise MissingDependency(f"The model {name!r} needs a package that is missing: {shortened(error)}") from error
    except Exception as error:  # readers of checkpoints, and code that comes with them, raise what they like
        raise unreadable(name, weights, error) from error
    complete = getattr(model, "is_quantized", False) or getattr(model, "_hf_peft_config_loaded", False)
    if not complete and not common.get("trust_remote_code") and (missing := sorted(report["missing_keys"])):
        raise WeightsError(
            f"The model {name!r} lacks {len(missing)} of its weights ({missing[0]}), which would be random. Is it a "
            f"{type(model).__name__}, and are all its files there?"
        )
    if not complete and (surplus := [key for key in sorted(report["unexpected_keys"]) if _LAYER.search(key)]):
        raise WeightsError(
            f"The files of the model {name!r} hold {surplus[0]}, a layer that its config.json does not have. Do they "
            "belong together?"
        )
    return tokenizer, model


def device_of(name: str) -> torch.device:
    """A device with its number: which one is the current one differs from thread to thread."""
    import torch

    if name == "auto":
        other = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else other
    device = torch.device(name)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """The number format of weights on a device; those that linear layers are rounded to later begin in float32.

    Raises:
        ConfigurationError: there is no such format.
    """
    import torch

    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name in MIXED:
        return torch.float32
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name not in known:
        raise ConfigurationError(f"dtype is {name!r}, expected auto, {', '.join([*known, *MIXED])}.")
    return known[name]


def unreadable(name: str, weights: Weights, error: Exception) -> WeightsError:
    """What to raise for a model that cannot be loaded."""
    return WeightsError(f"Cannot load the model {name!r}: {shortened(error)} {_advice(weights, error)}")


def shortened(error: BaseException) -> str:
    """Another library's words as a sentence of bounded length."""
    text = " ".join(str(error).split())[:_MOST_REASON] or type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _advice(weights: Weights, error: Exception) -> str:
    if weights.origin == "hub":
        return "Check the name and the network, or give a local folder."
    if isinstance(error, TypeError):
        return "Check model_options, which from_pretrained takes."
    return "Expected a folder that save_pretrained wrote: configuration, safetensors and tokenizer."
