"""GGUF files of tiny models, written as llama.cpp's conversion writes them."""

import json
from pathlib import Path

import gguf
import torch
from transformers.modeling_gguf_pytorch_utils import TensorProcessor, get_gguf_hf_weights_map

# GGUF's word for a setting -> the config's names for it.
SIZES = {
    "context_length": ("max_position_embeddings", "n_positions"),
    "block_count": ("num_hidden_layers",),
    "feed_forward_length": ("intermediate_size",),
    "embedding_length": ("hidden_size",),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "rope.dimension_count": ("head_dim",),
    "attention.sliding_window": ("sliding_window",),
}
FLOATS = {
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon"),
}


def write_gguf(path: Path, model, tokenizer, **metadata) -> Path:
    """A model and a byte-level tokenizer as a GGUF file of float32 weights; `metadata` are further strings."""
    config = model.config
    architecture = config.model_type.removesuffix("_text")
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    for table, add in ((SIZES, writer.add_uint32), (FLOATS, writer.add_float32)):
        for key, names in table.items():
            value = next((getattr(config, name) for name in names if getattr(config, name, None) is not None), None)
            if value is not None:
                add(f"{architecture}.{key}", value)
    for key, value in metadata.items():
        writer.add_string(key.replace("__", "."), value)
    _write_tokenizer(writer, tokenizer)
    held = model.state_dict()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for name, own in get_gguf_hf_weights_map(model, TensorProcessor()).items():
        if own in held and not (tied and name == "output.weight"):
            writer.add_tensor(name, _as_llama_cpp_has_it(architecture, name, held[own], config).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_tokenizer(writer, tokenizer) -> None:
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    special = set(tokenizer.all_special_ids)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([3 if place in special else 1 for _, place in vocabulary])
    writer.add_token_merges([" ".join(merge) if isinstance(merge, list) else merge for merge in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_bos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")


def _as_llama_cpp_has_it(architecture: str, name: str, weight: torch.Tensor, config) -> torch.Tensor:
    weight = weight.detach().float()
    if architecture == "llama" and (".attn_q." in name or ".attn_k." in name):
        heads = config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
        halves = weight.view(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
        weight = halves.transpose(1, 2).reshape(weight.shape)
    if architecture == "gemma3" and name.endswith("norm.weight"):
        weight = weight + 1
    if architecture == "gpt2" and weight.dim() == 2 and (".attn_" in name or ".ffn_" in name):
        weight = weight.t()
    return weight.contiguous()
