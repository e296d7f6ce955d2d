# SPDX-License-Identifier: MIT
"""Influence in encoder–decoders as it is computed without a kernel: eager attention, whole texts.

Shares nothing with the product: weights come from `output_attentions`, vectors from hooks on
modules that are named here, and the recursions are written out again in float64.
"""

from __future__ import annotations

from typing import Any

import torch
from encoder_decoders import make, steered_eager
from torch import Tensor

# Sharp attention, so that tokens differ in what reaches them.
SHARP: dict[str, dict[str, Any]] = {
    "t5": {"initializer_factor": 1.5}, "mt5": {"initializer_factor": 1.5},
}  # fmt: skip
# Where the sum of residual stream and update is normalised, and the result is the residual stream.
_POST_NORM = ("bart", "marian", "plbart")
_CROSS = ("encoder_attn", "EncDecAttention")


def sharp(name: str, **overrides: Any) -> Any:
    """Make a model, see `encoder_decoders.make`."""
    return make(name, **{**SHARP.get(name, {}), **overrides})


def seeds(positions: int, tokens: int, rows: int = 2) -> tuple[Tensor, Tensor]:
    """Two groups in both texts, in other places in every row; the second has little of a target."""
    source = torch.zeros(rows, 2, positions)
    source[0, 0, 1:4] = 1
    source[0, 1, 3:6] = 1
    source[-1, 0, 0] = 1
    source[-1, 1, 5:7] = 1
    target = torch.zeros(rows, 2, tokens)
    target[:, 0, 3:5] = 1
    target[-1, 1, 6] = 1
    return source, target


def reference(
    name: str,
    inputs: dict[str, Tensor],
    seed: Tensor,
    decoder_seed: Tensor,
    *,
    form: str = "paper",
    source: Tensor | None = None,
    target: Tensor | None = None,
    overrides: dict[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return Influence on source and target, ``[rows, levels, groups, tokens]``, float64.

    Args:
        name: The model.
        inputs: Of both texts.
        seed: ``[rows, groups, positions]``.
        decoder_seed: ``[rows, groups, tokens]``; later tokens are not marked.
        form: Name of the recursion.
        source: The bias of the source.
        target: The bias of the target.
        overrides: Settings of the model.

    """
    model = sharp(name, **(overrides or {}))
    seen: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(_keeper(seen, path), with_kwargs=True)
        for path, module in model.named_modules()
    ]
    with steered_eager(model, source=source, target=target), torch.no_grad():
        output = model(**inputs, use_cache=False, output_attentions=True)
    for handle in handles:
        handle.remove()
    tokens = inputs["decoder_input_ids"].shape[1]
    level = torch.nn.functional.pad(decoder_seed.double(), (0, tokens - decoder_seed.shape[2]))
    of_source = [seed.double()]
    for i, weights in enumerate(output.encoder_attentions):
        kept, update = _vectors(name, seen, "encoder", i)[0]
        mixed = _mixed(form, weights, of_source[0 if form == "raw" else -1], kept)
        of_source.append(_next(form, of_source[-1], mixed, kept, update))
    of_target, begin = [level], level
    handed = of_source[0 if form == "raw" else -1]
    for i, own in enumerate(output.decoder_attentions):
        (kept, update), (kept_cross, update_cross) = _vectors(name, seen, "decoder", i)
        mixed = _mixed(form, own, begin if form == "raw" else of_target[-1], kept)
        of_target.append(_next(form, of_target[-1], mixed, kept, update))
        mixed = _mixed(form, output.cross_attentions[i], handed, output.encoder_last_hidden_state)
        of_target.append(_next(form, of_target[-1], mixed, kept_cross, update_cross))
    return torch.stack(of_source, 1), torch.stack(of_target, 1)


def reference_heads(
    name: str, inputs: dict[str, Tensor], seed: Tensor, decoder_seed: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what each head pays to the groups, ``[rows, layers, groups, heads, tokens]``."""
    model = sharp(name)
    with torch.no_grad():
        output = model(**inputs, use_cache=False, output_attentions=True)

    def paid(weights: Tensor, marked: Tensor) -> Tensor:
        return torch.einsum("bhqk,bgk->bghq", weights.double(), marked.double())

    of_source = [paid(weights, seed) for weights in output.encoder_attentions]
    of_target = []
    for own, cross in zip(output.decoder_attentions, output.cross_attentions, strict=True):
        of_target += [paid(own, decoder_seed), paid(cross, seed)]
    return torch.stack(of_source, 1), torch.stack(of_target, 1)


def _keeper(seen: dict[str, Tensor], path: str) -> Any:
    def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        read = args[0] if args else kwargs.get("hidden_states")
        given = output[0] if isinstance(output, tuple) else output
        if isinstance(read, Tensor) and isinstance(given, Tensor):
            seen[f"{path}:in"], seen[f"{path}:out"] = read.double(), given.double()

    return keep


def _vectors(name: str, seen: dict[str, Tensor], side: str, i: int) -> list[tuple[Tensor, Tensor]]:
    """Return E and U of the attentions of a layer: one in an encoder, two in a decoder."""
    if name in ("t5", "mt5"):
        block = f"{side}.block.{i}.layer"
        own = (seen[f"{block}.0:in"], seen[f"{block}.0.SelfAttention:out"])
        if side == "encoder":
            return [own]
        return [own, (seen[f"{block}.0:out"], seen[f"{block}.1.EncDecAttention:out"])]
    layer = f"model.{side}.layers.{i}"
    if (name, side) == ("canary", "encoder"):  # the attention comes second in the layer
        return [(seen[f"{layer}.norm_self_att:in"], seen[f"{layer}.self_attn:out"])]
    kept, update = seen[f"{layer}:in"], seen[f"{layer}.self_attn:out"]
    if side == "encoder":
        return [(kept, update)]
    between = kept + update
    if name in _POST_NORM:
        between = seen[f"{layer}.self_attn_layer_norm:out"]
    return [(kept, update), (between, seen[f"{layer}.encoder_attn:out"])]


def _mixed(form: str, weights: Tensor, level: Tensor, kept: Tensor) -> Tensor:
    """Mix the Influence of the keys; in the exact form, by their lengths."""
    heads = weights.double()
    if form != "exact":
        return torch.einsum("bhqk,bgk->bghq", heads, level).mean(2)
    sizes = kept.double().norm(dim=-1)
    over = torch.einsum("bhqk,bk,bgk->bgq", heads, sizes, level)
    total = torch.einsum("bhqk,bk->bq", heads, sizes)[:, None]
    return torch.where(total > 0, over / total, 0.0)


def _next(form: str, level: Tensor, mixed: Tensor, kept: Tensor, update: Tensor) -> Tensor:
    if form == "raw":
        return mixed
    if form == "rollout":
        return 0.5 * level + 0.5 * mixed
    ratio = (kept.norm(dim=-1) / update.norm(dim=-1))[:, None]
    return (ratio * level + mixed) / (1 + ratio)
