"""`EngineConfig`: how much the engine runs at a time, and how much it keeps."""

from __future__ import annotations

from dataclasses import dataclass

from simgym.engine.errors import InvalidSetting


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Bounds of one engine. None of them changes which tokens a sequence gets, up to floating-point rounding."""

    max_sequences: int = 64
    """Sequences that run at a time, >= 1."""
    max_length: int | None = None
    """Tokens of prompt and completion that the model can take; None: any."""
    max_kv_bytes: int | None = None
    """Bytes of keys and values of the sequences that run; None: half of the memory that is free once the model is
    loaded."""
    max_prefix_bytes: int = 2 * 2**30
    """Bytes of keys and values that are kept for later prompts, >= 0; 0 keeps none."""
    max_pass_tokens: int = 4096
    """Tokens, padding included, that several prompts may have in one forward pass; one prompt may have more."""
    max_padding: float = 1.25
    """Tokens with padding as a multiple of tokens; beyond it, a forward pass is divided."""
    min_shared_prefix: int = 16
    """Tokens that prompts must share to have them prefilled once; fewer are not worth a forward pass."""
    max_scored_tokens: int = 4096
    """Positions whose logits are in memory at a time when `loglikelihoods` are computed."""
    max_padded_tokens: int = 65536
    """Tokens, padding included, of a forward pass for `loglikelihoods` or `hidden_states`; one text may have more."""
    pad_token_id: int = 0
    """Any token of the vocabulary; padded positions are masked out."""

    def __post_init__(self) -> None:
        if self.max_sequences < 1:
            raise InvalidSetting(f"max_sequences is {self.max_sequences}, expected >= 1.")
        if self.max_prefix_bytes < 0 or (self.max_kv_bytes is not None and self.max_kv_bytes < 1):
            raise InvalidSetting(
                f"max_prefix_bytes is {self.max_prefix_bytes} and max_kv_bytes {self.max_kv_bytes}, expected >= 0 and "
                ">= 1 (or None)."
            )
