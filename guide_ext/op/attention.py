# SPDX-License-Identifier: MIT
"""The public functions of the op: `biased_attention` and `explain_dispatch`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch._C import _len_torch_dispatch_stack
from torch.compiler import is_dynamo_compiling
from torch.overrides import has_torch_function

from guide_ext.op import dispatch, registration
from guide_ext.op.argument_types import check_types
from guide_ext.op.call import AttentionCall
from guide_ext.op.checks import check_arguments

_SHORTHAND_DIMS = 2  # [1 or batch, seqlen_k]


def biased_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_bias: Tensor | None = None,
    influence: Tensor | None = None,
    attn_bias: Tensor | None = None,
    sinks: Tensor | None = None,
    q_start: Tensor | None = None,
    *,
    is_causal: bool = False,
    window_left: int = -1,
    window_right: int = -1,
    scale: float | None = None,
    softcap: float = 0,  # no float: torch.compile would make a symbol of it, and compile twice
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention with a bias on every key, which also sums up what marked keys contribute.

    One pass over the keys, O(seqlen) memory, computes for row ``i``, in this order::

        score_k = scale * query_i . key_k                   (softcap * tanh(. / softcap) if softcap)
        score_k = score_k + key_bias_k + attn_bias_k
        visible   k <= q_start + i (is_causal), q_start + i - window_left <= k,
                  k <= q_start + i + window_right, attn_bias True
        prob    = softmax of score over the visible keys, exp(sink) in the denominator
        out = sum_k prob_k * value_k,  influence_out = sum_k prob_k * influence_k

    Scores, softmax, bias, influence and lse are float32 whatever the operands are; for float64
    operands all of it is float64, and ``key_bias`` and ``influence`` may be float64 too. A row that
    sees no key gives out 0, influence 0 and lse -inf. A `key_bias` of zeros gives the same bits as
    none, and two equal calls give the same bits. Values are not checked: NaN or +inf in `key_bias`
    makes the rows that see it NaN. A hidden key has weight 0 even if its dot products are NaN or
    infinite, but its `value` and `influence` must be finite: 0 times NaN is NaN. A hidden key takes
    no part in any gradient, and its own gradients are 0.

    Only -inf hides a key: a row whose keys all carry ``torch.finfo(torch.float32).min`` averages
    them. Magnitudes above 2.3e38 may saturate, as kernels may compute in bits instead of nats: such
    biases and sinks compare equal, lse is only a bound there, and the sum of `key_bias` and
    `attn_bias` of a key should stay below.

    Differentiable once, in reverse mode, with respect to every floating input; `torch.func.grad`,
    `vjp`, `jacrev` and `vmap` work too. Forward-mode and second derivatives raise
    `NotImplementedError`. Works under `torch.compile`, `torch.export`, `torch.autocast` (which
    casts query, key and value alone) and inference mode.
    Under the compiler sizes and windows may be symbols, even sizes that depend on data; `scale` and
    `softcap` are constants, as the scale of SDPA is: another value compiles again.
    Calls that no kernel takes are computed block by block in PyTorch: same results, but slower.
    `explain_dispatch` tells which implementation runs.

    Args:
        query: ``[batch, num_heads, seqlen_q, head_dim]``, bfloat16, float16, float32 or float64;
            any strides, last dimension contiguous.
        key: ``[batch, num_kv_heads, seqlen_k, head_dim]``, dtype of `query`. `num_heads` is a
            multiple of `num_kv_heads`: query head ``h`` reads key and value head
            ``h // (num_heads // num_kv_heads)``.
        value: ``[batch, num_kv_heads, seqlen_k, head_dim_v]``, dtype of `query`.
        key_bias: Added to the scores of a key, nats: +1 multiplies its odds by e, -inf hides it.
            float32, ``[1 or batch, 1 or num_heads, seqlen_k]``, or ``[1 or batch, seqlen_k]`` for
            all heads.
        influence: Number of a key in the weighted sum `influence_out`, float32,
            ``[1 or batch, channels, seqlen_k]``, or ``[1 or batch, seqlen_k]`` for one channel.
        attn_bias: ``[1 or batch, 1 or num_heads, seqlen_q, seqlen_k]``, bool (True = visible) or
            floating (added to the scores, nats). Says any mask, but is slower.
        sinks: Logits that are added to the denominator only, floating, ``[num_heads]``, nats.
        q_start: Position on the key axis of query row 0, int32, ``[1 or batch]``, on the device of
            `query` and read there, without a synchronisation. Default: ``seqlen_k - seqlen_q``, so
            that the last query stands at the last key.
        is_causal: A query sees no key to the right of its own position.
        window_left: Number of keys visible to the left of a query's position, -1 for all.
        window_right: Number of keys visible to the right of it, -1 for all.
        scale: Factor of the dot products; default ``1 / sqrt(head_dim)``.
        softcap: Bound of the scores before the biases, as in Gemma 2; 0 for none.

    Returns:
        ``out``: ``[batch, num_heads, seqlen_q, head_dim_v]``, dtype of `query`; its
        ``transpose(1, 2)`` is contiguous.
        ``influence_out``: ``[batch, channels, num_heads, seqlen_q]``, float32, per head; 0 channels
        without `influence`.
        ``lse``: ``[batch, num_heads, seqlen_q]``, float32: natural logarithm of the denominator.

    Raises:
        ValueError: If an argument has a shape, dtype, device, stride or number that the op cannot
            take: ``biased_attention: <argument> must ..., got ...``.
        TypeError: If an argument is no tensor, number or bool where it must be one.
        NotImplementedError: From forward-mode and second derivatives.

    Source:
        The bias is the one of GUIDE (attention steering by a constant added to the logits of marked
        tokens); `influence_out` is the attention term of its Influence recursion, per head.

    Example:
        >>> import torch
        >>> query, key, value = (torch.zeros(1, 2, 3, 16) for _ in range(3))
        >>> marked = torch.tensor([[0.0, 1.0, 0.0]])
        >>> out, share, lse = biased_attention(query, key, value, influence=marked)
        >>> share[0, 0, 0]
        tensor([0.3333, 0.3333, 0.3333])
        >>> bias = torch.log(torch.tensor([[1.0, 4.0, 1.0]]))
        >>> biased_attention(query, key, value, bias, marked, is_causal=True)[1][0, 0, 0]
        tensor([0.0000, 0.8000, 0.6667])

    """
    tensors = (query, key, value, key_bias, influence, attn_bias, sinks, q_start)
    if (
        is_dynamo_compiling()
        or has_torch_function(tensors)
        or _len_torch_dispatch_stack() > 0  # a mode sees no argument that is refused
        or type(is_causal) is not bool
        or type(window_left) is not int
        or type(window_right) is not int
        or (scale is not None and type(scale) is not float)
        or (type(softcap) is not int and type(softcap) is not float)
    ):
        numbers = (is_causal, window_left, window_right, scale, softcap)
        check_types("biased_attention", tensors[:3], tensors[3:], *numbers)
        result: tuple[Tensor, Tensor, Tensor] = registration.OPERATOR(
            *_with_middle_dims(tensors),
            is_causal=is_causal,
            window_left=window_left,
            window_right=window_right,
            scale=scale,
            softcap=softcap,
        )
        return result
    try:  # first: to look at every tensor costs a tenth of a small call
        if key_bias is not None or influence is not None:
            tensors = _with_middle_dims(tensors)
        return registration.call_plain(
            tensors, is_causal, window_left, window_right, scale, softcap
        )
    except Exception:
        numbers = (is_causal, window_left, window_right, scale, softcap)
        check_types("biased_attention", tensors[:3], tensors[3:], *numbers)
        raise


