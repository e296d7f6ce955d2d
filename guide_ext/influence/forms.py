# SPDX-License-Identifier: MIT
"""Influence: how far marked tokens reach into every token of a text, layer by layer.

This module holds the recursions only. Each computes the Influence after a layer from the Influence
before it, from the attention of that layer (which the kernel has summed up: ``influence_out`` of
`biased_attention`) and from two norms. `guide_ext.integration` runs them while a model runs. E is
the residual stream that a layer reads, U is what its attention block adds to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from guide_ext.support.values import as_float


@dataclass(frozen=True)
class Form:
    """One way to pass Influence through a layer.

    Attributes:
        name: What users call it.
        norm: Order of the norms: 1 or 2; 0 where none is needed.
        weighs_keys: Whether each key is weighted by the norm of its residual stream; that takes one
            more channel in the kernel.
        reads_attention_input: Whether E is the normalised input of the attention block of the layer
            before, as in the authors' code, instead of the residual stream.
        combine: Returns the next Influence, given the Influence before the layer, the attended
            Influence, and the norms of E and of U; all ``[batch, groups or 1, tokens]``.

    """

    name: str
    norm: int
    weighs_keys: bool
    reads_attention_input: bool
    combine: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

    def norms(self, vectors: Tensor, scale: float = 1.0) -> Tensor | None:
        """Return the norms of ``scale`` times vectors, or None if this form needs no norms.

        Args:
            vectors: ``[batch, tokens, features]``.
            scale: Factor of the vectors.

        Returns:
            ``[batch, 1, tokens]``, float32.

        Raises:
            TypeError: If `vectors` is not a tensor, or `scale` not a number.

        """
        _require_tensor("vectors", vectors)
        if as_float(scale) != as_float(scale):  # NaN for what is no number
            raise TypeError(f"scale must be a number, got {scale!r}")
        if not self.norm:
            return None
        found: Tensor = torch.linalg.vector_norm(vectors, self.norm, dim=-1, dtype=torch.float32)
        return abs(scale) * found[:, None, :]

    def channels(self, level: Tensor, residual: Tensor | None) -> Tensor:
        """Return what the kernel is to reduce over the keys, its argument ``influence``.

        Args:
            level: Influence of the keys before this layer, ``[batch, groups, keys]``; for ``"raw"``
                the Influence at level 0.
            residual: Norms of the residual stream of the keys, ``[batch, 1, keys]``; only
                ``"exact"`` uses them.

        Returns:
            ``[batch, channels, keys]``: `level`; if keys are weighted, `level` times `residual` and
            `residual` itself as the last channel.

        Raises:
            TypeError: If an argument is not a tensor.

        """
        _require_tensor("level", level)
        if residual is not None:
            _require_tensor("residual", residual)
        if not self.weighs_keys or residual is None:
            return level
        return torch.cat([level * residual, residual], dim=1)

    def step(
        self, previous: Tensor, reduced: Tensor, residual: Tensor | None, update: Tensor | None
    ) -> Tensor:
        """Return the Influence after a layer, ``[batch, groups, tokens]``.

        Args:
            previous: The Influence before it, ``[batch, groups, tokens]``.
            reduced: ``influence_out`` of the kernel, ``[batch, channels, heads, tokens]``.
            residual: Norms of E, ``[batch, 1, tokens]``; None if the form needs none.
            update: Norms of U, ``[batch, 1, tokens]``; None if the form needs none.

        Raises:
            TypeError: If an argument is not a tensor.

        Example:
            >>> seed = torch.tensor([[[1.0, 0.0]]])                     # [batch, groups, tokens]
            >>> attention = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])  # [batch, heads, q, k]
            >>> reduced = torch.einsum("bhqk,bck->bchq", attention, seed)
            >>> form_named("rollout").step(seed, reduced, None, None)
            tensor([[[1.0000, 0.2500]]])

        """
        _require_tensor("previous", previous)
        _require_tensor("reduced", reduced)
        for name, norms in (("residual", residual), ("update", update)):
            if norms is not None:
                _require_tensor(name, norms)
        attended = reduced.mean(2)
        if self.weighs_keys:
            total = attended[:, -1:]
            attended = torch.where(total > 0, attended[:, :-1] / total, 0.0)
        if residual is None or update is None:
            residual = update = torch.ones_like(attended[:, :1])
        return self.combine(previous, attended, residual, update)


def _require_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")


def _weighted(previous: Tensor, attended: Tensor, residual: Tensor, update: Tensor) -> Tensor:
    """Weigh both parts by the norms of their vectors (equation 8); keep `previous` for 0/0."""
    total = residual + update
    mean = (residual * previous + update * attended) / total
    return torch.where(total > 0, mean, previous)


def _halves(previous: Tensor, attended: Tensor, residual: Tensor, update: Tensor) -> Tensor:
    return (previous + attended) / 2


def _attended_alone(previous: Tensor, attended: Tensor, residual: Tensor, update: Tensor) -> Tensor:
    return attended


FORMS: Mapping[str, Form] = MappingProxyType(
    {
        form.name: form
        for form in (
            Form("paper", 2, False, False, _weighted),
            Form("exact", 2, True, False, _weighted),
            Form("authors", 1, False, True, _weighted),
            Form("rollout", 0, False, False, _halves),
            Form("raw", 0, False, False, _attended_alone),
        )
    }
)


def form_named(name: str) -> Form:
    """Return the form with this name.

    Args:
        name: One of:

            * ``"paper"``: equation 5 of the paper,
              ``I' = (r I + mean_h Σ A I) / (1 + r)`` with ``r = ‖E‖ / ‖U‖`` in L2;
            * ``"exact"``: the same with ``Σ A ‖E‖ I / Σ A ‖E‖`` in place of ``Σ A I``; the paper
              drops the norms by assuming that all keys have the same one (appendix B.2);
            * ``"authors"``: as the authors' code computes it: with L1 norms, and with normalised
              states of the layer before in place of the residual stream;
            * ``"rollout"``: Attention Rollout, ``I' = (I + mean_h Σ A I) / 2``;
            * ``"raw"``: every layer's attention to the marked tokens themselves.

    Raises:
        ValueError: If there is no such form.

    Example:
        >>> form_named("paper").norm
        2

    """
    if not isinstance(name, str) or name not in FORMS:
        raise ValueError(f"form must be one of {', '.join(map(repr, FORMS))}, got {name!r}")
    return FORMS[name]
