"""How verl joins the turns of a conversation: by the type of the policy's model.

For a type that it does not know, verl leaves out the line feed behind ChatML's end of a turn. Qwen's is the same
template, so models that end turns so are treated as Qwen's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHATML_END, _CHATML_TYPE = "<|im_end|>", "qwen2"


def template_type_of(tokenizer: PreTrainedTokenizerBase, hf_model_type: str | None) -> str | None:
    """The type of model by whose rules verl is to join turns; the policy's own unless that would join them wrongly."""
    from verl.utils.tokenizer.continuous_token_wiring import ContinuousTokenModelFamily as Family
    from verl.utils.tokenizer.continuous_token_wiring import resolve_continuous_token_model_family as resolve

    if tokenizer is None or tokenizer.eos_token != _CHATML_END:
        return hf_model_type
    family = resolve("auto", hf_model_type=hf_model_type, has_multimodal_processor=False)
    return _CHATML_TYPE if family is Family.DEFAULT else hf_model_type
