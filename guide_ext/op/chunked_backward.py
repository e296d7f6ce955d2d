# SPDX-License-Identifier: MIT
"""Gradients of biased attention by block-wise recomputation: any device, O(n) memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guide_ext.op.chunked import ChunkedCall, of_batch, saturated


@dataclass(frozen=True)
class OutputGradients:
    """Gradients that reach the three outputs; None where nothing depends on one."""

    out: Tensor | None
    influence_out: Tensor | None
    lse: Tensor | None


def backward(
    call: ChunkedCall,
    outputs: tuple[Tensor, Tensor, Tensor],
    gradients: OutputGradients,
    wanted: list[bool],
) -> list[Tensor | None]:
    """Compute the gradients of the seven floating inputs by recomputation from `lse`.

    With ``P = exp(score - lse)``, ``dP = dO·V + Σ_c dI_c·influence_c`` and the row sum
    ``δ = dO·O + Σ_c dI_c·I_c - dlse``, the gradient of a score is ``P · (dP - δ)``; a sink is a
    score whose dP is 0.

    What a row does not see takes no part in its gradients. These may hold NaN or inf and count as
    0: a hidden key, its value and its influence; the query of a row that sees nothing, and the
    gradients that reach the outputs of such a row.

    Args:
        call: The arguments of the forward call.
        outputs: What it returned.
        gradients: What reached its outputs.
        wanted: For query, key, value, key_bias, influence, attn_bias, sinks: compute it?

    Returns:
        The gradients, in the order of `wanted`, each with shape and dtype of its input.

    """
    inputs: tuple[Tensor | None, ...] = (
        *(call.query, call.key, call.value, call.key_bias, call.influence),
        *(call.attn_bias, call.sinks),
    )
    sums = _GradientSums(
        *(
            torch.zeros(tensor.shape, dtype=call.dtype, device=tensor.device)
            if tensor is not None and want
            else None
            for tensor, want in zip(inputs, wanted, strict=True)
        )
    )
    for batch, rows in call.row_blocks():
        _backward_rows(call, outputs, gradients, sums, batch, rows)
    results = (
        *(sums.query, sums.key, sums.value, sums.key_bias, sums.influence),
        *(sums.attn_bias, sums.sinks),
    )
    return [
        None if tensor is None or total is None else total.to(tensor.dtype)
        for tensor, total in zip(inputs, results, strict=True)
    ]


@dataclass(frozen=True)
class _GradientSums:
    """Accumulators of the wanted gradients; None for the others."""

    query: Tensor | None
    key: Tensor | None
    value: Tensor | None
    key_bias: Tensor | None
    influence: Tensor | None
    attn_bias: Tensor | None
    sinks: Tensor | None


def _backward_rows(
    call: ChunkedCall,
    outputs: tuple[Tensor, Tensor, Tensor],
    gradients: OutputGradients,
    sums: _GradientSums,
    batch: slice,
    rows: slice,
) -> None:
    """Add what one block of rows gives to every gradient."""
    out, influence_out, lse = outputs
    query_block = call.fold(call.query[batch, :, rows])
    lse_block, prob_sum = _normalisers(call, query_block, lse, batch, rows)
    delta = torch.zeros_like(lse_block)
    grad_out, grad_flow = None, None
    # The outputs of a row that sees nothing are constants.
    blind = lse[batch, :, rows] == -torch.inf
    if gradients.out is not None:
        grad_out = call.fold(gradients.out[batch, :, rows].masked_fill(blind[..., None], 0.0))
        delta += (call.unfold(grad_out) * out[batch, :, rows]).sum(-1, keepdim=True)
    if gradients.influence_out is not None and call.influence is not None:
        grad_flow = gradients.influence_out[batch, :, :, rows].to(call.dtype)
        grad_flow = grad_flow.masked_fill(blind[:, None], 0.0)
        delta += (grad_flow * influence_out[batch, :, :, rows]).sum(1).unsqueeze(-1)
        grad_flow = grad_flow.permute(0, 2, 3, 1)  # [batches, num_heads, rows, channels]
    if gradients.lse is not None:
        delta -= gradients.lse[batch, :, rows].masked_fill(blind, 0.0)[..., None]
    if call.sinks is not None and sums.sinks is not None:
        prob_sink = _prob_sink(call.sinks, lse_block) / prob_sum
        sums.sinks.sub_((prob_sink * delta).sum((0, 2, 3)))

    for keys in call.key_blocks(rows):
        score, slope = call.score(query_block, batch, rows, keys)
        hidden = score == -torch.inf
        prob = score.sub_(lse_block).exp_().div_(prob_sum)
        grad_score = -delta
        if grad_out is not None:
            if sums.value is not None:
                sums.value[batch, :, keys] += call.fold(prob).mT @ grad_out
            value_block = call.value[batch, :, keys].to(call.dtype)
            grad_score = grad_score + call.unfold(grad_out @ value_block.mT)
        if grad_flow is not None and call.influence is not None:
            if sums.influence is not None:
                # Per head first: shorter sums, smaller errors.
                _add(sums.influence, batch, (grad_flow.mT @ prob).sum(1), (..., keys))
            marks = of_batch(call.influence, batch)[:, None, :, keys].to(call.dtype)
            grad_score = grad_score + grad_flow @ marks
        grad_score = (grad_score * prob).masked_fill_(hidden, 0.0)
        if sums.key_bias is not None:
            _add(sums.key_bias, batch, grad_score.sum(2), (..., keys))
        if sums.attn_bias is not None:
            _add(sums.attn_bias, batch, grad_score, (..., rows, keys))
        if slope is not None:
            slope = slope.masked_fill_(hidden, 0.0)
        _add_dot_gradients(call, sums, query_block, grad_score, slope, batch, rows, keys)


def _normalisers(
    call: ChunkedCall, query_block: Tensor, lse: Tensor, batch: slice, rows: slice
) -> tuple[Tensor, Tensor]:
    """Find what turns the recomputed scores of a block of rows into probabilities.

    `lse` was rounded after scores that may have come out a few ulps apart (another kernel, another
    order), and an error of lse is a relative error of every probability of its row. So the
    exponentials are summed once more: the sum is near 1, and dividing by it cancels that error.
    """
    # exp(score - inf) = 0: a row that sees nothing has no gradient.
    lse_block = saturated(lse[batch, :, rows, None], call.dtype)
    lse_block = lse_block.masked_fill(lse_block == -torch.inf, torch.inf)
    prob_sum = torch.zeros_like(lse_block)
    if call.sinks is not None:
        prob_sum += _prob_sink(call.sinks, lse_block)
    for keys in call.key_blocks(rows):
        score, _ = call.score(query_block, batch, rows, keys)
        prob_sum += score.sub_(lse_block).exp_().sum(-1, keepdim=True)
    return lse_block, prob_sum.masked_fill_(prob_sum == 0.0, 1.0)


def _prob_sink(sinks: Tensor, lse: Tensor) -> Tensor:
    return torch.exp(saturated(sinks, lse.dtype).to(lse.dtype)[:, None, None] - lse)


def _add_dot_gradients(
    call: ChunkedCall,
    sums: _GradientSums,
    query_block: Tensor,
    grad_score: Tensor,
    slope: Tensor | None,
    batch: slice,
    rows: slice,
    keys: slice,
) -> None:
    """Carry the gradient of the scores of one block back to query and key."""
    if sums.query is None and sums.key is None:
        return
    grad_dot = grad_score if slope is None else grad_score * slope
    grad_dot = call.fold(grad_dot) * call.factor
    if sums.key is not None:
        sums.key[batch, :, keys] += grad_dot.mT @ _finite(query_block)
    if sums.query is not None:
        key_block = _finite(call.key[batch, :, keys].to(call.dtype))
        sums.query[batch, :, rows] += call.unfold(grad_dot @ key_block)


def _finite(operand: Tensor) -> Tensor:
    """Replace NaN and inf by 0; a row that sees them has scores that are not finite anyway."""
    return operand.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _add(total: Tensor, batch: slice, part: Tensor, index: tuple[Any, ...]) -> None:
    """Add `part` to `total` at `index`, summed over the dimensions in which `total` broadcasts."""
    if total.shape[0] == 1:
        part = part.sum(0, keepdim=True)
    if total.shape[1] == 1:
        part = part.sum(1, keepdim=True)
    of_batch(total, batch)[index] += part
