# SPDX-License-Identifier: MIT
"""Sparse attention: turn the keys that a model has selected into a mask.

In such a model a small network, the indexer, selects the keys that matter for each query and passes
their indices to the attention function. The selection decides which keys are visible. It takes
precedence over any bias: a marked token that was not selected is not seen, whatever its Δ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def selected_keys(
    module: nn.Module,
    indices: Tensor | None,
    block_indices: Tensor | None,
    num_heads: int,
    seqlen_k: int,
) -> Tensor | None:
    """Return the keys that each query may see, or None if the model selects none.

    Args:
        module: The attention module; the size of a block is ``module.indexer.block_size``.
        indices: Selected keys, ``[batch, seqlen_q, chosen]``, whole numbers; negative entries
            select nothing (DeepSeek V3.2 and relatives).
        block_indices: Selected blocks of keys for each group of query heads, ``[batch, groups,
            seqlen_q, chosen]``, whole numbers; negative entries select nothing (MiniMax M3).
        num_heads: Number of query heads.
        seqlen_k: Number of keys of the layer.

    Returns:
        bool ``[batch, 1 or num_heads, seqlen_q, seqlen_k]``, True on selected keys; or None if both
        kinds of indices are None.

    Raises:
        ValueError: If indices have another shape or dtype, the size of a block is unknown, or the
            groups do not divide the heads.

    Example:
        >>> import torch
        >>> indices = torch.tensor([[[0, -1], [0, 2]]])
        >>> selected_keys(torch.nn.Identity(), indices, None, 1, 3).int()
        tensor([[[[1, 0, 0],
                  [1, 0, 1]]]], dtype=torch.int32)

    """
    table = None
    if indices is not None:
        _check("indices", indices, 3, "[batch, seqlen_q, chosen]")
        table = _table(indices, seqlen_k)[:, None]
    if block_indices is not None:
        _check("block_indices", block_indices, 4, "[batch, groups, seqlen_q, chosen]")
        size = getattr(getattr(module, "indexer", None), "block_size", None)
        groups = block_indices.shape[1]
        if not isinstance(size, int) or num_heads % groups:
            raise ValueError(
                "block_indices must come from an attention module with indexer.block_size, for "
                f"groups that divide its {num_heads} heads, got block size {size} and {groups} "
                f"group(s) in {type(module).__name__}"
            )
        blocks = _table(block_indices, -(-seqlen_k // size))
        keys = blocks.repeat_interleave(size, -1)[..., :seqlen_k]
        keys = keys.repeat_interleave(num_heads // groups, 1)
        table = keys if table is None else table & keys
    return table


def _check(name: str, indices: Tensor, dims: int, wanted: str) -> None:
    is_whole = not indices.is_floating_point() and indices.dtype != torch.bool
    if indices.dim() != dims or not is_whole:
        raise ValueError(
            f"{name} must be whole numbers {wanted}, got {indices.dtype} of shape "
            f"{list(indices.shape)}"
        )


def _table(chosen: Tensor, size: int) -> Tensor:
    """Replace indices in the last dimension by `size` bools, True at these indices."""
    columns = chosen.long()
    columns = torch.where(columns < 0, size, columns)  # an extra column, which is cut off below
    table = torch.zeros(*chosen.shape[:-1], size + 1, dtype=torch.bool, device=chosen.device)
    return table.scatter_(-1, columns, True)[..., :size]
