# SPDX-License-Identifier: MIT
"""What happens before and after each call of an enabled model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from guide_ext.integration.call import arguments, caches, reuse, source
from guide_ext.integration.call.arguments import DECODER_BIAS, DECODER_SEED, PACKED_ARGUMENT
from guide_ext.integration.call.frame import Frame, pop, push
from guide_ext.integration.influence.hooks import state_of_call, two_texts_of_call
from guide_ext.integration.influence.state import InfluenceState
from guide_ext.integration.influence.two_texts import TwoTexts
from guide_ext.integration.model.parallel import is_pipelined
from guide_ext.integration.model.state import (
    refuse_unknown_part,
    state_of,
    strength_size,
)


def before_forward(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move the steering arguments of one call into its frame."""
    findings = state_of(model).findings
    frame = Frame(
        configs=findings.configs,
        has_encoder=findings.has_encoder,
        adds_to_mask=findings.adds_to_mask,
    )
    push(frame)  # before the checks: after_forward pops it if one of them raises
    if findings.has_encoder:
        _begin_encoder_decoder(model, frame, args, kwargs)
        return args, kwargs
    packed = kwargs.pop(PACKED_ARGUMENT, None)
    if packed is not None:
        arguments.check_implementation(findings.configs, findings.implementation)
        frame.packed = packed
        kwargs["attention_mask"] = packed.masks(kwargs["input_ids"].device)
        return args, kwargs
    given = kwargs.pop("guide_bias", None)
    strength = kwargs.pop("guide_strength", None)
    share = kwargs.pop("guide_share", None)
    originals = (given, strength, share)
    given = arguments.bias_beside(share, given)
    seed = kwargs.pop("guide_seed", None)
    frame.influence = state_of_call(model, seed, args, kwargs)
    unknown = [name for name in kwargs if name.startswith("guide_")]
    arguments.check_companions(given, strength, unknown)
    named = arguments.named(model.forward, args, kwargs)
    if given is None:
        _note_carried(frame, named.get("attention_mask"))
        _begin_unsteered(model, frame, named)
        return args, kwargs
    arguments.check_own_mask(named.get("attention_mask"))
    arguments.check_implementation(findings.configs, findings.implementation)
    _refuse_lost_gradients(model, keeps_masks=findings.implementation != "guide_dense")
    rows, tokens = arguments.input_size(args, kwargs)
    bias = arguments.check_bias(given, rows)
    caches.check_cache(findings.cache_argument, named)
    cache = caches.cache_of(findings.cache_argument, named)
    if cache is not None and is_pipelined(model):
        raise ValueError(
            "a model in a pipeline must be steered without a cache, of which each process holds "
            f"the layers of its own, got a {type(cache).__name__}; pass use_cache=False, or use "
            "tensor parallelism"
        )
    frame.first_query = caches.seen_tokens(cache)
    arguments.check_tokens(bias, tokens, frame.first_query)
    if strength is not None:
        frame.learned = _learned(model, strength)
        strength = arguments.check_strength(strength, rows, *strength_size(model))
    if share is not None:
        share = arguments.check_share(share, bias)
        refuse_unknown_part(model, "guide_share")
    if torch.compiler.is_compiling():
        reuse.refuse_compiled(cache, is_steered=True)
    else:
        now = reuse.filling(bias, strength, share, *originals)
        if not _values_are_known(frame, given):
            arguments.check_values(bias, strength)
            arguments.check_share_values(share)
            reuse.go_on(cache, now)
        frame.fills = now if cache is None else None
    frame.bias, frame.strength, frame.share = bias, strength, share
    return args, kwargs


def _begin_unsteered(model: Any, frame: Frame, named: Mapping[str, Any]) -> None:
    """Refuse to go on without a bias behind tokens that were read under one.

    Finished masks say for themselves what is added: `prepare_inputs_for_generation` made them, and
    has compared, or the caller did.
    """
    mask = named.get("attention_mask")
    if frame.carried or isinstance(mask, dict) or getattr(mask, "ndim", 2) == 4:
        return
    cache = caches.cache_of(state_of(model).findings.cache_argument, named)
    if torch.compiler.is_compiling():
        reuse.refuse_compiled(cache, is_steered=False)
    else:
        reuse.go_on(cache, reuse.Filling())
        frame.fills = reuse.Filling() if cache is None else None


