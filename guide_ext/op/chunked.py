# SPDX-License-Identifier: MIT
"""Biased attention in plain PyTorch, block by block: any device, any float dtype, O(n) memory.

This serves every device and dtype that has no kernel of its own; `chunked_backward` does the same
for the gradients, of which the CPU has a compiled kernel. Query rows and keys are cut into blocks
so that no temporary exceeds `SCRATCH_ELEMENTS`; the softmax runs online over the key blocks. The
heads that share a key/value head are folded into the rows of one matrix product, so keys and values
are never expanded. Everything is accumulated in float32 (float64 for float64 inputs), in a fixed
order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from guide_ext.op.call import AttentionCall

SCRATCH_ELEMENTS = 1 << 22
MAX_BLOCK_K = 512
MAX_BLOCK_Q = 512

# Magnitude at which biases saturate, by the dtype of the scores: just below ln(2) times the largest
# number, the limit of kernels whose scores are in bits. The limit is theirs because the backward
# pass compares scores computed here with their lse. A number of few digits is the same in every
# dtype that can hold it.
_LARGEST_BIAS = {torch.float32: 1.375 * 2.0**127, torch.float64: 1.375 * 2.0**1023}


@dataclass(frozen=True)
class ChunkedCall(AttentionCall):
    """A call that has passed every check, and how it is cut into blocks."""

    def row_blocks(self) -> Iterator[tuple[slice, slice]]:
        """Cut the output into (batch slice, row slice) blocks."""
        batch, num_heads, seqlen_q, _ = self.query.shape
        num_kv_heads, seqlen_k = self.key.shape[1:3]
        keys, dim = min(seqlen_k, MAX_BLOCK_K), max(self.query.shape[3], self.value.shape[3])
        per_row = num_heads * max(keys, dim)
        rows = min(seqlen_q, MAX_BLOCK_Q, max(1, SCRATCH_ELEMENTS // per_row))
        # A block of keys in the dtype of the accumulators counts too: one row reads it whole.
        per_batch = max(1, per_row * rows, num_kv_heads * keys * dim)
        batches = max(1, SCRATCH_ELEMENTS // per_batch)
        for batch_begin in range(0, batch, batches):
            for row_begin in range(0, seqlen_q, max(1, rows)):
                yield (
                    slice(batch_begin, min(batch_begin + batches, batch)),
                    slice(row_begin, min(row_begin + rows, seqlen_q)),
                )

    def key_blocks(self, rows: slice) -> Iterator[slice]:
        """Cut the keys into blocks; leave out those that no row of the block can see.

        With a `q_start` tensor the limits are known on the device alone: reading them would cost a
        synchronisation, so every block is visited and masked.
        """
        seqlen_k = self.key.shape[2]
        begin, end = 0, seqlen_k
        if self.q_start is None:
            offset = seqlen_k - self.query.shape[2]
            right = self._right_limit()
            if self.window_left >= 0:
                begin = max(0, offset + rows.start - self.window_left)
            if right is not None:
                end = min(seqlen_k, offset + rows.stop + right)
        # Blocks lie on a fixed grid, so a skipped block changes no bit of the others.
        for block_begin in range(begin - begin % MAX_BLOCK_K, end, MAX_BLOCK_K):
            yield slice(block_begin, min(block_begin + MAX_BLOCK_K, seqlen_k))

    def score(
        self, query_block: Tensor, batch: slice, rows: slice, keys: slice
    ) -> tuple[Tensor, Tensor | None]:
        """Score one block.

        Args:
            query_block: Folded rows, ``[batches, num_kv_heads, group_size * rows, head_dim]``.
            batch: Batch entries of the block.
            rows: Query rows of the block.
            keys: Keys of the block.

        Returns:
            Scores ``[batches, num_heads, rows, keys]``, -inf where a key is not visible, and
            the derivative of the soft-cap at each (None without soft-cap).

        """
        key_block = self.key[batch, :, keys].to(self.dtype)
        score = (query_block @ key_block.mT).mul_(self.factor)
        score = score.view(score.shape[0], self.num_heads, -1, score.shape[3])
        slope = None
        if self.softcap:
            capped = score.div_(self.softcap).tanh_()
            slope = 1.0 - capped.square()
            score = capped.mul_(self.softcap)
        if self.key_bias is not None:
            _add_bias(score, of_batch(self.key_bias, batch)[:, :, None, keys])
        if self.attn_bias is not None:
            _add_bias(score, of_batch(self.attn_bias, batch)[:, :, rows, keys])
        hidden = self._hidden(batch, rows, keys)
        return (score if hidden is None else score.masked_fill_(hidden, -torch.inf)), slope

    def _right_limit(self) -> int | None:
        """Keys visible to the right of a row's own position; None without a limit."""
        if self.is_causal:
            return 0
        return self.window_right if self.window_right >= 0 else None

    def _hidden(self, batch: slice, rows: slice, keys: slice) -> Tensor | None:
        """Mark the keys outside of the causal and window limits; None when there is no limit."""
        right = self._right_limit()
        if right is None and self.window_left < 0:
            return None
        device = self.query.device
        row = torch.arange(rows.start, rows.stop, device=device)[:, None]
        if self.q_start is None:
            row = row + (self.key.shape[2] - self.query.shape[2])
        else:
            row = row + of_batch(self.q_start, batch).long().view(-1, 1, 1, 1)
        # A difference of positions is compared, so that no window can overflow.
        ahead = torch.arange(keys.start, keys.stop, device=device) - row
        hidden = ahead < -self.window_left if self.window_left >= 0 else None
        if right is None:
            return hidden
        return ahead > right if hidden is None else hidden.logical_or_(ahead > right)

    def fold(self, tensor: Tensor) -> Tensor:
        """Stack the heads of a group: ``[b, num_heads, r, d]`` to ``[b, num_kv_heads, g*r, d]``."""
        batch, num_heads, rows, dim = tensor.shape
        num_kv_heads = self.key.shape[1]
        return tensor.to(self.dtype).reshape(
            batch, num_kv_heads, num_heads // num_kv_heads * rows, dim
        )

    def unfold(self, tensor: Tensor) -> Tensor:
        """Undo `fold`."""
        batch, _, _, dim = tensor.shape
        return tensor.reshape(batch, self.num_heads, -1, dim)


