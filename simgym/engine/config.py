"""`EngineConfig`: how much the engine runs at a time, and how much it keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    max_prefix_bytes: int | None = None
    """Bytes of keys and values that are kept for later prompts, >= 0; 0 keeps none. None: 2 GiB, on a CUDA device an
    eighth of the memory that is free once the model is loaded."""
    max_pass_tokens: int | None = None
    """Tokens, padding included, that several prompts may have in one forward pass; one may have more. None: 4096,
    on CUDA devices 16384. Passes that OpenVINO makes have at most 512."""
    max_padding: float = 1.25
    """Tokens with padding as a multiple of tokens; beyond it, a forward pass is divided."""
    free_padding: int | None = None
    """Tokens of padding that cost less than another forward pass. None: 32, on CUDA devices 2048."""
    min_saved_tokens: int | None = None
    """Tokens that prefilling shared prefixes only once must save to be worth a forward pass. None: 0, on CUDA devices
    2048."""
    min_shared_prefix: int = 16
    """Tokens that prompts must share to have them prefilled once."""
    max_scored_tokens: int = 4096
    """Positions whose logits are in memory at a time when `loglikelihoods` are computed."""
    max_padded_tokens: int | None = None
    """Tokens, padding included, of a forward pass for `loglikelihoods` or `hidden_states`; one text may have more.
    None: 8192, on CUDA devices 65536."""
    gpu_paths: bool | None = None
    """Whether tokens are drawn on the device in one call, and attention does not repeat keys and values: faster on a
    GPU, slower on a CPU, the same tokens up to rounding. None: on CUDA devices."""
    cuda_graphs: bool = True
    """Whether decoding passes are recorded and replayed where `gpu_paths` are taken, so that a step costs one launch
    instead of hundreds; on other devices than CUDA they are repeated in the same manner without a gain."""
    fused_decoding: bool = True
    """Whether recorded decoding passes in half precision use flash attention and compiled pieces, see
    `simgym.engine.fused_decoding`; on CUDA devices only."""
    max_packed_bytes: int | None = None
    """Bytes of a second copy of the weights, arranged for the products of a decoding step on a CPU, see
    `simgym.engine.cpu_decoder`; a model that needs more goes without, 0: every one. None: a quarter of the memory that
    is free once the model is loaded."""
    openvino: bool = True
    """Whether OpenVINO, where it is installed, makes passes on a CPU: `simgym.engine.openvino_decoder`."""
    pad_token_id: int = 0
    """Any token of the vocabulary; padded positions are masked out."""

    def __post_init__(self) -> None:
        if self.max_sequences < 1:
            raise InvalidSetting(f"max_sequences is {self.max_sequences}, expected >= 1.")
        if (self.max_prefix_bytes or 0) < 0 or (self.max_kv_bytes is not None and self.max_kv_bytes < 1):
            raise InvalidSetting(
                f"max_prefix_bytes is {self.max_prefix_bytes} and max_kv_bytes {self.max_kv_bytes}, expected >= 0 and "
                ">= 1 (or None)."
            )

    def resolved(self, *, gpu_paths: bool) -> EngineConfig:
        """These bounds with the defaults of a device."""
        return replace(
            self,
            gpu_paths=gpu_paths,
            max_pass_tokens=self.max_pass_tokens or (16_384 if gpu_paths else 4096),
            max_padded_tokens=self.max_padded_tokens or (65_536 if gpu_paths else 8192),
            free_padding=(2048 if gpu_paths else 32) if self.free_padding is None else self.free_padding,
            min_saved_tokens=(2048 if gpu_paths else 0) if self.min_saved_tokens is None else self.min_saved_tokens,
        )
