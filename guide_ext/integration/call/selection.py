# SPDX-License-Identifier: MIT
"""Models that choose the keys of every query: their choice as a table.

Sparse attention has a small network of its own, the indexer, look for the keys that matter, and
hands their indices to the attention function. The choice says who is visible, so it comes before
any bias: a marked token that was not chosen is not seen, whatever its Δ.
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
    """Return which keys every query may see, as far as a choice was made.

    Args:
        module: The attention module; blocks have the size that its indexer has.
        indices: Chosen keys, ``[batch, seqlen_q, chosen]``, whole numbers; negative for none
            (DeepSeek V3.2 and its kin).
        block_indices: Chosen blocks of keys, ``[batch, groups, seqlen_q, chosen]``, for every group
            of query heads; negative for none (MiniMax M3).
        num_heads: Query heads.
        seqlen_k: Keys of the layer.

    Returns:
        bool ``[batch, 1 or num_heads, seqlen_q, seqlen_k]``, or None if there is no choice.

    Raises:
        ValueError: If the indices have another form, or the size of a block is unknown.

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
    """Turn indices in the last dimension into a row of `size` bools."""
    columns = chosen.long()
    columns = torch.where(columns < 0, size, columns)  # a column too many, for those that are none
    table = torch.zeros(*chosen.shape[:-1], size + 1, dtype=torch.bool, device=chosen.device)
    return table.scatter_(-1, columns, True)[..., :size]