def allocate_outputs(call: AttentionCall) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate (out, influence_out, lse) with the strides that every backend returns."""
    query, dtype = call.query, call.dtype
    batch, num_heads, seqlen_q, _ = query.shape
    channels = 0 if call.influence is None else call.influence.shape[1]
    dim = call.value.shape[3]
    # Memory order batch, seqlen_q, num_heads, head_dim_v. Not the transpose of another tensor: a
    # view that a custom op returns cannot be changed in place under autograd.
    out = query.new_empty_strided(
        (batch, num_heads, seqlen_q, dim), (seqlen_q * num_heads * dim, dim, num_heads * dim, 1)
    )
    influence_out = query.new_empty(batch, channels, num_heads, seqlen_q, dtype=dtype)
    return out, influence_out, query.new_empty(batch, num_heads, seqlen_q, dtype=dtype)


def forward(call: ChunkedCall) -> tuple[Tensor, Tensor, Tensor]:
    """Compute (out, influence_out, lse)."""
    outputs = allocate_outputs(call)
    out, influence_out, lse = outputs
    for batch, rows in call.row_blocks():
        out_block, influence_block, lse_block = _forward_rows(call, batch, rows)
        out[batch, :, rows] = out_block
        lse[batch, :, rows] = lse_block
        if influence_block is not None:
            influence_out[batch, :, :, rows] = influence_block
    return outputs


def _forward_rows(
    call: ChunkedCall, batch: slice, rows: slice
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Run the online softmax over all keys for one block of rows."""
    query_block = call.fold(call.query[batch, :, rows])
    batches, num_rows = batch.stop - batch.start, rows.stop - rows.start
    row_max = query_block.new_full((batches, call.num_heads, num_rows, 1), -torch.inf)
    row_sum = torch.zeros_like(row_max)
    out = query_block.new_zeros(batches, call.num_heads, num_rows, call.value.shape[3])
    marks, influence_out = None, None
    if call.influence is not None:
        marks = of_batch(call.influence, batch).to(call.dtype).mT
        influence_out = out.new_zeros(batches, call.num_heads, num_rows, marks.shape[2])

    for keys in call.key_blocks(rows):
        score, _ = call.score(query_block, batch, rows, keys)
        new_max = torch.maximum(row_max, score.amax(-1, keepdim=True))
        # A row that has seen nothing yet keeps -inf as its maximum: -inf - (-inf) would be NaN.
        shift = new_max.masked_fill(new_max == -torch.inf, 0.0)
        prob = score.sub_(shift).exp_()
        decay = torch.exp(row_max - shift)
        row_max = new_max
        row_sum = row_sum * decay + prob.sum(-1, keepdim=True)
        value_block = call.value[batch, :, keys].to(call.dtype)
        out = out * decay + call.unfold(call.fold(prob) @ value_block)
        if marks is not None and influence_out is not None:
            flow = prob.flatten(1, 2) @ marks[:, keys]
            influence_out = influence_out * decay + flow.view_as(influence_out)

    sees_nothing = row_max == -torch.inf
    if call.sinks is not None:
        sink = saturated(call.sinks, call.dtype).to(call.dtype)[:, None, None]
        new_max = torch.maximum(row_max, sink).masked_fill(sees_nothing, 0.0)
        decay = torch.exp(row_max - new_max)
        row_sum = row_sum * decay + torch.exp(sink - new_max)
        out = out * decay
        influence_out = None if influence_out is None else influence_out * decay
        row_max = new_max
    lse = (row_max + row_sum.log()).masked_fill_(sees_nothing, -torch.inf)
    row_sum = row_sum.masked_fill_(sees_nothing, 1.0)
    if influence_out is not None:
        influence_out = (influence_out / row_sum).permute(0, 3, 1, 2)
    return out / row_sum, influence_out, lse.squeeze(-1)


def of_batch(tensor: Tensor, batch: slice) -> Tensor:
    """Take the batch entries of a tensor that may have one entry for all."""
    return tensor if tensor.shape[0] == 1 else tensor[batch]


def saturated(bias: Tensor, dtype: torch.dtype) -> Tensor:
    """Clamp finite biases, sinks or lse to what scores of `dtype` may hold; infinite ones stay."""
    largest = _LARGEST_BIAS[dtype]
    if torch.finfo(bias.dtype).max <= largest:
        return bias
    return torch.where(bias.isinf(), bias, bias.clamp(-largest, largest))


def _add_bias(score: Tensor, bias: Tensor) -> None:
    """Add a bias, or hide what a mask hides, in place."""
    if bias.dtype == torch.bool:
        score.masked_fill_(~bias, -torch.inf)
    else:
        # -inf hides a key even where its dot product is NaN or infinite.
        score.add_(saturated(bias, score.dtype)).masked_fill_(bias == -torch.inf, -torch.inf)
