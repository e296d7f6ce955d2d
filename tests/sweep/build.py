# SPDX-License-Identifier: MIT
"""A small random model of any architecture: its own config class with every size made small.

Windows, selections, chunks and compression are small as well, so that a prompt of a few dozen
tokens is longer than all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
)
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# The tasks of transformers whose types read text, or write it.
TASKS: dict[str, tuple[dict[str, str], Any]] = {
    "causal": (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, AutoModelForCausalLM),
    "seq2seq": (modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, AutoModelForSeq2SeqLM),
    "speech": (modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES, AutoModelForSpeechSeq2Seq),
    "masked": (modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, AutoModelForMaskedLM),
    "image-text": (
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        AutoModelForImageTextToText,
    ),
}

VOCABULARY = 99
LAYERS = 4
WINDOW = 8
# A config that keeps a large default somewhere must not fill the memory.
MOST_PARAMETERS = 30_000_000

_LAST_TOKEN = VOCABULARY - 1  # no prompt has it
_WIDTH, _INNER, _HEADS, _KV_HEADS, _HEAD_DIM = 32, 48, 4, 2, 8

# By the names that configs have for them; each is set where a config has the name.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "audio_vocab_size"), VOCABULARY),
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "word_embed_proj_dim",
         "emb_dim", "rnn_hidden_size", "embed_dim", "lru_width", "dim_model", "out_hidden_size",
         "output_dim", "encoder_hidden_size"),
        _WIDTH,
    ),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner", "d_ff",
         "ffn_hidden_size", "d_inner", "dim_ff", "intermediate_size_mlp", "dff",
         "feed_forward_size", "block_ff_dim", "shared_expert_intermediate_size"),
        _INNER,
    ),
    **dict.fromkeys(
        ("moe_intermediate_size", "moe_ffn_hidden_size", "expert_ffn_hidden_size",
         "expert_hidden_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size",
         "moe_shared_intermediate_size", "prefix_dense_intermediate_size",
         "expert_intermediate_size", "shared_experts_intermediate_size"),
        16,
    ),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers",
         "decoder_layers", "encoder_layers", "depth"),
        LAYERS,
    ),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
         "decoder_attention_heads", "swa_num_attention_heads"),
        _HEADS,
    ),
    **dict.fromkeys(
        ("num_key_value_heads", "num_kv_heads", "num_global_key_value_heads",
         "swa_num_key_value_heads", "multi_query_group_num"),
        _KV_HEADS,
    ),
    **dict.fromkeys(
        ("head_dim", "attention_head_dim", "global_head_dim", "kv_channels", "swa_head_dim",
         "swa_v_head_dim", "d_kv", "dim_head", "attention_key_value_size"),
        _HEAD_DIM,
    ),
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx",
         "max_target_positions", "max_source_positions", "seq_length", "block_size_positions"),
        512,
    ),
    **dict.fromkeys(("sliding_window", "window_size", "attention_window_size", "local_attention",
                     "attention_window", "swa_window"), WINDOW),
    # Windows, chunks, selections and compression of particular architectures.
    "use_sliding_window": True, "max_window_layers": 2,
    "attention_chunk_size": WINDOW,
    "index_topk": WINDOW,
    "index_n_heads": _HEADS,
    "index_head_dim": 16,
    "index_block_size": 4, "index_topk_blocks": 2, "index_local_blocks": 1,
    "keep_window_size": WINDOW,
    # Latent attention.
    "q_lora_rank": 16, "kv_lora_rank": 16, "o_lora_rank": 16,
    "qk_rope_head_dim": _HEAD_DIM, "qk_nope_head_dim": _HEAD_DIM, "qk_head_dim": 2 * _HEAD_DIM,
    "v_head_dim": _HEAD_DIM,
    # Mixtures of experts.
    **dict.fromkeys(
        ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts",
         "num_routed_experts"), 4),
    **dict.fromkeys(
        ("num_experts_per_tok", "moe_k", "moe_topk", "top_k", "top_k_experts",
         "num_experts_per_token", "moe_top_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts",
                     "moe_num_shared_experts"), 1),
    # State-space and linear layers.
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "state_size"), 8),
    **dict.fromkeys(("mamba_n_groups", "mamba_ngroups", "n_groups"), 1),
    "mamba_chunk_size": 8, "chunk_size": 8, "mamba_expand": 2, "mamba_d_ssm": 64,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_head_dim": 8,
    "linear_num_heads": 4,
    # Towers beside the text.
    "image_size": 16, "patch_size": 8, "num_mel_bins": 8,
    # Gemma 3n and 4.
    "hidden_size_per_layer_input": 8, "laurel_rank": 4, "num_kv_shared_layers": 0,
    "altup_num_inputs": 2,
    "attention_dropout": 0.0, "initializer_range": 0.05,
    "is_decoder": True,  # of causal models
}  # fmt: skip

_ALL_HEADS = {"num_key_value_heads": _HEADS}  # latent attention has as many keys as queries
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_SOME_EXPERTS = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 16,
    "num_experts_per_tok": 2,
}

# What particular types need besides.
EXTRA: dict[str, dict[str, Any]] = {
    **{name: {"head_dim": _HEAD_DIM} for name in ("hunyuan_v1_dense", "hunyuan_v1_moe")},
    "ministral": {"head_dim": _HEAD_DIM},
    "nemotron": {"head_dim": _HEAD_DIM, "num_key_value_heads": _KV_HEADS},
    **dict.fromkeys(("deepseek_v3", "deepseek_v32", "glm_moe_dsa", "axk1", "axk2"), _ALL_HEADS),
    **dict.fromkeys(("mistral4", "kimi_k2", "deepseek_ocr"), _ALL_HEADS),
    **dict.fromkeys(("hy_v4", "glm4_moe_lite", "kimi_linear", "longcat_flash"), _ALL_HEADS),
    **dict.fromkeys(("minicpm3", "sarvam_mla", "youtu"), _ALL_HEADS),
    "deepseek_v2": {**_ALL_HEADS, **_SOME_EXPERTS},
    "dots1": {"head_dim": _HEAD_DIM, **_SOME_EXPERTS},
    "codegen": {"rotary_dim": 4},
    "gptj": {"rotary_dim": 4},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE}},
    **{
        f"{name}encoder-decoder": {"decoder": {"add_cross_attention": True, "is_decoder": True}}
        for name in ("", "speech-", "vision-")
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": _KV_HEADS, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": _WIDTH, "ffn_hidden_size": _INNER, "moe_top_k": 2},
    },
    # Rotations by time, height and width, shared among the four pairs of a head.
    **{
        name: {"rope_parameters": {**_ROPE, "mrope_section": [2, 1, 1]}}
        for name in (
            "qwen2_vl_text",
            "qwen2_5_vl_text",
            "glm4v_text",
            "glm46v_text",
            "glm_ocr_text",
            "paddleocr_vl_text",
        )
    },
    "glm4v_moe_text": {
        "rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 0]}
    },
    "esm": {"vocab_size": VOCABULARY, "mask_token_id": 4},
    "esmc": _ALL_HEADS,
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 16},
    "neomme": {"head_dim": 2 * _HEAD_DIM},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "reformer": {"axial_pos_embds": False},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
    # Layers of every kind.
    "bamba": {"attn_layer_indices": [1, 3]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "minimax_m3_vl_text": {"layer_types": ["full_attention", "minimax_m3_sparse"] * 2},
    "bailing_hybrid": {
        **_ALL_HEADS,
        "linear_head_dim": _HEAD_DIM,
        "linear_num_heads": _HEADS,
        "num_expert_group": 1,
        "layer_types": ["linear_attention", "full_attention"] * 2,
    },
    "dots3_note_text": {
        **_ALL_HEADS,
        "per_layer_config": {},
        "head_dim": 2 * _HEAD_DIM,
        "layer_types": ["indexed_attention", "sliding_attention"] * 2,
    },
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": WINDOW,
        "indexer_compress_ratio": 4,
        "hc_lowrank": 8,
    },
}


def build(model_type: str, task: str = "causal", **overrides: Any) -> Any:
    """Make a small model of a type, in evaluation mode, under eager attention.

    Args:
        model_type: A type of transformers that is known for the task.
        task: One of `TASKS`.
        **overrides: Values of its config that win.

    Raises:
        Exception: Whatever the architecture says of the sizes that it was given.

    """
    torch.manual_seed(0)
    _, kind = TASKS[task]
    wanted = {**EXTRA.get(model_type, {}), **overrides}
    config = small_config(model_type, wanted)
    if task != "causal" and hasattr(config, "is_decoder"):
        config.is_decoder = False
    with torch.device("meta"):
        count = sum(p.numel() for p in kind.from_config(config).parameters())
    if count > MOST_PARAMETERS:
        raise ValueError(f"{model_type} has {count / 1e6:.0f} M parameters with small sizes")
    model = kind.from_config(config, attn_implementation="eager").eval()
    sharpen(model)
    if model.can_generate():
        model.generation_config.update(
            eos_token_id=None, pad_token_id=0, bos_token_id=None,
            decoder_start_token_id=3 if config.is_encoder_decoder else None,
        )  # fmt: skip
    return model


def small_config(model_type: str, wanted: dict[str, Any]) -> Any:
    """Make a config of a type with small sizes, those of its parts included."""
    return CONFIG_MAPPING[model_type](**_values(CONFIG_MAPPING[model_type], wanted))


def _values(kind: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    default = kind()
    present = {key: value for key, value in default.to_dict().items() if value is not None}
    layers = getattr(default, "num_hidden_layers", None)
    values: dict[str, Any] = {}
    for name, value in present.items():
        if name in kind.sub_configs and isinstance(value, dict):
            model_type = value.get("model_type")
            known = model_type in CONFIG_MAPPING
            part = CONFIG_MAPPING[model_type] if known else kind.sub_configs[name]
            if hasattr(part, "sub_configs"):
                own = {**EXTRA.get(model_type, {}), **wanted.get(name, {})}
                values[name] = _values(part, own) | {"model_type": model_type}
        elif name in SMALL and not isinstance(value, list | dict):
            values[name] = SMALL[name]
        elif isinstance(value, dict) and "mrope_section" in value:
            values[name] = {**value, "mrope_section": _sections(present)}
        elif isinstance(value, list) and layers and len(value) == layers:
            firsts = [one for i, one in enumerate(value) if one not in value[:i]]  # of every kind
            values[name] = [firsts[i % len(firsts)] for i in range(LAYERS)]
    ends = ("bos_token_id", "eos_token_id")
    values.update({name: _LAST_TOKEN if present.get(name) is not None else None for name in ends})
    values["pad_token_id"] = 0
    return {**values, **{k: v for k, v in wanted.items() if k not in kind.sub_configs}}


def _sections(present: dict[str, Any]) -> list[int]:
    """Share the rotated pairs of a small head among time, height and width."""
    rope = present.get("rope_parameters") or {}
    pairs = int(_HEAD_DIM * rope.get("partial_rotary_factor", 1.0)) // 2
    return [pairs - 2 * (pairs // 4), pairs // 4, pairs // 4]


def sharpen(model: nn.Module) -> None:
    """Make attention far from uniform and layers far from nothing, so that errors show."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                if name.endswith(("sinks", "bias")) and parameter.is_floating_point():
                    parameter.normal_(std=0.5)  # zero at first, which would hide a lost sink
                continue
            last = name.split(".")[-2] if "." in name else name
            parameter.mul_(8 if last.startswith(("q_", "k_", "query", "key", "wq", "wk")) else 3)
