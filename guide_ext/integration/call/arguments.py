# SPDX-License-Identifier: MIT
"""Checks of what `forward()` and `generate()` of an enabled model are given."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

# The keyword arguments that enable() adds to a model.
STEERING_ARGUMENTS = ("guide_bias", "guide_strength", "guide_share", "guide_seed")
# Encoder–decoders have two more, for the text that the decoder reads and writes.
DECODER_BIAS = "guide_decoder_bias"
DECODER_SEED = "guide_decoder_seed"
# Ours alone: the requests of one call of continuous batching, see `packed.PackedBatch`.
PACKED_ARGUMENT = "guide_packed"
# The attribute in which the `forward` of an enabled model keeps its parameter names, in order.
NAMES_ATTRIBUTE = "_guide_names"


def _refuse_tangent(name: str, tensor: Tensor) -> None:
    """Refuse forward-mode derivatives: a mask hands on no tangent, so they would be zeros."""
    if torch.compiler.is_dynamo_compiling() or forward_ad._current_level < 0:
        return
    if forward_ad.unpack_dual(tensor).tangent is not None:  # type: ignore[no-untyped-call]
        raise NotImplementedError(
            f"{name} must not have a tangent: forward-mode derivatives (torch.func.jvp, jacfwd, "
            "torch.autograd.forward_ad) are not implemented; use reverse mode for guide_strength "
            "(backward(), torch.func.grad, vjp, jacrev)"
        )


def check_bias(bias: object, rows: int, name: str = "guide_bias") -> Tensor:
    """Check ``guide_bias`` for a batch of `rows` and return it as float32.

    Args:
        bias: The argument.
        rows: Rows of the batch.
        name: Its name, if it is another one.

    Raises:
        ValueError: If it is not a floating tensor ``[rows, tokens]``, or requires a gradient.
        NotImplementedError: If it has a tangent.

    """
    if not isinstance(bias, Tensor) or not bias.is_floating_point():
        raise ValueError(
            f"{name} must be a floating-point tensor [batch, tokens] of nats, got {_describe(bias)}"
        )
    if bias.dim() != 2 or bias.shape[0] != rows:
        raise ValueError(
            f"{name} must be [batch, tokens] with {rows} row(s), as the input has, "
            f"got shape {list(bias.shape)}; guide_ext.integration.encode() makes it for a batch"
        )
    _refuse_tangent(name, bias)
    if bias.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name} must not require a gradient: the mask that carries it has none; pass "
            f"{name}.detach(), or call guide_ext.biased_attention yourself to learn a bias"
        )
    return bias.detach().to(torch.float32)


def check_source_length(values: Tensor, tokens: int, name: str = "guide_bias") -> None:
    """Check that what is said of a source has one number for each of its `tokens`.

    Args:
        values: The argument, or a part of it; its last dimension counts.
        tokens: Positions of the source.
        name: Its name, if it is another one.

    Raises:
        ValueError: If it has more or fewer.

    """
    if values.shape[-1] != tokens:
        raise ValueError(
            f"{name} must have one number for each of the {tokens} positions that the encoder "
            f"gives to the decoder, got shape {list(values.shape)}; put 0 where nothing is marked"
        )


def check_strength(strength: object, rows: int, layers: int, heads: int) -> Tensor:
    """Check ``guide_strength`` for a model of `layers` × `heads` and return it as float32.

    It comes without its gradient, which goes another way, see `Frame.learned`.

    Raises:
        ValueError: If it is not a floating tensor ``[rows, layers, heads]``.
        NotImplementedError: If it has a tangent.

    """
    if not isinstance(strength, Tensor) or not strength.is_floating_point():
        raise ValueError(
            "guide_strength must be a floating-point tensor [batch, layers, heads], "
            f"got {_describe(strength)}"
        )
    if list(strength.shape) != [rows, layers, heads]:
        raise ValueError(
            f"guide_strength must be [batch, layers, heads] = [{rows}, {layers}, {heads}], "
            f"got shape {list(strength.shape)}"
        )
    _refuse_tangent("guide_strength", strength)
    return strength.detach().to(torch.float32)


def bias_beside(share: object, bias: Any) -> Any:
    """Return the bias to use; zeros if a share came without a bias.

    Raises:
        ValueError: If the share is not a floating tensor ``[rows, tokens]``.

    """
    if share is None or bias is not None:
        return bias
    share = check_share(share, None)
    return torch.zeros_like(share)


def check_share(share: object, bias: object) -> Tensor:
    """Check ``guide_share`` and return it as float32.

    Raises:
        ValueError: If it is not a floating tensor ``[rows, tokens]``, or has not the shape of
            `bias`, if that is a tensor.

    """
    if not isinstance(share, Tensor) or not share.is_floating_point():
        raise ValueError(
            "guide_share must be a floating-point tensor [batch, tokens], the wanted share on "
            f"marked tokens and 0 elsewhere, got {_describe(share)}"
        )
    shape = list(bias.shape) if isinstance(bias, Tensor) else list(share.shape)
    if share.dim() != 2 or list(share.shape) != shape:
        raise ValueError(
            f"guide_share must be [batch, tokens], as guide_bias {shape}, got shape "
            f"{list(share.shape)}"
        )
    _refuse_tangent("guide_share", share)
    return share.detach().to(torch.float32)


def check_share_values(share: Tensor | None) -> None:
    """Check the numbers of a share; this waits for the device once.

    Raises:
        ValueError: If a number is not in [0, 1), or a row has several numbers besides 0.

    """
    if share is None or share.numel() == 0:
        return
    largest = share.amax(1, keepdim=True)
    wrong = ~((share == 0) | (share == largest)) | ~((share >= 0) & (share < 1))
    if bool(wrong.any()):
        raise ValueError(
            "guide_share must be one number from 0 to below 1 on all marked tokens of a row, and 0 "
            f"on the others, got {share[wrong][0].item():g}"
        )


def check_guide_seed(seed: object, rows: int, name: str = "guide_seed") -> Tensor:
    """Check ``guide_seed`` for a batch of `rows`.

    Args:
        seed: The argument.
        rows: Rows of the batch.
        name: Its name, if it is another one.

    Raises:
        ValueError: If it is not a tensor of numbers or bools, ``[rows, groups, tokens]``.

    """
    if not isinstance(seed, Tensor) or seed.is_complex():
        raise ValueError(
            f"{name} must be a tensor [batch, groups, tokens], 1 on the tokens of a group, "
            f"got {_describe(seed)}"
        )
    if seed.dim() != 3 or seed.shape[0] != rows or seed.shape[1] == 0:
        raise ValueError(
            f"{name} must be [batch, groups, tokens] with {rows} row(s), as the input has, "
            f"and a group or more, got shape {list(seed.shape)}"
        )
    return seed.detach()


def check_values(bias: Tensor, strength: Tensor | None) -> None:
    """Check the numbers of bias and strength; this waits for the device once.

    `generate()` checks them once, for the prompt. A call of `forward()` from elsewhere checks them
    every time, because nothing tells which numbers were checked before.

    Raises:
        ValueError: If a bias is NaN or +inf, a strength is not finite, or their product is more
            than float32 can hold.

    """
    wrong = [torch.isnan(bias).any() | torch.isposinf(bias).any()]
    if strength is not None and bias.numel() and strength.numel():
        strength = strength.to(bias.device)
        wrong.append(~torch.isfinite(strength).all())
        finite = bias.masked_fill(torch.isinf(bias), 0.0)  # -inf hides at any strength
        largest = finite.abs().amax(1) * strength.abs().amax((1, 2))
        wrong.append(~torch.isfinite(largest).all())
    bad_bias, bad_strength, bad_product = (*torch.stack(wrong).tolist(), False, False)[:3]
    if bad_bias:
        raise ValueError("guide_bias must be finite, or -inf to hide a token, got NaN or +inf")
    if bad_strength:
        raise ValueError("guide_strength must be finite, got NaN or inf")
    if bad_product:
        raise ValueError(
            "guide_bias times guide_strength must be finite nats in float32, got an overflow; "
            "make one of them smaller"
        )


def check_companions(bias: object, strength: object, unknown: list[str]) -> None:
    """Check which steering arguments are given.

    Args:
        bias: ``guide_bias``.
        strength: ``guide_strength``.
        unknown: Names that begin like a steering argument and are none.

    Raises:
        ValueError: If there is an unknown name, or a strength without a bias.

    """
    if unknown:
        raise ValueError(
            f"steering arguments must be {', '.join(STEERING_ARGUMENTS[:-1])} or "
            f"{STEERING_ARGUMENTS[-1]}, "
            f"got {', '.join(unknown)}"
        )
    if strength is not None and bias is None:
        raise ValueError("guide_strength must come with guide_bias, which it multiplies, got None")


def check_implementation(configs: tuple[Any, ...], implementation: str) -> None:
    """Refuse a model whose attention was switched after it was enabled.

    Raises:
        ValueError: If one of the configs names another attention implementation.

    """
    for config in configs:
        if config._attn_implementation != implementation:
            raise ValueError(
                f"attn_implementation must still be {implementation!r}, as enable() set it, to "
                f"steer the model, got {config._attn_implementation!r}; "
                f"call model.set_attn_implementation({implementation!r})"
            )


def check_own_mask(mask: object) -> None:
    """Refuse a finished mask, because the bias is added while the model makes its mask.

    Raises:
        ValueError: If `mask`, or one of its masks (some models take one per layer type), is not
            2-D.

    """
    for table in _flatten(mask):
        if getattr(table, "ndim", 2) != 2:
            raise ValueError(
                "attention_mask must be [batch, tokens] (1 = token, 0 = padding) when guide_bias "
                f"is given, got a {table.ndim}-D mask of shape {list(table.shape)}; "
                "add the bias to that mask yourself, or pass the 2-D one"
            )


def check_left_padding(attention_mask: Tensor | None) -> None:
    """Refuse right padding in `generate()`, where new tokens would follow the padding.

    Raises:
        ValueError: If a row has padding after a token.

    """
    if not isinstance(attention_mask, Tensor) or attention_mask.shape[1] < 2:
        return
    present = attention_mask.bool()
    if bool((present[:, :-1] & ~present[:, 1:]).any()):
        raise ValueError(
            "generate() with guide_bias must get left-padded prompts, got one with padding after a "
            "token; set tokenizer.padding_side = 'left', "
            "or use guide_ext.integration.encode()"
        )


def check_tokens(bias: Tensor, new: int, seen: int | None = 0, name: str = "guide_bias") -> None:
    """Check that the bias has one number per slot of the whole text.

    Args:
        bias: ``[batch, tokens]``.
        new: Slots of the input, padding included.
        seen: Slots that the cache holds before them; None if only the device knows and would have
            to be waited for.
        name: Name of the argument.

    Raises:
        ValueError: If the numbers are more or fewer than the slots; without `seen`, if they are
            fewer than the new slots.

    """
    if seen is None:
        if bias.shape[1] < new:
            raise ValueError(
                f"{name} must be [batch, tokens] with at least the {new} new token(s) of this "
                f"call and all that the cache holds, got shape {list(bias.shape)}"
            )
        return
    if bias.shape[1] == seen + new:
        return
    wanted = f"{name} must be [batch, tokens] = [{bias.shape[0]}, {seen + new}], aligned with"
    if not seen:
        raise ValueError(f"{wanted} the input and its padding, got shape {list(bias.shape)}")
    raise ValueError(
        f"{wanted} the whole text, {seen} token(s) in the cache and {new} new one(s), as "
        f"its attention mask is, got shape {list(bias.shape)}; put 0 where nothing is marked"
    )


def input_size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int]:
    """Return (rows, tokens) of the input of a forward call.

    Raises:
        ValueError: If there is no input, or it has no batch dimension.

    """
    first = args[0] if args else None
    for name, source, dims in (
        ("input_ids", first, 2),
        ("input_ids", kwargs.get("input_ids"), 2),
        ("inputs_embeds", kwargs.get("inputs_embeds"), 3),
    ):
        if not isinstance(source, Tensor):
            continue
        if source.dim() < dims:
            wanted = "[batch, tokens]" if dims == 2 else "[batch, tokens, features]"
            raise ValueError(
                f"{name} must be {wanted} when guide_bias is given, got shape "
                f"{list(source.shape)}; add the first dimension with [None]"
            )
        return source.shape[0], source.shape[1]
    raise ValueError("input_ids or inputs_embeds must be given with guide_bias, got neither")


def named(forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a forward call by name; each model has its own order of them."""
    if len(args) < 2:
        return kwargs
    # Dynamo cannot read the parameters of a signature that was written by hand.
    names = getattr(forward, NAMES_ATTRIBUTE, None) or tuple(inspect.signature(forward).parameters)
    return {**dict(zip(names, args, strict=False)), **kwargs}


def steering_arguments(model: Any) -> tuple[str, ...]:
    """Return the names of the keyword arguments that `enable` adds to a model."""
    has_encoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    if not has_encoder:
        return STEERING_ARGUMENTS
    return (*STEERING_ARGUMENTS, DECODER_BIAS, DECODER_SEED)


def with_steering(
    signature: inspect.Signature, names: Sequence[str] = STEERING_ARGUMENTS
) -> inspect.Signature:
    """Return the signature with the steering arguments added."""
    parameters = list(signature.parameters.values())
    rest = [p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
    named = [p for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
    own = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
    return signature.replace(parameters=[*named, *own, *rest])


def _flatten(mask: object) -> list[Any]:
    if isinstance(mask, dict):
        return [table for part in mask.values() for table in _flatten(part)]
    return [] if mask is None else [mask]


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"dtype {value.dtype}"
    return type(value).__name__
