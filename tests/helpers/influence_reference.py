# SPDX-License-Identifier: MIT
"""Influence as it is computed without a kernel: eager attention, whole matrices, whole texts.

Shares nothing with the product: weights come from `output_attentions`, vectors from hooks on
modules that are named here for every architecture, and the recursions are written out again.
"""

from __future__ import annotations

from typing import Any

import torch
from models import steered_eager
from torch import Tensor, nn

# Where other models than Llama's kind keep their layers and attention modules.
_LAYERS = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers"}
# Models with images: the part that reads text and tokens of images.
_TEXT = {
    "idefics3": "model.text_model",
    **dict.fromkeys(("llava", "qwen2_5_vl", "gemma3", "paligemma"), "model.language_model"),
}
_ATTENTION = {"gpt2": "attn", "gpt_neox": "attention"}
# What is added to the residual stream, if it is not what the attention module returns.
_UPDATE = dict.fromkeys(("gemma2", "gemma3_text", "gemma3"), "post_attention_layernorm")
_EPSILON = {"paper": 2, "exact": 2, "authors": 1}


def reference_levels(
    model: Any,
    name: str,
    inputs: dict[str, Tensor],
    seed: Tensor,
    *,
    form: str = "paper",
    bias: Tensor | None = None,
) -> Tensor:
    """Return Influence, ``[batch, layers + 1, groups, tokens]``, float64; padding is undefined."""
    attention, residuals, updates, reads = _watched(model, name, inputs, bias)
    tokens = inputs["input_ids"].shape[1]
    level = nn.functional.pad(seed.double(), (0, tokens - seed.shape[2]))
    levels = [level]
    for layer, weights in enumerate(attention):
        heads = weights.double()
        if form == "raw":
            attended = torch.einsum("bhqk,bgk->bghq", heads, levels[0]).mean(2)
        elif form == "exact":
            sizes = residuals[layer].double().norm(dim=-1)
            over = torch.einsum("bhqk,bk,bgk->bgq", heads, sizes, level)
            total = torch.einsum("bhqk,bk->bq", heads, sizes)[:, None]
            attended = torch.where(total > 0, over / total, 0.0)  # padding under attention sinks
        else:
            attended = torch.einsum("bhqk,bgk->bghq", heads, level).mean(2)
        if form in _EPSILON:
            kept = residuals[layer] if form != "authors" else reads[max(layer - 1, 0)]
            order = _EPSILON[form]
            ratio = (
                kept.double().norm(p=order, dim=-1) / updates[layer].double().norm(p=order, dim=-1)
            )[:, None]
            level = (ratio * level + attended) / (1 + ratio)
        elif form == "rollout":
            level = 0.5 * level + 0.5 * attended
        else:
            level = attended
        levels.append(level)
    return torch.stack(levels, dim=1)


def reference_heads(
    model: Any, name: str, inputs: dict[str, Tensor], seed: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Return what every head pays to the groups, ``[batch, layers, groups, heads, tokens]``."""
    attention = _watched(model, name, inputs, bias)[0]
    shares = [torch.einsum("bhqk,bgk->bghq", w.double(), seed.double()) for w in attention]
    return torch.stack(shares, dim=1)


def _watched(
    model: Any, name: str, inputs: dict[str, Tensor], bias: Tensor | None
) -> tuple[tuple[Tensor, ...], list[Tensor], list[Tensor], list[Tensor]]:
    residuals: list[Tensor] = []
    updates: list[Tensor] = []
    reads: list[Tensor] = []

    def first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        return args[0] if args else kwargs["hidden_states"]

    handles = []
    text = model.get_submodule(_TEXT.get(name, ""))
    layers = "layers" if name in _TEXT else _LAYERS.get(name, "model.layers")
    for layer in text.get_submodule(layers):
        attention = layer.get_submodule(_ATTENTION.get(name, "self_attn"))
        update = layer.get_submodule(_UPDATE[name]) if name in _UPDATE else attention
        handles += [
            layer.register_forward_pre_hook(
                lambda m, a, k: residuals.append(first(a, k)), with_kwargs=True
            ),
            attention.register_forward_pre_hook(
                lambda m, a, k: reads.append(first(a, k)), with_kwargs=True
            ),
            update.register_forward_hook(
                lambda m, a, out: updates.append(out[0] if isinstance(out, tuple) else out)
            ),
        ]
    tokens = inputs["input_ids"].shape[1]
    none = torch.zeros(inputs["input_ids"].shape[0], tokens)
    try:
        with steered_eager(text, none if bias is None else bias), torch.no_grad():
            output = model(**inputs, use_cache=False, output_attentions=True)
    finally:
        for handle in handles:
            handle.remove()
    return output.attentions, residuals, updates, reads


TOKENS = 9


def seeds(rows=2, groups=2, tokens=TOKENS):
    """Two groups in other places in every row, one token in both."""
    seed = torch.zeros(rows, groups, tokens)
    seed[0, 0, 3:5] = 1
    seed[0, 1, 4:8] = 1
    seed[-1, 0, 0:2] = 1
    seed[-1, 1, 6] = 1
    return seed
