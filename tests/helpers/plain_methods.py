# SPDX-License-Identifier: MIT
"""Attention with whole matrices, whose scores or weights a method edits as its paper says.

It shares nothing with the product: no bias, no fused kernel, no cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

_NAME = "plain_methods"
Edit = Callable[[int, Tensor], Tensor]
"""From the index of a layer and scores or weights, ``[batch, heads, queries, keys]``, to others."""


@contextmanager
def edited(model: Any, *, scores: Edit | None = None, weights: Edit | None = None) -> Iterator[Any]:
    """Run a model, enabled or not, under plain attention that is edited in every layer.

    Args:
        model: The model; for calls without a cache and without steering arguments.
        scores: Changes the scores, before the mask is added.
        weights: Changes the weights, after the softmax; they need not be normalised.

    """

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any,
               scaling: float | None = None, **kwargs: Any) -> tuple[Tensor, None]:  # fmt: skip
        groups = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(groups, 1).double() for t in (key, value))
        score = query.double() @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if scores is not None:
            score = scores(module.layer_idx, score)
        weight = (score + attention_mask).softmax(-1)
        if weights is not None:
            weight = weights(module.layer_idx, weight)
        return (weight @ value).transpose(1, 2).to(query.dtype), None

    AttentionMaskInterface.register(_NAME, eager_mask)
    AttentionInterface.register(_NAME, attend)
    before = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    try:
        with torch.no_grad():
            yield model
    finally:
        model.set_attn_implementation(before)


def scaled(marked: Tensor, factor: float, heads: Mapping[int, Sequence[int]] | None = None) -> Edit:
    """Return an edit that multiplies weights of some keys and makes every row sum to 1 again.

    Args:
        marked: The keys, bool ``[batch, tokens]``; later keys are not scaled.
        factor: What their weights are multiplied by.
        heads: The heads of each layer in which that is done; None for all.

    """

    def edit(layer: int, weight: Tensor) -> Tensor:
        here = torch.full((weight.shape[1],), heads is None)
        here[[] if heads is None else list(heads.get(layer, ()))] = True
        keys = torch.nn.functional.pad(marked, (0, weight.shape[-1] - marked.shape[1]))
        multiplied = torch.where(
            here[None, :, None, None] & keys[:, None, None], weight * factor, weight
        )
        return multiplied / multiplied.sum(-1, keepdim=True)

    return edit
