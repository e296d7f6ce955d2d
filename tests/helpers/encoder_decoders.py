# SPDX-License-Identifier: MIT
"""Tiny random encoder–decoders, and a steered eager reference for them that shares no code with us.

The reference adds the bias to the mask that each eager attention module gets, and tells modules
apart by their names in the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from eager_calls import add_to_mask, changed
from tolerance import MODEL_LOGITS
from torch import Tensor
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoModelForSpeechSeq2Seq

VOCABULARY = 97
# How to generate.
NEW: dict[str, Any] = {
    "max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True,
    "output_logits": True, "pad_token_id": 0,
}  # fmt: skip
LAYERS, HEADS = 2, 4
START = 3

_ENDS = {"pad_token_id": 0, "bos_token_id": START, "eos_token_id": 2,
         "decoder_start_token_id": START, "forced_eos_token_id": None,
         "forced_bos_token_id": None}  # fmt: skip
_BART = {
    "d_model": 32, "encoder_layers": LAYERS, "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64, "init_std": 0.3,
}  # fmt: skip
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": LAYERS, "num_decoder_layers": LAYERS,
       "num_heads": HEADS, "initializer_factor": 0.4}  # fmt: skip
_CANARY = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "initializer_range": 0.3,
}  # fmt: skip
TEXT: dict[str, dict[str, Any]] = {
    "t5": _T5, "mt5": _T5, "bart": _BART, "mbart": _BART, "pegasus": _BART, "marian": _BART,
    "m2m_100": _BART, "blenderbot": _BART, "plbart": _BART,
}  # fmt: skip
SOUND: dict[str, dict[str, Any]] = {
    "whisper": _BART | {"num_mel_bins": 8, "max_source_positions": 12, "max_target_positions": 64},
    "moonshine": {
        "hidden_size": 32, "intermediate_size": 48, "encoder_num_hidden_layers": LAYERS,
        "decoder_num_hidden_layers": LAYERS, "encoder_num_attention_heads": HEADS,
        "decoder_num_attention_heads": HEADS, "initializer_range": 0.3,
    },
    # Its encoder has half a feed-forward step before the attention of a layer, and a convolution.
    "canary": {
        "initializer_range": 0.3,
        "encoder_config": {
            **_CANARY, "model_type": "parakeet_encoder", "num_mel_bins": 8,
            "subsampling_conv_channels": 16,
        },
        "decoder_config": {
            **_CANARY, "model_type": "canary_decoder", "vocab_size": VOCABULARY,
            "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": START,
            "eos_token_id": 2,
        },
    },
}  # fmt: skip
# What the names of the modules have at their end that look at the encoder.
_CROSS = ("encoder_attn", "EncDecAttention", "cross_attn", "crossattention.self", "crossattention",
          "cross_attention", "encoder_attention")  # fmt: skip


def make(name: str, **overrides: Any) -> Any:
    """Make a model, in evaluation mode, under eager attention."""
    torch.manual_seed(0)
    settings = {**TEXT, **SOUND}[name]
    config = AutoConfig.for_model(
        name, **{"vocab_size": VOCABULARY, **_ENDS, **settings, **overrides}
    )
    kind = AutoModelForSpeechSeq2Seq if name in SOUND else AutoModelForSeq2SeqLM
    model = kind.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.normal_(std=0.3)
    model.generation_config.update(
        eos_token_id=None, forced_eos_token_id=None, max_length=None, suppress_tokens=[START]
    )
    return model


def source(name: str, rows: int = 2) -> dict[str, Tensor]:
    """What the encoder reads: a text with padding on the right of the first row, or sound."""
    generator = torch.Generator().manual_seed(1)
    if name == "whisper":
        return {"input_features": torch.randn(rows, 8, 24, generator=generator)}
    if name == "canary":
        return {"input_features": torch.randn(rows, 96, 8, generator=generator)}
    if name == "moonshine":
        return {"input_values": torch.randn(rows, 4000, generator=generator)}
    mask = torch.ones(rows, 11, dtype=torch.long)
    mask[0, -3:] = 0
    ids = torch.randint(4, VOCABULARY, (rows, 11), generator=generator)
    return {"input_ids": ids, "attention_mask": mask}


def target(rows: int = 2, tokens: int = 9) -> dict[str, Tensor]:
    """What the decoder reads, with padding on the left of the second row."""
    ids = torch.randint(4, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(2))
    ids[:, 0] = START
    mask = torch.ones(rows, tokens, dtype=torch.long)
    mask[1, :2] = 0
    return {"decoder_input_ids": ids, "decoder_attention_mask": mask}


def attention_names(model: Any) -> list[str]:
    """Return the names of all attention modules, in the order in which they run."""
    ends = ("self_attn", "SelfAttention", *_CROSS)
    return [name for name, _ in model.named_modules() if name.endswith(ends)]


def positions(model: Any, inputs: dict[str, Tensor]) -> int:
    """Return how many positions the encoder has for the decoder."""
    with torch.no_grad():
        return int(model.get_encoder()(**inputs)[0].shape[1])


def marks(tokens: int, rows: int = 2) -> Tensor:
    """A bias that differs between rows, with a negative part."""
    bias = torch.zeros(rows, tokens)
    bias[0, 1:4] = 2.0
    bias[-1, 2:4] = -1.5
    bias[-1, 5] = 3.0
    return bias


@contextmanager
def steered_eager(
    model: Any,
    *,
    source: Tensor | None = None,
    target: Tensor | None = None,
    strength: dict[str, Tensor] | None = None,
) -> Iterator[None]:
    """Add biases to the masks of eager attention in a ``with`` block.

    Args:
        model: A model under eager attention.
        source: Nats per position of the encoder, ``[rows, positions]``.
        target: Nats per token of the decoder, ``[rows, tokens]``; later tokens have none.
        strength: Multipliers ``[rows, heads]`` by the name of the module; None for 1.

    """
    names = {module: name for name, module in model.named_modules()}
    encoder = set(model.get_encoder().modules())

    def add(given: dict[str, Any]) -> None:
        module, query, key = given["module"], given["query"], given["key"]
        reads_source = module in encoder or names[module].endswith(_CROSS)
        bias = source if reads_source else target
        if bias is None:
            return
        bias = F.pad(bias, (0, key.shape[2] - bias.shape[1]))
        nats = bias[:, None, None].expand(-1, query.shape[1], query.shape[2], -1)
        if strength is not None:
            nats = nats * strength[names[module]][:, :, None, None]
        add_to_mask(given, nats.repeat_interleave(len(query) // len(nats), 0))

    with changed(add):
        yield


def logits(model: Any, inputs: dict[str, Tensor], **steering: Any) -> Tensor:
    """Logits of one forward pass."""
    with torch.no_grad():
        return model(**inputs, **steering, use_cache=False).logits


def assert_close(found: Tensor, wanted: Tensor, mask: Tensor | None = None) -> None:
    """Compare float32 numbers, of real tokens if there is a mask."""
    if mask is not None:
        found, wanted = found[mask.bool()], wanted[mask.bool()]
    torch.testing.assert_close(found, wanted, rtol=0, atol=MODEL_LOGITS * float(wanted.abs().max()))
