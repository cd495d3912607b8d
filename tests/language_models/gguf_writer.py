"""A Llama's folder as a GGUF file, unquantised, as llama.cpp's own converter lays it out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from safetensors.numpy import load_file

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
NORMAL, CONTROL = 1, 3


def write_tiny_gguf(model: str | Path, folder: Path) -> tuple[Path, Path]:
    """A copy of a tiny model whose tokenizer has a merge, which transformers wants of a GGUF file, and that file."""
    copied = Path(shutil.copytree(model, folder / "tiny"))
    file = copied / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["ab"] = vocabulary.pop("ÿ")  # a byte that no text in UTF-8 has
    tokenizer["model"]["merges"] = [["a", "b"]]
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    return copied, write_gguf(copied, folder / "tiny.gguf")


def write_gguf(folder: str | Path, path: Path, *, name: str = "tiny") -> Path:
    """Write the weights, tokenizer and chat template of a folder in float32.

    Args:
        folder: Of a Llama with a byte-level BPE tokenizer.
        path: The file.
        name: What the file says that the model is called.
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    writer = GGUFWriter(path, "llama")
    writer.add_name(name)
    heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    rope = config.get("rope_parameters") or {}
    writer.add_rope_freq_base(float(config.get("rope_theta") or rope.get("rope_theta") or 10000.0))
    writer.add_vocab_size(config["vocab_size"])
    add_tokenizer(writer, folder)
    for tensor, value in load_file(folder / "model.safetensors").items():
        module = tensor.removesuffix(".weight")
        if module.startswith("model.layers."):
            _, _, layer, rest = module.split(".", 3)
            count = {"self_attn.q_proj": heads, "self_attn.k_proj": key_heads}.get(rest)
            stored = value if count is None else rotated(value, count)
            writer.add_tensor(f"blk.{layer}.{NAMES[rest]}.weight", stored.astype(np.float32))
        else:
            writer.add_tensor(f"{WHOLE[module]}.weight", value.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rotated(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows in llama.cpp's order: the halves that a rotation pairs lie beside each other."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def add_tokenizer(writer: GGUFWriter, folder: Path) -> None:
    """Vocabulary, merges, special tokens and chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    bpe = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token in special else NORMAL for token in tokens])
    if merges := [merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["merges"]]:
        writer.add_token_merges(merges)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)
