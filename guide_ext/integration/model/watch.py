# SPDX-License-Identifier: MIT
"""Watch the attention that is code of a model's own: what softmax gets, and calls of SDPA."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

HIDDEN = -1e4  # scores below are those of keys that a mask hides, in every dtype

_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)
_HEADS_APART = 4  # dimensions of scores whose heads have one of their own


class SoftmaxWatch(TorchFunctionMode):
    """Notes the scores that every softmax gets in a ``with`` block.

    Attributes:
        scores: Those scores, in order.
        fused: Queries and keys of every call of SDPA.

    Args:
        replay: Scores of an earlier run, in order: softmax is that of these, so that everything
            behind it stays as it was.

    """

    def __init__(self, replay: list[Tensor] | None = None) -> None:
        super().__init__()
        self.scores: list[Tensor] = []
        self.fused: list[set[int]] = []
        self._replay = replay

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Note the scores if this is a softmax, and call the function."""
        given = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query = args[0] if args else given["query"]
            key = args[1] if len(args) > 1 else given["key"]
            self.fused.append({query.shape[-2], key.shape[-2]})
        if func not in _SOFTMAX:
            return func(*args, **given)
        scores, rest = (args[0], args[1:]) if args else (given.pop("input"), ())
        self.scores.append(scores.detach())
        if self._replay is not None:
            if len(self._replay) < len(self.scores):
                raise RuntimeError("softmax was called more often with a bias than without")
            scores = self._replay[len(self.scores) - 1]
        return func(scores, *rest, **given)


def is_attention(scores: Tensor, lengths: set[int]) -> bool:
    """Return whether scores are those of queries and keys, and not, say, of tokens and experts.

    Args:
        scores: What a softmax got.
        lengths: Numbers of keys that a model has, and of queries.

    Example:
        >>> is_attention(torch.zeros(2, 4, 9, 9), {9}), is_attention(torch.zeros(2, 9, 9), {9})
        (True, False)
        >>> causal = torch.full((8, 9, 9), -1e9).triu(1)
        >>> is_attention(causal, {9})
        True

    """
    if scores.dim() < _HEADS_APART - 1 or not lengths.issuperset(scores.shape[-2:]):
        return False
    return scores.dim() >= _HEADS_APART or bool((scores[-1, 0, 1:] < HIDDEN).all())
