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
from typing import TYPE_CHECKING

from simgym.engine.errors import AdapterMismatch
from simgym.engine.numerics import float_output
from simgym.engine.transfer import to_device

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput

_BASE = "__base__"
"""What PEFT calls a sequence that no adapter is applied to."""


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """A LoRA adapter in memory."""

    config: LoraConfig
    """PEFT's `LoraConfig`, without added tokens."""
    weights: Mapping[str, Tensor]
    """LoRA weights by PEFT's names."""
    token_ids: tuple[int, ...] = ()
    """Added tokens, not in the base model's vocabulary."""
    rows: Tensor | None = None
    """Their embeddings, shape (tokens, width); None without added tokens."""


class LoraBank:
    """A model and the adapters on it."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        """A `PreTrainedModel`; a `PeftModel` round it from the first adapter on."""
        self.vocabulary_size = int(model.get_output_embeddings().weight.shape[0])
        """Tokens of the base model."""
        self._keys: dict[str, str] = {}  # adapter name -> name for PEFT, which allows no dots (paths have some)
        self._attempts = 0
        self._stored: dict[str, dict[int, int]] = {}
        self._lora_layers: list[BaseTunerLayer] = []
        self.changes = 0
        """Incremented when an adapter is put on, which recorded passes do not survive."""

    def __contains__(self, name: str) -> bool:
        return name in self._keys

    @property
    def is_empty(self) -> bool:
        """Whether no adapter is on the model."""
        return not self._keys

    def add(self, name: str, adapter: LoraAdapter) -> None:
        """Put an adapter on the model.

        Raises:
            AdapterMismatch: it does not fit; the model is as it was.
        """
        from peft import get_peft_model, set_peft_model_state_dict
        from peft.tuners.tuners_utils import BaseTunerLayer

        self.changes += 1
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
        if self.base.device.type != "cpu":
            self._match_dtype(key)
        self._lora_layers = [module for module in self.model.modules() if isinstance(module, BaseTunerLayer)]
        if adapter.rows is not None:
            self._add_rows(key, adapter.token_ids, adapter.rows)

    def forward(self, adapters: list[str | None], **inputs: object) -> CausalLMOutput:
        """The model's forward call for N sequences, each with its adapter; logits are `own_logits`."""
        keys = [_BASE if name is None else self._keys[name] for name in adapters]
        if len(set(keys)) == 1:
            output = self.forward_alike(adapters[0], **inputs)
        else:
            with without_autocast(self.model.device):
                output = self.model(**inputs, adapter_names=keys)
        output.logits = self.own_logits(output.logits, adapters)
        return output

    def forward_alike(self, adapter: str | None, **inputs: object) -> CausalLMOutput:
        """The model's forward call for sequences with the same adapter (None: without one); logits of all rows."""
        with self._only(adapter) as base:
            return base(**inputs)

    def own_logits(self, logits: Tensor, adapters: list[str | None]) -> Tensor:
        """Logits of the tokens that each sequence may write; see the function of this name."""
        if not self._stored:
            return logits
        stored_N = [self._stored.get(self._keys[name], {}) if name is not None else {} for name in adapters]
        return own_logits(logits, self.vocabulary_size, stored_N)

    @property
    def base(self) -> PreTrainedModel:
        """The `PreTrainedModel`, its layers changed by adapters."""
        return self.model.get_base_model() if self._keys else self.model

    @contextlib.contextmanager
    def base_alone(self) -> Iterator[PreTrainedModel]:
        """The base model without any adapter, for a pass that may be broken off: PEFT's own hooks would stay behind."""
        with self._only(None) as base:
            yield base

    @contextlib.contextmanager
    def _only(self, adapter: str | None) -> Iterator[PreTrainedModel]:
        """The base model with one adapter in its layers, or none.

        PEFT's own switches go through all parameters to say which are trainable, which costs more than a forward pass
        on a GPU; none is trainable here.
        """
        before = [(layer, layer._disable_adapters, layer._active_adapter) for layer in self._lora_layers]
        for layer in self._lora_layers:
            layer._disable_adapters = adapter is None
            layer._active_adapter = [] if adapter is None else [self._keys[adapter]]
        try:
            with without_autocast(self.model.device):
                yield self.base
        finally:
            for layer, disabled, active in before:
                layer._disable_adapters, layer._active_adapter = disabled, active

    def _match_dtype(self, key: str) -> None:
        """Give an adapter the dtype of its base: PEFT's float32 means casts and slow products in every layer."""
        for path, parameter in self.model.named_parameters():
            if key in path.split(".") and "lora_" in path:
                parameter.data = parameter.data.to(self.base.dtype)

    def _remove(self, key: str, plain: PreTrainedModel) -> None:
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


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Within it, a model computes in its own dtype, whatever its caller trains under: what one thread computes for all
    may not depend on who leads, and a recording would repeat autocast's casts of the weights at each step."""
    import torch

    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


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
    if largest >= 0:
        entries = [(row, token, place) for row, stored in enumerate(stored_N) for token, place in stored.items()]
        rows, tokens, places = to_device(entries, logits.device).unbind(-1)
        own[rows, :, tokens] = logits[rows, :, places]
    return own
