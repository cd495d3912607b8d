"""LoRA adapters on one copy of the base weights, tokens that an adapter adds included.

A user simulator's adapter may bring tokens of its own, such as `<|endconversation|>`, with a trained embedding row
each. Rows go behind the base model's embeddings, one set per adapter, and `own_logits` shows every sequence of a batch
the rows of its adapter only: to the base model and to other adapters the tokens do not exist, so nothing that they say
changes because an adapter was loaded. PEFT computes the adapters, each sequence of a batch with its own.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simgym.engine.errors import AdapterMismatch
from simgym.engine.numerics import float_output

if TYPE_CHECKING:
    from torch import Tensor

_BASE = "__base__"
"""What PEFT calls a sequence that no adapter is applied to."""


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """A LoRA adapter in memory."""

    config: Any
    """PEFT's `LoraConfig`, without added tokens."""
    weights: Mapping[str, Tensor]
    """LoRA weights by PEFT's names."""
    token_ids: tuple[int, ...] = ()
    """Added tokens, not in the base model's vocabulary."""
    rows: Tensor | None = None
    """Their embeddings, shape (tokens, width); None without added tokens."""


class LoraBank:
    """A model and the adapters on it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        """A `PreTrainedModel`; a `PeftModel` round it from the first adapter on."""
        self.vocabulary_size = int(model.get_output_embeddings().weight.shape[0])
        """Tokens of the base model."""
        self._keys: dict[str, str] = {}  # adapter name -> name for PEFT, which allows no dots (paths have some)
        self._attempts = 0
        self._stored: dict[str, dict[int, int]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._keys

    def add(self, name: str, adapter: LoraAdapter) -> None:
        """Put an adapter on the model.

        Raises:
            AdapterMismatch: it does not fit; the model is as it was.
        """
        from peft import get_peft_model, set_peft_model_state_dict

        key = f"adapter{self._attempts}"
        self._attempts += 1
        plain = self.model
        try:
            with warnings.catch_warnings():  # of peft about transformers' future, nothing a reader could act on
                warnings.simplefilter("ignore", FutureWarning)
                if self._keys:
                    self.model.add_adapter(key, adapter.config)
                else:
                    self.model = get_peft_model(self.model, adapter.config, adapter_name=key)
            unknown = set_peft_model_state_dict(self.model, dict(adapter.weights), key).unexpected_keys
        except Exception as error:  # PEFT raises what it likes; the base has to be as it was, whatever it was
            unknown = [(str(error).splitlines() or [type(error).__name__])[0]]
        if unknown:
            self._remove(key, plain)
            raise AdapterMismatch(unknown[0])
        self.model.requires_grad_(False)
        self.model.eval()
        self._keys[name] = key
        if adapter.rows is not None:
            self._add_rows(key, adapter.token_ids, adapter.rows)

    def forward(self, adapters: list[str | None], **inputs: Any) -> Any:
        """The model's forward call for N sequences, each with its adapter."""
        keys = [_BASE if name is None else self._keys[name] for name in adapters]
        if self._keys:
            inputs["adapter_names"] = keys
        output = self.model(**inputs)
        if self._stored:
            output.logits = own_logits(output.logits, self.vocabulary_size, [self._stored.get(key, {}) for key in keys])
        return output

    @property
    def base(self) -> Any:
        """The `PreTrainedModel`, its layers changed by adapters."""
        return self.model.get_base_model() if self._keys else self.model

    @contextlib.contextmanager
    def base_alone(self) -> Iterator[Any]:
        """The base model without any adapter, for a pass that may be broken off: PEFT's own hooks would stay behind."""
        if not self._keys:
            yield self.model
            return
        try:
            with self.model.disable_adapter():
                yield self.base
        finally:
            self.model.requires_grad_(False)  # PEFT makes the active adapter trainable when it is enabled again

    def _remove(self, key: str, plain: Any) -> None:
        """Undo a half-finished `add`; `plain` is the model as it was before."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        if self._keys:
            for module in plain.modules():
                if isinstance(module, BaseTunerLayer):
                    module.delete_adapter(key)
            plain.peft_config.pop(key, None)
            plain.set_adapter(next(iter(self._keys.values())))
        else:
            for path, module in list(plain.named_modules()):
                if isinstance(module, BaseTunerLayer):
                    parent, _, child = path.rpartition(".")
                    setattr(plain.get_submodule(parent), child, module.get_base_layer())
            plain.__dict__.pop("peft_config", None)
        self.model = plain
        self.model.requires_grad_(False)

    def _add_rows(self, key: str, token_ids: tuple[int, ...], rows: Tensor) -> None:
        import torch

        first = self.base.get_output_embeddings().weight.shape[0]
        with float_output(self.base):
            self.base.resize_token_embeddings(first + len(rows), mean_resizing=False)
            with torch.no_grad():
                for layer in (self.base.get_input_embeddings(), self.base.get_output_embeddings()):
                    layer.weight[first:] = rows.to(layer.weight)
        self.base.requires_grad_(False)
        self._stored[key] = {token: first + number for number, token in enumerate(token_ids)}


def own_logits(logits: Tensor, base_width: int, stored_N: list[dict[int, int]]) -> Tensor:
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
