# SPDX-License-Identifier: MIT
"""Vectorised calls of `biased_attention` and of its gradients, as one call of a larger batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from guide_ext.op.call import AttentionCall
from guide_ext.op.checks import check_arguments

# Positions among the tensors of `biased_attention`.
_OPERANDS = range(3)  # query, key, value
_SINKS = 6
_NUM_GRADIENTS = 3
_NUM_INPUTS = 8

Run = Callable[..., tuple[Tensor, ...]]
Dims = Sequence[int | None]
Tensors = Sequence[Tensor | None]


def forward(
    run: Run, size: int, in_dims: Dims, tensors: Tensors, options: dict[str, Any]
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Vectorise `biased_attention`.

    Args:
        run: Computes (out, influence_out, lse) from the eight tensors.
        size: How many calls at once.
        in_dims: Where each tensor has the dimension that counts the calls; None where it has none.
        tensors: The eight tensors.
        options: The keyword-only arguments, for the checks.

    Returns:
        The results with the dimension of the calls, and where they have it.

    Raises:
        ValueError: If one of the calls would raise it.

    """
    tensors = _calls_first(in_dims, tensors)
    samples = [_sample(size, dim, tensor) for dim, tensor in zip(in_dims, tensors, strict=True)]
    # Now, while every tensor has the sizes that the caller knows.
    check_arguments(AttentionCall(*samples, **options))  # type: ignore[arg-type]
    if in_dims[_SINKS] is not None:  # the op has one sink a head, for the whole batch
        return _one_by_one(run, size, in_dims, tensors)
    batch = samples[0].shape[0]  # type: ignore[union-attr]
    folded = [
        tensor if index == _SINKS else _fold(size, batch, dim, tensor, index not in _OPERANDS)
        for index, (dim, tensor) in enumerate(zip(in_dims, tensors, strict=True))
    ]
    results = tuple(result.view(size, batch, *result.shape[1:]) for result in run(*folded))
    return results, (0,) * len(results)


def backward(
    run: Run, size: int, in_dims: Dims, tensors: Tensors, wanted: Sequence[bool]
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """Vectorise the gradients of `biased_attention`.

    Args:
        run: Computes the seven gradients.
        size: How many calls at once.
        in_dims: Where each tensor has the dimension that counts the calls; None where it has none.
        tensors: The gradients of the three results, the eight inputs, the three results.
        wanted: Which of the seven gradients are wanted.

    Returns:
        The gradients with the dimension of the calls, and where they have it.

    """
    tensors = _calls_first(in_dims, tensors)
    sinks = _NUM_GRADIENTS + _SINKS
    if in_dims[sinks] is not None or wanted[_SINKS]:  # one sum over the whole batch
        return _one_by_one(run, size, in_dims, tensors)
    inputs = range(_NUM_GRADIENTS, _NUM_GRADIENTS + _NUM_INPUTS)
    query = _sample(size, in_dims[inputs[0]], tensors[inputs[0]])
    batch = query.shape[0]  # type: ignore[union-attr]
    folded = []
    for index, (dim, tensor) in enumerate(zip(in_dims, tensors, strict=True)):
        shared = index in inputs[len(_OPERANDS) :]
        if shared and index - inputs[0] < len(wanted) and wanted[index - inputs[0]]:
            shared = False  # every call has a gradient of its own
        folded.append(tensor if index == sinks else _fold(size, batch, dim, tensor, shared))
    results: list[Tensor] = []
    for result, want, index in zip(run(*folded), wanted, inputs, strict=False):
        if want:
            sample = _sample(size, in_dims[index], tensors[index])
            result = result.view(size, batch, *result.shape[1:])
            if sample is not None and sample.shape[0] != batch:
                result = result.sum(1, keepdim=True)
        results.append(result)
    return tuple(results), tuple(0 if want else None for want in wanted)


def _calls_first(in_dims: Dims, tensors: Tensors) -> list[Tensor | None]:
    """Move the dimension of the calls to the front; keep the last one dense, as the op wants it."""
    moved = []
    for dim, tensor in zip(in_dims, tensors, strict=True):
        if tensor is not None and dim is not None:
            tensor = tensor.movedim(dim, 0)
            if tensor.dim() > 1 and tensor.stride(-1) != 1:
                tensor = tensor.contiguous()
        moved.append(tensor)
    return moved


def _sample(size: int, dim: int | None, tensor: Tensor | None) -> Tensor | None:
    """Take a tensor as one call has it."""
    if tensor is None or dim is None:
        return tensor
    return tensor[0] if size else tensor.new_empty(tensor.shape[1:])


def _fold(
    size: int, batch: int, dim: int | None, tensor: Tensor | None, may_be_shared: bool
) -> Tensor | None:
    """Make the calls part of the batch."""
    if tensor is None:
        return None
    if dim is None:
        if may_be_shared and tensor.shape[0] == 1:
            return tensor
        tensor = tensor.unsqueeze(0)
    return tensor.expand(size, batch, *tensor.shape[2:]).flatten(0, 1)


def _one_by_one(
    run: Run, size: int, in_dims: Dims, tensors: Tensors
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    calls = [
        run(
            *(
                tensor if tensor is None or dim is None else tensor[call]
                for dim, tensor in zip(in_dims, tensors, strict=True)
            )
        )
        for call in range(size)
    ]
    results = tuple(torch.stack(parts) for parts in zip(*calls, strict=True))
    return results, (0,) * len(results)
