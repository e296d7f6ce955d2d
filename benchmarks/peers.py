# SPDX-License-Identifier: MIT
"""What is timed: this package, and every way in which PyTorch offers the same or a part of it.

Whatever a peer can prepare once (masks, expanded heads, appended columns) is prepared before it is
timed, in its favour; its memory is counted.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from problems import Inputs, Problem
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from guide_ext.op.attention import biased_attention, explain_dispatch

# Bytes of a matrix or a dense mask beyond which a peer is not worth waiting for.
LARGEST_MATRIX = {"cuda": 8 << 30, "cpu": 2 << 30}
# Take no mask at all.
MASKLESS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION)
NEED_CUDA = (SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)

Results = tuple[Tensor, Tensor | None]


class UnavailableError(Exception):
    """Why an implementation cannot take a problem."""


@dataclass(frozen=True)
class Call:
    """One implementation on one problem: what it computes, and how to run it.

    `run` gives out and, with `channels`, influence_out ``[batch, channels, heads, seqlen_q]``, of
    scores and weights in float32 or, as peers do it, in the dtype of the operands. `judged_as` is
    the dtype by whose precision results are judged, where a peer does not reach that of its own.
    """

    run: Callable[[], Results]
    is_biased: bool
    channels: int
    weighs_in_float32: bool = False
    judged_as: torch.dtype | None = None


Implementations = dict[str, Callable[[Inputs], Call]]


def guide(inputs: Inputs, *, is_biased: bool = True, channels: int | None = None) -> Call:
    """Run the op of this package, by its compiled kernels.

    Args:
        inputs: Operands.
        is_biased: Whether to add the bias of the keys.
        channels: Of influence; None for those of the problem.

    """
    problem = inputs.problem
    channels = problem.channels if channels is None else channels
    key_bias = inputs.key_bias if is_biased else None
    influence = inputs.influence[:, :channels].contiguous() if channels else None
    tensors = (inputs.query, inputs.key, inputs.value, key_bias, influence, inputs.dense_bias)
    is_causal, window_left = problem.is_causal, problem.window_left
    served = explain_dispatch(*tensors, is_causal=is_causal, window_left=window_left)
    if not served.kernel.startswith(f"{inputs.query.device.type}/"):
        raise RuntimeError(f"no compiled kernel serves this call: {served}")

    def run() -> Results:
        out, influence_out, _ = biased_attention(
            *tensors, is_causal=is_causal, window_left=window_left
        )
        return out, influence_out if channels else None

    return Call(run, is_biased, channels, weighs_in_float32=True)


def sdpa(
    inputs: Inputs,
    *,
    backend: SDPBackend | None = None,
    is_biased: bool = False,
    folds_group: bool = False,
) -> Call:
    """Run SDPA; a bias or a window is a dense mask there, which holds the causal mask too.

    Args:
        inputs: Operands.
        backend: The one to use; None leaves the choice to PyTorch.
        is_biased: Whether to add the bias of the keys.
        folds_group: Whether the query heads of a group become rows of one head, so that keys and
            values are read once a group.

    """
    problem = inputs.problem
    if backend in NEED_CUDA and inputs.query.device.type != "cuda":
        raise UnavailableError("needs a GPU")
    needs_mask = is_biased or _needs_mask(problem)
    if needs_mask and backend in MASKLESS:
        raise UnavailableError(
            "takes no dense mask: SDPA has a window, a bias, and a causal mask that is not "
            "aligned to the top left as one"
        )
    mask = _dense_mask(inputs, is_biased) if needs_mask else None
    run = _attend(inputs, (inputs.query, inputs.key, inputs.value), mask, backend, folds_group)
    return Call(lambda: (run(), None), is_biased, 0)


def columns(inputs: Inputs, *, folds_group: bool = False) -> Call:
    """Run SDPA with the bias as one more column of keys and the influence as one of values.

    Both are rounded to the dtype of the operands.
    """
    problem = inputs.problem
    _refuse_channels(problem)
    scale = problem.head_dim**-0.5
    dtype, head_dim = problem.dtype, problem.head_dim

    def appended(tensor: Tensor, column: Tensor) -> Tensor:
        column = column.to(dtype).expand(-1, tensor.shape[1], -1)
        return torch.cat([tensor, column[..., None]], -1)

    query = appended(inputs.query, inputs.query.new_ones(problem.batch, 1, problem.seqlen_q))
    key = appended(inputs.key, inputs.key_bias / scale)
    value = appended(inputs.value, inputs.influence[:, :1])
    mask = _dense_mask(inputs, is_biased=False) if _needs_mask(problem) else None
    attend = _attend(inputs, (query, key, value), mask, None, folds_group, scale)

    def run() -> Results:
        out = attend()
        return out[..., :head_dim], out[..., head_dim][:, None]

    return Call(run, True, 1)


def flex(inputs: Inputs, *, channels: int = 0) -> Call:
    """Run FlexAttention, compiled, with the bias.

    Influence is one more column of values on the CPU; on a GPU, whose kernel takes a few widths
    alone, the values of a second pass.
    """
    if not inputs.problem.times_flex:
        raise UnavailableError("compiles for seconds: timed at a few sizes only")
    _refuse_channels(inputs.problem)
    if inputs.problem.has_dense_bias:
        raise UnavailableError("not timed with a dense bias, of which its blocks are not made")
    from torch.nn.attention.flex_attention import create_block_mask

    problem, bias = inputs.problem, inputs.key_bias[:, 0]
    device = inputs.query.device.type
    offset = problem.seqlen_k - problem.seqlen_q
    compiled = _compiled_flex()
    block_mask = None
    if problem.is_causal or problem.window_left >= 0:
        right = 0 if problem.is_causal else problem.seqlen_k
        left = problem.window_left if problem.window_left >= 0 else problem.seqlen_k
        block_mask = create_block_mask(
            lambda b, h, q, k: (k <= q + offset + right) & (k >= q + offset - left),
            *(None, None, problem.seqlen_q, problem.seqlen_k),
            device=device,
        )

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return score + bias[b, k]

    options = {"score_mod": score_mod, "block_mask": block_mask, "enable_gqa": True}
    width = 16  # the narrowest values that it takes, and a width that suits vectors
    marks = inputs.influence[:, :1, :, None].to(problem.dtype)
    marks = marks.expand(-1, problem.num_kv_heads, -1, width).contiguous()
    widened = torch.cat([inputs.value, marks], -1) if channels and device == "cpu" else None

    def run() -> Results:
        if widened is not None:
            both = compiled(inputs.query, inputs.key, widened, **options)
            return both[..., : problem.head_dim], both[..., problem.head_dim][:, None]
        out = compiled(inputs.query, inputs.key, inputs.value, **options)
        if not channels:
            return out, None
        return out, compiled(inputs.query, inputs.key, marks, **options)[..., 0][:, None]

    # In float32 its errors are up to four times those of naive PyTorch, where two are allowed.
    judged_as = torch.float16 if problem.dtype == torch.float32 else None
    return Call(run, True, channels, judged_as=judged_as)


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=False)
    return compiled


def eager(inputs: Inputs, *, largest_matrix: int | None = None) -> Call:
    """Do what eager models and the Influence metric do today: the whole matrix."""
    _refuse_channels(inputs.problem)
    limit = largest_matrix or LARGEST_MATRIX[inputs.query.device.type]
    if (size := 8 * inputs.problem.scores) > limit:  # scores, and weights in float32
        raise UnavailableError(f"the matrices of all heads take more than {size / 2**30:.0f} GiB")
    mask = _dense_mask(inputs, is_biased=True)
    groups = inputs.problem.group_size
    key, value = (t.repeat_interleave(groups, 1) for t in (inputs.key, inputs.value))

    def run() -> Results:
        score = inputs.query @ key.mT * inputs.query.shape[3] ** -0.5 + mask
        prob = score.softmax(-1, dtype=torch.float32)
        share = torch.einsum("bhqk,bck->bchq", prob, inputs.influence[:, :1])
        return prob.to(value.dtype) @ value, share

    return Call(run, True, 1)


def _attend(
    inputs: Inputs,
    operands: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    backend: SDPBackend | None,
    folds_group: bool,
    scale: float | None = None,
) -> Callable[[], Tensor]:
    """Bind SDPA to operands; without a mask, causal if the problem is."""
    problem = inputs.problem
    query, key, value = operands
    if folds_group:
        if problem.group_size == 1 or not problem.is_decode:
            raise UnavailableError("folding the group pays for few queries of grouped heads only")
        query = query.reshape(problem.batch, problem.num_kv_heads, -1, query.shape[-1])
        if mask is not None and mask.shape[1] > 1:  # of every head, as the query
            mask = mask.reshape(len(mask), problem.num_kv_heads, -1, problem.seqlen_k)
        elif mask is not None and mask.shape[2] > 1:
            mask = mask.repeat(1, 1, problem.group_size, 1)
    elif backend is SDPBackend.EFFICIENT_ATTENTION:  # takes no groups
        key, value = (t.repeat_interleave(problem.group_size, 1) for t in (key, value))
    options: dict[str, Any] = {
        "attn_mask": mask,
        "is_causal": problem.is_causal and problem.seqlen_q > 1 and mask is None,
        "enable_gqa": key.shape[1] != query.shape[1],
        "scale": scale,
    }
    size = (problem.batch, problem.num_heads, problem.seqlen_q, value.shape[-1])

    def run() -> Tensor:
        with sdpa_kernel(backend) if backend else contextlib.nullcontext():
            out = F.scaled_dot_product_attention(query, key, value, **options)
        return out.reshape(size) if folds_group else out

    return run


def _hides_keys(problem: Problem) -> bool:
    return (problem.is_causal and problem.seqlen_q > 1) or problem.window_left >= 0


def _needs_mask(problem: Problem) -> bool:
    """Whether SDPA's `is_causal`, which starts at the first row and key, does not say it all."""
    if problem.has_dense_bias or problem.window_left >= 0:
        return True
    return _hides_keys(problem) and problem.seqlen_q != problem.seqlen_k


