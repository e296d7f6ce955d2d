# SPDX-License-Identifier: MIT
"""Steering of encoder–decoders, which have two texts: a source that is read, a target that grows.

``guide_bias`` belongs to the source, as ``input_ids`` and ``attention_mask`` do: it is added in the
encoder's own attention and where the decoder looks at the encoder. ``guide_decoder_bias`` belongs
to the target. Which layers, of each kind, is up to ``guide_strength``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache

from guide_ext.integration.call import arguments, caches
from guide_ext.integration.call.arguments import DECODER_BIAS, DECODER_SEED
from guide_ext.integration.call.frame import Frame, current, pop, push

# What encoders read, by the names of the arguments.
_FIRST = ("input_ids", "inputs_embeds", "input_features", "input_values", "inputs",
          "pixel_values", "flattened_patches")  # fmt: skip
_TARGETS = ("decoder_input_ids", "decoder_inputs_embeds")


def refuse_others(given: Mapping[str, Any]) -> None:
    """Refuse steering arguments that encoder–decoders do not have.

    Raises:
        ValueError: If ``guide_share`` is given, or ``guide_decoder_seed`` without ``guide_seed``.

    """
    if given.get("guide_share") is not None:
        raise ValueError(
            "guide_share must be left out in an encoder–decoder, got a "
            f"{type(given['guide_share']).__name__}; give the marked text a guide_bias instead"
        )
    if given.get(DECODER_SEED) is not None and given.get("guide_seed") is None:
        raise ValueError(
            f"{DECODER_SEED} must come with guide_seed, whose groups it has, got None; put 0 where "
            "the source has no mark"
        )


def begin_call(
    frame: Frame,
    cache_argument: str | None,
    named: Mapping[str, Any],
    *,
    bias: object,
    decoder_bias: object,
    strength: object,
) -> None:
    """Check the steering of one forward call, and put it into the frame of the call.

    Args:
        frame: The frame.
        cache_argument: What the model calls its cache.
        named: Arguments of the call, by name, without the steering.
        bias: ``guide_bias``, or None.
        decoder_bias: ``guide_decoder_bias``, or None. If the model makes the target of ``labels``
            or of the source, by moving them one token to the right, the bias moves with it.
        strength: ``guide_strength``, or None.

    Raises:
        ValueError: If an argument does not fit the input, or nothing tells under which bias a
            given ``encoder_outputs`` or a given cache was made.

    """
    arguments.check_own_mask(named.get("attention_mask"))
    arguments.check_own_mask(named.get("decoder_attention_mask"))
    caches.check_cache(cache_argument, named)
    cache = caches.cache_of(cache_argument, named)
    frame.first_query = caches.seen_tokens(cache)
    if bias is not None:
        source = source_of(named)
        frame.source_bias = arguments.check_bias(bias, source[0])
        if source[1] is not None:
            arguments.check_source_length(frame.source_bias, source[1])
        frame.encoder_ran = named.get("encoder_outputs") is None
        outer = frame.outer
        in_generate = outer is not None and outer.encoder_ran and outer.configs is frame.configs
        if not in_generate:
            _check_seen(cache, frame.source_bias, strength)
        if not frame.encoder_ran and not in_generate:
            raise ValueError(
                "encoder_outputs must be left out with guide_bias, so that the encoder runs under "
                "the bias, too; got some of an unknown call"
            )
    else:
        refuse_other_source(cache_argument, named)
    if decoder_bias is not None:
        rows, tokens, is_shifted = _target_of(named)
        frame.bias = arguments.check_bias(decoder_bias, rows, DECODER_BIAS)
        arguments.check_tokens(frame.bias, tokens, frame.first_query, DECODER_BIAS)
        if is_shifted:
            frame.bias = F.pad(frame.bias, (1, 0))[:, :-1]


def first_token(setting: Callable[[str], Any]) -> Any:
    """Return the token that every text of a decoder begins with, as `generate()` finds it.

    Args:
        setting: Returns a setting of the generation by its name.

    """
    found = (setting(name) for name in ("decoder_start_token_id", "bos_token_id"))
    return next((token for token in found if token is not None), None)


def note_source(output: object, bias: Tensor, strength: Tensor | None) -> None:
    """Note on the cache that a model returned under which bias the source was read."""
    parts = output.values() if isinstance(output, Mapping) else output
    for part in parts if isinstance(parts, Iterable) else ():
        if isinstance(part, Cache):
            part._guide_source = (bias, strength)


def refuse_other_source(cache_argument: str | None, named: Mapping[str, Any]) -> None:
    """Refuse to go on without a bias on the source behind a source that was read under one.

    Raises:
        ValueError: If the cache of the call holds such a source.

    """
    cache = caches.cache_of(cache_argument, named)
    if getattr(cache, "_guide_source", None) is not None and any(
        getattr(cache, "is_updated", {}).values()
    ):
        raise ValueError(
            "guide_bias must be given with a cache whose source was read under one, got none; "
            "pass the same guide_bias, or begin with a new cache"
        )


def _check_seen(cache: Any, bias: Tensor, strength: object) -> None:
    """Refuse a cache that holds a source which was read without the bias, or under another one."""
    if not any(getattr(cache, "is_updated", {}).values()):
        return
    before, strength_before = getattr(cache, "_guide_source", (None, None))
    if not (_equal(before, bias) and _equal(strength_before, strength)):
        raise ValueError(
            "the cache must hold a source that was read under the same guide_bias and "
            "guide_strength, got one that was read without, or under others; begin with a new cache"
        )


def _equal(one: object, other: object) -> bool:
    if one is None or other is None:
        return one is other
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.shape != other.shape:
        return False
    return bool((one == other.to(one.device)).all())


def check_generation(
    model: Any,
    kwargs: Mapping[str, Any],
    inputs: object,
    start_token: object,
    setting: Callable[[str], Any],
) -> tuple[Tensor | None, Tensor | None]:
    """Check the arguments of a steered or measured ``generate()``, and return both biases.

    Args:
        model: An enabled encoder–decoder.
        kwargs: Arguments of ``generate()``.
        inputs: Its first argument, or None.
        start_token: The token that the model begins every target with, if there is one; a number,
            or one for each row.
        setting: Returns a setting of the generation by its name.

    Raises:
        ValueError: If an argument does not fit the input, or is one with which steering would not
            reach every layer.

    """
    given = {**kwargs, **({} if inputs is None else {model.main_input_name: inputs})}
    for name in ("encoder_outputs", *caches.CACHE_ARGUMENTS, "assistant_model"):
        if given.get(name) is not None:
            raise ValueError(
                f"{name} must be left out in generate() of a steered encoder–decoder, got a "
                f"{type(given[name]).__name__}, of which is not known how it was steered"
            )
    for name, allowed in (
        ("cache_implementation", (None, "dynamic", "dynamic_full")),
        ("assistant_early_exit", (None,)),
        ("prefill_chunk_size", (None,)),
    ):
        if (value := setting(name)) not in allowed:
            raise ValueError(
                f"{name} must be {' or '.join(map(repr, allowed))} to steer an encoder–decoder, "
                f"got {value!r}"
            )
    bias, decoder_bias = given.get("guide_bias"), given.get(DECODER_BIAS)
    rows, positions = source_of(given)
    if bias is not None:
        bias = arguments.check_bias(bias, rows)
        if positions is not None:
            arguments.check_source_length(bias, positions)
    seed, decoder_seed = given.get("guide_seed"), given.get(DECODER_SEED)
    if seed is not None:
        marked = arguments.check_guide_seed(seed, rows)
        if positions is not None:
            arguments.check_source_length(marked, positions, "guide_seed")
    if decoder_bias is not None:
        target = _check_target(given, start_token, DECODER_BIAS)
        decoder_bias = arguments.check_bias(decoder_bias, target.shape[0], DECODER_BIAS)
        arguments.check_tokens(decoder_bias, target.shape[1], 0, DECODER_BIAS)
    if decoder_seed is not None or (seed is not None and "decoder_input_ids" in given):
        name = "guide_seed" if decoder_seed is None else DECODER_SEED
        target = _check_target(given, start_token, name)
        if decoder_seed is not None:
            marked = arguments.check_guide_seed(decoder_seed, target.shape[0], DECODER_SEED)
            if marked.shape[2] != target.shape[1]:
                raise ValueError(
                    f"{DECODER_SEED} must be [batch, groups, tokens] with {target.shape[1]} "
                    f"tokens, as decoder_input_ids has, got shape {list(marked.shape)}; put 0 "
                    "where nothing is marked"
                )
    return bias, decoder_bias


def _check_target(given: Mapping[str, Any], start_token: object, name: str) -> Tensor:
    """Return what the decoder's texts begin with, if the argument `name` counts its tokens right.

    Raises:
        ValueError: If it would not.

    """
    target = given.get("decoder_input_ids")
    if not isinstance(target, Tensor) or target.dim() != 2:
        raise ValueError(
            f"{name} must come with decoder_input_ids [batch, tokens], whose tokens it "
            f"counts, got {type(target).__name__}"
        )
    arguments.check_left_padding(given.get("decoder_attention_mask"))
    # Otherwise transformers would put it there, and every mark would be one token off.
    if start_token is not None:
        first = torch.as_tensor(start_token, device=target.device).flatten()
        if len(first) not in (1, len(target)) or bool((target[:, 0] != first).any()):
            raise ValueError(
                f"decoder_input_ids must begin with the token {first.tolist()}, as the model's "
                f"texts do, so that {name} counts its tokens right; put it in front, unmarked"
            )
    return target


def source_of(named: Mapping[str, Any]) -> tuple[int, int | None]:
    """Return rows and positions of the source; None if only the encoder knows how many."""
    outputs = named.get("encoder_outputs")
    if outputs is not None:
        states = outputs[0]
        return states.shape[0], states.shape[1]
    for name in _FIRST:
        value = named.get(name)
        if isinstance(value, Tensor):
            is_text = name in ("input_ids", "inputs_embeds")
            return value.shape[0], value.shape[1] if is_text else None
    raise ValueError(
        "guide_bias and guide_seed must come with what the encoder reads, got no such argument"
    )


def target_that_is_given(named: Mapping[str, Any]) -> tuple[int, int]:
    """Return rows and tokens of the target of a call that measures Influence.

    Raises:
        ValueError: If the model makes the target itself, of other arguments.

    """
    rows, tokens, is_shifted = _target_of(named)
    if is_shifted:
        raise ValueError(
            "decoder_input_ids must be given to measure Influence, got labels or none, of which "
            "the model makes other tokens"
        )
    return rows, tokens


def _target_of(named: Mapping[str, Any]) -> tuple[int, int, bool]:
    """Return rows and tokens of the target, and whether the model moves what is given right."""
    for name in (*_TARGETS, "labels", "input_ids"):  # BART reads the source, if there is no other
        value = named.get(name)
        if isinstance(value, Tensor):
            return value.shape[0], value.shape[1], name not in _TARGETS
    raise ValueError(f"{DECODER_BIAS} must come with decoder_input_ids, got none")


def before_encoder(
    encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Take out the steering that `generate()` hands to an encoder; its frame has it already."""
    frame = current()
    given = [name for name in kwargs if name.startswith("guide_") and kwargs[name] is not None]
    in_generate = frame is not None and frame.is_generation and frame.has_encoder
    if in_generate and frame is not None and (frame.biased_layers or frame.measured_layers):
        push(Frame(is_nested=True))  # a call of somebody else's: generate() has made its own
    if given and not in_generate:
        raise ValueError(
            f"{given[0]} must go to the whole encoder–decoder, got a call of its encoder alone, "
            "whose output does not say how it was steered; call the model"
        )
    return args, {name: value for name, value in kwargs.items() if not name.startswith("guide_")}


def after_encoder(encoder: nn.Module, args: tuple[Any, ...], output: object) -> None:
    """Undo what `before_encoder` did for a call of somebody else's."""
    frame = current()
    if frame is not None and frame.is_nested:
        pop()


def unsteered_layers(frame: Frame, kinds: tuple[str, ...]) -> set[int]:
    """Return the layers of an encoder–decoder whose text has no bias in this call."""
    return {
        index
        for index, kind in enumerate(kinds)
        if (frame.bias if kind == "decoder" else frame.source_bias) is None
    }
