# SPDX-License-Identifier: MIT
"""The arguments of one `biased_attention` call as one object.

The op is called with thirteen arguments. Whatever handles all of them takes an `AttentionCall`
instead, so that no other place repeats the list, its order or its defaults.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttentionCall:
    """The arguments in the order and with the defaults of the schema: ``(*tensors, **options)``.

    `guide_ext.op.attention.biased_attention` documents each of them.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    key_bias: Tensor | None = None
    influence: Tensor | None = None
    attn_bias: Tensor | None = None
    sinks: Tensor | None = None
    q_start: Tensor | None = None
    _: KW_ONLY
    is_causal: bool = False
    window_left: int = -1
    window_right: int = -1
    scale: float | None = None
    softcap: float = 0.0

    @property
    def num_heads(self) -> int:
        """Query heads."""
        return self.query.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of softmax, influence_out and lse: float32, or float64 for a float64 query."""
        return torch.float64 if self.query.dtype == torch.float64 else torch.float32

    @property
    def factor(self) -> float:
        """Factor of the dot product."""
        return self.query.shape[3] ** -0.5 if self.scale is None else self.scale
