"""Small random models, made in a second: the real model class with random weights, for tests and plug-in authors.

The model is a two-layer Llama over a byte-level tokenizer with a chat template, so everything that works on a real
checkpoint (batching, adapters, grammars, flipping) is exercised; what it says is noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from simgym.chat_template import add_end_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def save_tiny_model(folder: str | Path, *, seed: int = 0, context_length: int = 4096, head_size: int = 8) -> Path:
    """Write a random Llama (about 0.1 M parameters) and its tokenizer as `save_pretrained` does.

    Args:
        folder: Where to; created if needed.
        seed: Of the random weights.
        context_length: Longest prompt and reply together, tokens.
        head_size: Of each of the four attention heads; vLLM's kernels want 32 or more.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = Path(folder)
    tokenizer = _byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_size,
        max_position_embeddings=context_length,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny_adapter(
    folder: str | Path, base: str | Path, *, seed: int = 0, strength: float = 0.5, end_token: bool = False
) -> Path:
    """Write a random LoRA adapter for a model folder, strong enough to change what the model says.

    With `end_token` it brings `<|endconversation|>` and an embedding row for it, as `agents/sft_user.py` saves one.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        plain, tokens = AutoModelForCausalLM.from_pretrained(base), None
        if end_token:
            tokenizer = AutoTokenizer.from_pretrained(base)
            tokens = [add_end_token(tokenizer, plain)]
            tokenizer.save_pretrained(folder)
        targets = ["q_proj", "v_proj", "o_proj"]
        model = get_peft_model(plain, LoraConfig(r=4, target_modules=targets, trainable_token_indices=tokens))
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=strength)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def _byte_tokenizer() -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|end|>",  # noqa: S106
        pad_token="<|end|>",  # noqa: S106
        additional_special_tokens=_SPECIAL[1:],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
