# SPDX-License-Identifier: MIT
"""SEKA's projections: directions of keys that belong to what a question asks for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guide_ext.support.values import as_float


@dataclass(frozen=True)
class KeyProjections:
    """Projections of keys, one for every layer and key-value head; zero where none was kept.

    Attributes:
        positive: On the directions that a relevant question strengthens, float32
            ``[layers, num_kv_heads, head_dim, head_dim]``.
        negative: On the directions that an irrelevant question leaves weak, of the same shape.
        shifts: How far keys lie apart under a relevant and an irrelevant question, mean L2 distance
            over tokens, ``[layers, num_kv_heads]``.

    """

    positive: Tensor
    negative: Tensor
    shifts: Tensor

    def edited(self, key: Tensor, layer: int, positive: float, negative: float) -> Tensor:
        """Return keys with their parts in these directions strengthened.

        Args:
            key: Keys before their rotary position, ``[..., num_kv_heads, head_dim]``.
            layer: Their layer, counted from 0.
            positive: Gain g⁺; 0 for none.
            negative: Gain g⁻; 0 for none.

        Returns:
            ``key + g⁺ P⁺ key + g⁻ P⁻ key``, in the dtype of `key`.

        """
        moved = positive * self.positive[layer] + negative * self.negative[layer]
        found = key.float() + torch.einsum("...hd,hde->...he", key.float(), moved.to(key.device))
        return found.to(key.dtype)


def fit_projections(
    neutral: Tensor,
    relevant: Tensor,
    irrelevant: Tensor,
    *,
    variance: float = 0.9,
    min_shift: float = 0.0,
) -> KeyProjections:
    """Find the directions of keys of the same tokens under three contexts.

    Args:
        neutral: Keys without a question, ``[layers, num_kv_heads, tokens, head_dim]``.
        relevant: Keys behind a question that these tokens answer, of the same shape.
        irrelevant: Keys behind another question, of the same shape.
        variance: Share of the singular values that the strong directions hold, above 0, up to 1.
        min_shift: Heads whose keys lie less apart than this get no projection.

    Returns:
        The projections: of the cross-covariance of neutral and relevant keys, onto its strongest
        left singular vectors; of that of neutral and irrelevant keys, onto all but the strongest.

    Raises:
        ValueError: If the shapes differ or are no such shapes, or `variance` is out of range.

    Source:
        SEKA (Spectral Editing Key Amplification, 2026), section 3.

    Example:
        >>> keys = torch.eye(2)[None, None]
        >>> found = fit_projections(keys, keys * torch.tensor([3.0, 1.0]), keys, variance=0.7)
        >>> found.positive[0, 0]
        tensor([[1., 0.],
                [0., 0.]])

    """
    if not 0 < as_float(variance) <= 1:
        raise ValueError(f"variance must be above 0 and at most 1, got {variance!r}")
    if neutral.dim() != 4 or not neutral.shape == relevant.shape == irrelevant.shape:
        raise ValueError(
            "neutral, relevant and irrelevant must be keys of one shape, [layers, num_kv_heads, "
            f"tokens, head_dim], got {[list(t.shape) for t in (neutral, relevant, irrelevant)]}"
        )
    shifts = (relevant.double() - irrelevant.double()).norm(dim=-1).mean(-1)
    strong, weak = (
        _strong(neutral.double().mT @ other.double(), variance) for other in (relevant, irrelevant)
    )
    rest = torch.eye(neutral.shape[-1], dtype=weak.dtype, device=weak.device) - weak
    kept = (shifts >= min_shift)[..., None, None]
    return KeyProjections((strong * kept).float(), (rest * kept).float(), shifts.float())


def _strong(covariance: Tensor, variance: float) -> Tensor:
    """Return projections onto the fewest left singular vectors that hold a share of the values."""
    vectors, values, _ = torch.linalg.svd(covariance)
    share = values.cumsum(-1) / values.sum(-1, keepdim=True).clamp(min=1e-300)
    before = share - values / values.sum(-1, keepdim=True).clamp(min=1e-300)
    chosen: Tensor = vectors * (before < variance - 1e-12)[..., None, :]
    return chosen @ chosen.mT