@dataclass(frozen=True)
class Dispatch:
    """Which kernel serves a call, and why no faster one does.

    Attributes:
        kernel: ``"cpu/avx512"``, ``"cuda/sm80"`` and the like for a compiled kernel,
            ``"chunked PyTorch"`` for the block-by-block implementation.
        reasons: What keeps the call from something faster, one sentence each; empty when nothing
            does.

    """

    kernel: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        """Give the kernel and below it the reasons, one per line."""
        return "\n  - ".join((self.kernel, *self.reasons))


def explain_dispatch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_bias: Tensor | None = None,
    influence: Tensor | None = None,
    attn_bias: Tensor | None = None,
    sinks: Tensor | None = None,
    q_start: Tensor | None = None,
    *,
    is_causal: bool = False,
    window_left: int = -1,
    window_right: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    backward: bool = False,
) -> Dispatch:
    """Say which kernel `biased_attention` would run for these arguments, and why no faster one.

    Nothing is computed. The arguments are those of `biased_attention`, autocast is not applied.

    Args:
        query: As in `biased_attention`, like all that follow.
        key: See `biased_attention`.
        value: See `biased_attention`.
        key_bias: See `biased_attention`.
        influence: See `biased_attention`.
        attn_bias: See `biased_attention`.
        sinks: See `biased_attention`.
        q_start: See `biased_attention`.
        is_causal: See `biased_attention`.
        window_left: See `biased_attention`.
        window_right: See `biased_attention`.
        scale: See `biased_attention`.
        softcap: See `biased_attention`.
        backward: Ask for the kernel of the gradients instead. Which ones are wanted,
            `requires_grad` of the tensors says.

    Returns:
        The kernel and the reasons, in words.

    Raises:
        ValueError: If `biased_attention` would raise it.
        TypeError: If `biased_attention` would raise it.

    Example:
        >>> import torch
        >>> operand = torch.zeros(1, 1, 4, 8, dtype=torch.float64)
        >>> print(explain_dispatch(operand, operand, operand).kernel)
        chunked PyTorch
        >>> print(explain_dispatch(operand, operand, operand, backward=True))
        chunked PyTorch
          - query is float64: the compiled CPU kernels take float16, bfloat16 and float32

    """
    check_types(
        "biased_attention",
        (query, key, value),
        (key_bias, influence, attn_bias, sinks, q_start),
        is_causal,
        window_left,
        window_right,
        scale,
        softcap,
    )
    call = AttentionCall(
        *_with_middle_dims((query, key, value, key_bias, influence, attn_bias, sinks, q_start)),
        is_causal=is_causal,
        window_left=window_left,
        window_right=window_right,
        scale=scale,
        softcap=softcap,
    )
    check_arguments(call)
    kernel, reasons = dispatch.choose_backward(call) if backward else dispatch.choose(call)
    if attn_bias is not None:
        reasons.append(
            "attn_bias is dense: every score reads it from memory; key_bias, is_causal, the "
            "windows and q_start say most masks without it"
        )
    limited = is_causal or window_left >= 0 or window_right >= 0
    if kernel is None and q_start is not None and limited:
        reasons.append(
            "q_start is read on the device: chunked PyTorch visits hidden blocks of keys too"
        )
    return Dispatch(kernel or "chunked PyTorch", tuple(reasons))


def _with_middle_dims(tensors: tuple[Any, ...]) -> tuple[Any, ...]:
    """Turn the shorthand [batch, seqlen_k] of key_bias and influence into [batch, 1, seqlen_k]."""
    query, key, value, key_bias, influence, *rest = tensors
    if key_bias is not None and key_bias.dim() == _SHORTHAND_DIMS:
        key_bias = key_bias.unsqueeze(1)
    if influence is not None and influence.dim() == _SHORTHAND_DIMS:
        influence = influence.unsqueeze(1)
    return (query, key, value, key_bias, influence, *rest)