def _dense_mask(inputs: Inputs, is_biased: bool) -> Tensor:
    """Sum up what is added to the scores, ``[batch or 1, heads or 1, seqlen_q, seqlen_k]``."""
    problem = inputs.problem
    heads = problem.num_heads if problem.has_dense_bias else 1
    size = problem.batch * heads * problem.seqlen_q * problem.seqlen_k * problem.dtype.itemsize
    if size > LARGEST_MATRIX[inputs.query.device.type]:
        raise UnavailableError(f"the dense mask takes {size / 2**30:.0f} GiB")
    parts = []
    if is_biased:
        parts.append(inputs.key_bias[:, :, None].to(problem.dtype))
    if inputs.dense_bias is not None:
        parts.append(inputs.dense_bias)
    if _hides_keys(problem):
        parts.append(_hidden(inputs))
    mask = functools.reduce(torch.add, parts)
    return mask.expand(-1, -1, problem.seqlen_q, -1)


def _hidden(inputs: Inputs) -> Tensor:
    """Return -inf where the causal mask or the window hides a key, else 0."""
    problem, device = inputs.problem, inputs.query.device
    keys = torch.arange(problem.seqlen_k, device=device)
    rows = torch.arange(problem.seqlen_q, device=device)[:, None]
    rows += problem.seqlen_k - problem.seqlen_q
    is_hidden = keys > rows if problem.is_causal else torch.zeros_like(keys > rows)
    if problem.window_left >= 0:
        is_hidden |= keys < rows - problem.window_left
    mask = inputs.query.new_zeros(1, 1, problem.seqlen_q, problem.seqlen_k)
    return mask.masked_fill_(is_hidden, -torch.inf)


def _refuse_channels(problem: Problem) -> None:
    if problem.channels != 1:
        raise UnavailableError("timed with one channel only")
