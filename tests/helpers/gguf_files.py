# SPDX-License-Identifier: MIT
"""Small GGUF files of random Llamas, written as llama.cpp writes them, and packages with one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from guide_ext.integration.packaged import Packaged

TOKENS = [*bytes_to_unicode().values(), "th", "the", "Ġthe", "<|end|>"]
MERGES = ["t h", "th e", "Ġ the"]
_ENDS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def tiny_llama(**changes: Any) -> LlamaForCausalLM:
    """Return a Llama of random weights with the vocabulary of the files."""
    config = {
        "vocab_size": len(TOKENS),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        "tie_word_embeddings": True,
        "bos_token_id": len(TOKENS) - 1,
        "eos_token_id": len(TOKENS) - 1,
    }
    return LlamaForCausalLM(LlamaConfig(**config | changes)).eval()


def write_gguf(
    path: Path,
    model: LlamaForCausalLM,
    *,
    architecture: str = "llama",
    scaling: bool = False,
    left_out: str = "",
    more: tuple[str, ...] = (),
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
) -> Path:
    """Write a model into a GGUF file.

    Args:
        path: The file.
        model: The model.
        architecture: What the file calls it.
        scaling: Whether the file says that positions are scaled.
        left_out: Name of a tensor to leave out.
        more: Names of tensors to add.
        kind: How matrices are stored.

    """
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(MERGES)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(TOKENS) - 1) + [gguf.TokenType.CONTROL])
    writer.add_bos_token_id(len(TOKENS) - 1)
    writer.add_eos_token_id(len(TOKENS) - 1)
    for name, tensor in model.state_dict().items():
        short = _name(name)
        if (name == "lm_head.weight" and config.tie_word_embeddings) or short == left_out:
            continue
        values = _permuted(short, tensor, config).numpy()
        if values.ndim == 2 and kind is not gguf.GGMLQuantizationType.F32:
            writer.add_tensor(short, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(short, values)
    for name in more:
        writer.add_tensor(name, torch.ones(4).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_package(folder: Path, model: LlamaForCausalLM, *, name: str = "llm_tiny") -> Packaged:
    """Lay a package with a GGUF file into a folder, as pip would; importing it is an error."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text("raise RuntimeError('imported')\n")
    source = write_gguf(folder / name / "tiny.gguf", model)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    distribution = name.replace("_", "-")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "LICENSE").write_text("The licence.\n")
    return Packaged(
        title="Tiny", slug="tiny", module=name, distribution=distribution,
        sha256=hashlib.sha256(source.read_bytes()).hexdigest(), licence="MIT", space=1 << 20,
        seconds=1,
    )  # fmt: skip


def _name(name: str) -> str:
    if name in _ENDS:
        return _ENDS[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest.removesuffix('.weight')]}.weight"


def _permuted(name: str, tensor: torch.Tensor, config: LlamaConfig) -> torch.Tensor:
    """Return queries and keys in the order in which llama.cpp rotates them."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    part = name.split(".")[-2]
    if part not in heads:
        return tensor
    split = tensor.reshape(heads[part], 2, -1, tensor.shape[-1])
    return split.swapaxes(1, 2).reshape(tensor.shape)