def _begin_encoder_decoder(
    model: Any, frame: Frame, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Move the steering arguments of one call of an encoder–decoder into its frame."""
    findings = state_of(model).findings
    given = {name: kwargs.pop(name, None) for name in arguments.steering_arguments(model)}
    unknown = [name for name in kwargs if name.startswith("guide_")]
    source.refuse_others(given)
    named = dict(arguments.named(model.forward, args, kwargs))
    if args:
        named.setdefault(model.main_input_name, args[0])
    frame.influence = two_texts_of_call(
        model, frame, given["guide_seed"], given[DECODER_SEED], named
    )
    bias, decoder_bias, strength = (
        given[name] for name in ("guide_bias", DECODER_BIAS, "guide_strength")
    )
    some = decoder_bias if bias is None else bias
    arguments.check_companions(some, strength, unknown)
    if some is None:
        _begin_unsteered(model, frame, named)
        source.refuse_other_source(findings.cache_argument, named)
        return
    arguments.check_implementation(findings.configs, findings.implementation)
    _refuse_lost_gradients(model, keeps_masks=findings.carries_all)
    source.begin_call(
        frame,
        findings.cache_argument,
        named,
        bias=bias,
        decoder_bias=decoder_bias,
        strength=strength,
    )
    if strength is not None:
        frame.learned = _learned(model, strength)
        strength = arguments.check_strength(strength, len(some), *strength_size(model))
        frame.strength = strength
    cache = caches.cache_of(findings.cache_argument, named)
    is_known = _values_are_known(frame, some)
    if not is_known:
        for own in (frame.source_bias, frame.bias):
            if own is not None:
                arguments.check_values(own, strength)
    if torch.compiler.is_compiling():
        reuse.refuse_compiled(cache, is_steered=frame.bias is not None)
    else:
        now = reuse.filling(frame.bias, None if frame.bias is None else strength, None)
        if not is_known or reuse.filling_of(cache) is None:  # or the first step of generate()
            reuse.go_on(cache, now)
        frame.fills = now if cache is None else None


def _values_are_known(frame: Frame, bias: torch.Tensor) -> bool:
    """Return whether values need no check: `generate()` did it, or a graph is being recorded."""
    if torch.compiler.is_compiling():
        return True
    if bias.is_cuda and torch.cuda.is_current_stream_capturing():
        return True
    return frame.outer is not None and frame.outer.handed_on is bias


def _refuse_lost_gradients(model: Any, *, keeps_masks: bool) -> None:
    """Refuse activation checkpointing where the masks do not carry the bias.

    It runs layers again after the call, when the frame with the bias is gone.

    Raises:
        ValueError: If it is on and the model trains.

    """
    if keeps_masks or not (model.training and torch.is_grad_enabled()):
        return  # a carrier is an argument of the layer, which gets it again
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        raise ValueError(
            f"activation checkpointing must be off to train a steered {type(model).__name__}, "
            "which gets dense masks or none; call model.activation_checkpointing_disable()"
        )


def _learned(model: Any, strength: object) -> torch.Tensor | None:
    """Return strengths that somebody learns, float32, or None.

    Raises:
        ValueError: If activation checkpointing is on: layers that run again, after the call, would
            find the numbers in their masks, but no gradient.

    """
    is_learned = isinstance(strength, torch.Tensor) and strength.requires_grad
    if not is_learned or not torch.is_grad_enabled():
        return None
    assert isinstance(strength, torch.Tensor)
    if model.training and any(
        getattr(module, "gradient_checkpointing", False) for module in model.modules()
    ):
        raise ValueError(
            "guide_strength must not require a gradient while activation checkpointing is on, got "
            "one that does; call model.eval(), or model.gradient_checkpointing_disable()"
        )
    return strength.to(torch.float32)


def _note_carried(frame: Frame, masks: object) -> None:
    """Note in the frame that the masks of this call carry the bias, if `generate()` made them."""
    outer = frame.outer
    if outer is not None and masks is not None and masks is outer.masks:
        frame.carried = True
        frame.folded_lengths = outer.folded_lengths


def after_forward(model: nn.Module, args: tuple[Any, ...], output: object) -> None:
    """Drop the frame of a call.

    Raises:
        RuntimeError: If the call was steered and the bias did not reach every layer, or the
            Influence that the call measures was not measured in every layer.

    """
    frame = pop()
    if output is None or frame is None:
        return
    if isinstance(frame.fills, reuse.Filling):
        reuse.note_made(output, frame.fills)
    if isinstance(frame.influence, TwoTexts):
        frame.influence.check_written()
    findings = state_of(model).findings
    is_whole = not _leaves_layers_out(model, findings.num_hidden_layers)
    if (
        isinstance(frame.influence, InfluenceState)
        and is_whole
        and not torch.compiler.is_compiling()
    ):
        frame.influence.check_written(frame.measured_layers)
    if not frame.is_steered:
        return
    if findings.adds_to_mask and not (frame.applied or frame.carried):
        raise RuntimeError(
            f"guide_bias must reach the mask of {type(model).__name__}, got a call that made none, "
            "so its output is not steered; pass a 2-D attention_mask, or use the whole model"
        )
    biased = frame.biased_layers
    if findings.has_encoder and not frame.encoder_ran and frame.outer is not None:
        # It ran before the first step, in the frame of generate().
        biased = biased | {i for i in frame.outer.biased_layers if findings.kinds[i] == "encoder"}
    missing = (
        set(range(len(findings.layers))) - biased - source.unsteered_layers(frame, findings.kinds)
    )
    if not missing and frame.source_bias is not None:
        source.note_source(output, frame.source_bias, frame.strength)
    if missing and is_whole:
        first = min(missing)
        raise RuntimeError(
            f"guide_bias must reach all {len(findings.layers)} attention layers, got a call that "
            f"ran without {len(missing)} of them, the first being layer {first}, a "
            f"{type(findings.layers[first]).__name__}, so its output is not steered as a whole. "
            "A part of the model was compiled or replaced on its own; compile the whole model "
            "after enable(), or use a model that makes its masks itself"
        )


def _leaves_layers_out(model: Any, num_hidden_layers: int | None) -> bool:
    """Return whether this call may leave out layers: an early-exit draft, or layerdrop."""
    config = model.config.get_text_config()
    present = getattr(config, "num_hidden_layers", None)
    if isinstance(present, int) and num_hidden_layers is not None and present < num_hidden_layers:
        return True  # generate(assistant_early_exit=...) lowers it while it drafts
    names = ("layerdrop", "decoder_layerdrop", "encoder_layerdrop")
    return model.training and any(getattr(config, name, 0) for name in names)
