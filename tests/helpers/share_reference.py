# SPDX-License-Identifier: MIT
"""Attention that gives marked keys a stated share of every row, with whole matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

REFERENCE = "share_reference"


class ShareReference:
    """Attention with whole matrices, whose weights are set to the share after the softmax."""

    def __init__(self, share: Tensor) -> None:
        self.share = share

    def __call__(self, module, query, key, value, attention_mask, scaling=None, softcap=None,
                 s_aux=None, **kwargs):  # fmt: skip
        groups = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
        score = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if softcap:
            score = softcap * torch.tanh(score / softcap)
        score = score + attention_mask
        if s_aux is not None:
            sink = s_aux.view(1, -1, 1, 1).expand(*score.shape[:3], 1)
            score = torch.cat([score, sink], -1)
        weight = score.double().softmax(-1)
        missing = weight.shape[-1] - self.share.shape[1]
        share = torch.nn.functional.pad(self.share, (0, missing))[:, None, None]
        marked, least = share > 0, share.amax(-1, keepdim=True).double()
        present = (weight * marked).sum(-1, keepdim=True)
        grow = (present > 0) & (present < least)
        ours, others = least / present, (1 - least) / (1 - present)
        weight = torch.where(grow, weight * torch.where(marked, ours, others), weight)
        weight = weight[..., : key.shape[2]].to(value.dtype)
        return (weight @ value).transpose(1, 2), None


def put_under(model: Any, share: Tensor) -> Any:
    """Put a model that is not enabled under this attention; for calls without a cache."""
    AttentionMaskInterface.register(REFERENCE, eager_mask)
    AttentionInterface.register(REFERENCE, ShareReference(share))
    model.set_attn_implementation(REFERENCE)
    return model
