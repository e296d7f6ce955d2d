# SPDX-License-Identifier: MIT
"""Hooks that read the layers of a model while Influence is measured."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from guide_ext.integration.call import arguments, caches, source
from guide_ext.integration.call.arguments import DECODER_SEED
from guide_ext.integration.call.frame import Frame, current, requested, using
from guide_ext.integration.influence.state import InfluenceState, Request, state_on
from guide_ext.integration.influence.two_texts import TwoTexts
from guide_ext.integration.model.locate import locate
from guide_ext.integration.model.parallel import Split, group_of
from guide_ext.integration.model.state import (
    forget_compiled_call,
    refuse_unknown_part,
    state_of,
    table_size,
)
from guide_ext.integration.model.verify import UnsupportedModelError

# How a call hands an image to layers that attend to it.
_IMAGES_OF_LAYERS = ("pixel_values", "cross_attention_states", "cross_attention_mask")


@contextmanager
def requesting(request: Request) -> Iterator[None]:
    """Measure Influence in the calls of a model inside a ``with`` block.

    Raises:
        UnsupportedModelError: If what an attention layer adds to the residual stream cannot be
            found, or the model runs an attention layer twice in one call.
        ValueError: If the model is not enabled, or some of its layers or heads are in other
            processes and nothing is known of them.

    """
    model = request.model
    table_size(model)  # raises if the model is not enabled
    refuse_unknown_part(model, "Influence")
    if state_of(model).findings.has_encoder:
        _refuse_of_two_texts(model, request)
    repeated = state_of(model).findings.repeated
    if repeated:
        raise UnsupportedModelError(
            "Influence must be measured in a model that runs every attention layer once, got "
            f"{type(model).__name__}, whose {repeated} calls attention again in the same forward "
            "pass; steer the model without measuring"
        )
    _watch(model)
    with using(Frame(configs=state_of(model).findings.configs, request=request)):
        yield


def _refuse_of_two_texts(model: Any, request: Request) -> None:
    if group_of(model) is not None:
        raise UnsupportedModelError(
            "Influence must be measured in one process in an encoder–decoder, got a "
            f"{type(model).__name__} that is spread over several; load it without tp_plan"
        )
    for form in (request.form, *request.beside):
        if form.reads_attention_input:
            raise ValueError(
                f"form must not be {form.name!r} in an encoder–decoder, got a "
                f"{type(model).__name__}: the authors' code is of decoders alone, and does not say "
                "what the attention to an encoder would read of the layer before; use 'paper'"
            )


def state_of_call(
    model: Any, seed: object, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> InfluenceState | None:
    """Return the state of one call's Influence, with room for its tokens; None if not measured.

    A call whose cache was filled while measuring goes on measuring, whoever makes it.

    Args:
        model: An enabled model.
        seed: ``guide_seed`` of the call, if any.
        args: Positional arguments of `forward`.
        kwargs: Keyword arguments of `forward`.

    Raises:
        ValueError: If the seed does not fit the input, the cache holds tokens that were not
            measured, or a compiled model is called without the preparations of `generate()`.

    """
    named = arguments.named(model.forward, args, kwargs)
    name = state_of(model).findings.cache_argument
    if seed is not None:
        caches.check_cache(name, named)
    cache = caches.cache_of(name, named)
    kept, request = state_on(cache), _request_for(model)
    state = kept if isinstance(kept, InfluenceState) else None
    if state is None and (seed is None or request is None):
        return None
    _refuse_image_layers(model, named)
    if torch.compiler.is_compiling():
        if state is None:
            raise ValueError(
                "a compiled model must measure Influence in generate(), which prepares the cache "
                "outside, got a call of forward(); use the model that was not compiled"
            )
        return state
    rows, tokens = arguments.input_size(args, kwargs)
    marked = None if seed is None else arguments.check_guide_seed(seed, rows)
    seen = caches.seen_tokens(cache)
    if state is None and request is not None and marked is not None:
        if seen:
            raise ValueError(
                f"{name} must be empty when measuring begins, got one with {seen} "
                "token(s) whose Influence is unknown; measure from the first token on"
            )
        layers, _ = table_size(model)
        state = InfluenceState.begin(
            request.form, marked, layers, keeps_heads=request.keeps_heads, split=_split_of(model),
            beside=request.beside,
        )  # fmt: skip
        if cache is not None:
            state.follow(cache)
    if state is None:
        return None
    begin = state.filled if seen is None else seen
    if begin + tokens > state.filled:
        if marked is None:
            marked = state.levels[0][:, :, :0]
        state.extend(marked, begin, tokens, _capacity(cache))
    if request is not None:
        request.state = state
    return state


def _refuse_image_layers(model: Any, named: Mapping[str, Any]) -> None:
    """Refuse a call in which layers attend to an image that is no part of the text (Mllama).

    Raises:
        UnsupportedModelError: If it is one.

    """
    layers = getattr(model.config.get_text_config(), "cross_attention_layers", None)
    if layers and any(named.get(name) is not None for name in _IMAGES_OF_LAYERS):
        raise UnsupportedModelError(
            f"Influence must be measured where images are tokens of the text, got a "
            f"{type(model).__name__}, whose layers {layers} attend to the image itself; measure "
            "text alone, or steer without measuring"
        )


def is_requested(model: Any) -> bool:
    """Return whether calls of a model are to measure Influence now."""
    return _request_for(model) is not None


def two_texts_of_generation(model: Any, seed: Tensor | None) -> TwoTexts | None:
    """Return the state of the Influence of a ``generate()``, in which the encoder runs once.

    Args:
        model: An enabled encoder–decoder.
        seed: ``guide_seed``, which fits its source, if any.

    Returns:
        The state; None if nothing is measured.

    """
    request = _request_for(model)
    if request is None or seed is None:
        return None
    return TwoTexts.begin(request, state_of(model).findings.kinds, seed.detach())


def two_texts_of_call(
    model: Any,
    frame: Frame,
    seed: object,
    decoder_seed: object,
    named: Mapping[str, Any],
) -> TwoTexts | None:
    """Return the state of one call's Influence in an encoder–decoder; None if not measured.

    A call whose cache was filled while measuring goes on measuring, whoever makes it.

    Args:
        model: An enabled encoder–decoder.
        frame: The frame of the call.
        seed: ``guide_seed`` of the call, if any.
        decoder_seed: ``guide_decoder_seed`` of the call, if any.
        named: Arguments of the call, by name, without the steering.

    Raises:
        ValueError: If a seed does not fit the input, the source or the cache was read without
            measuring, or a compiled model is called.

    """
    findings = state_of(model).findings
    cache = caches.cache_of(findings.cache_argument, named)
    kept, request = state_on(cache), _request_for(model)
    state = kept if isinstance(kept, TwoTexts) else None
    if state is None and (seed is None or request is None):
        return None
    if torch.compiler.is_compiling():
        raise ValueError(
            "Influence of an encoder–decoder must be measured in a model that is not compiled, got "
            "one that is; use the model that torch.compile() was given"
        )
    caches.check_cache(findings.cache_argument, named)
    for name in ("attention_mask", "decoder_attention_mask"):
        arguments.check_own_mask(named.get(name))
    rows, tokens = source.target_that_is_given(named)
    seen = caches.seen_tokens(cache)
    if seen is None:
        raise ValueError(
            "the cache must tell how many tokens it holds to measure the Influence of an "
            f"encoder–decoder, got a {type(cache).__name__}; use a dynamic one"
        )
    marked: Tensor | None = None
    if state is None and request is not None:
        if seen:
            raise ValueError(
                f"{findings.cache_argument} must be empty when measuring begins, got one with "
                f"{seen} token(s) whose Influence is unknown; measure from the first token on"
            )
        begun = _begun(model, frame, request, seed, named)
        groups = begun.source.levels[0].shape[1]
        marked = _decoder_marks(decoder_seed, begun.source.levels[0], rows, groups)
        state = begun.for_target(request, marked)
        if cache is not None:
            state.follow(cache)
    if state is None or state.target is None:
        return None
    if marked is None:
        marked = state.target.levels[0][:, :, :0]
    state.extend(marked, seen, tokens)
    if request is not None:
        request.state, request.source = state.target, state.source
    return state


def _begun(
    model: Any, frame: Frame, request: Request, seed: object, named: Mapping[str, Any]
) -> TwoTexts:
    """Return the state of the source: of this call, or of the `generate()` that it is a step of."""
    outer = frame.outer
    if named.get("encoder_outputs") is not None:
        if outer is not None and isinstance(outer.influence, TwoTexts):
            return outer.influence
        raise ValueError(
            "encoder_outputs must be left out to measure Influence, so that the encoder runs and "
            "its Influence is known; got some of an unknown call"
        )
    rows, positions = source.source_of(named)
    marked = arguments.check_guide_seed(seed, rows)
    if positions is not None:
        arguments.check_source_length(marked, positions, "guide_seed")
    return TwoTexts.begin(request, state_of(model).findings.kinds, marked)


def _decoder_marks(seed: object, like: Tensor, rows: int, groups: int) -> Tensor:
    """Return ``guide_decoder_seed``, or that of a target in which nothing is marked."""
    if seed is None:
        return like.new_zeros(rows, groups, 0)
    marked = arguments.check_guide_seed(seed, rows, DECODER_SEED)
    if marked.shape[1] != groups:
        raise ValueError(
            f"{DECODER_SEED} must have the {groups} group(s) of guide_seed, got shape "
            f"{list(marked.shape)}; put 0 where a group has no token"
        )
    return marked


def _request_for(model: Any) -> Request | None:
    asked = requested()
    return asked if isinstance(asked, Request) and asked.model is model else None


def _split_of(model: Any) -> Split | None:
    group = group_of(model)
    return None if group is None else Split(group, state_of(model).findings.heads)


def _capacity(cache: Any) -> int:
    """Return the final number of slots of a static cache; 0 for one that grows."""
    lengths = [getattr(layer, "max_cache_len", 0) for layer in getattr(cache, "layers", ())]
    return max((length for length in lengths if isinstance(length, int)), default=0)


def _watch(model: Any) -> None:
    """Find E and U, and hook their modules, unless this was done before."""
    state = state_of(model)
    if state.is_watched:
        return
    attention_modules = state.findings.layers
    kinds = state.findings.kinds
    for index, place in enumerate(locate(model, attention_modules, kinds)):
        before = functools.partial(_before_layer, index)
        before_attention = functools.partial(_before_attention, index)
        after = functools.partial(_after_update, index, place.scale)
        attention = attention_modules[index]
        state.handles += [
            place.layer.register_forward_pre_hook(before, with_kwargs=True),
            attention.register_forward_pre_hook(before_attention, with_kwargs=True),
            place.update.register_forward_hook(after),
        ]
    if kinds:
        # The first hook: later ones end the frame of a call that is not the model's own.
        encoder = model.get_encoder()
        state.handles.append(encoder.register_forward_hook(_after_encoder, prepend=True))
    state.is_watched = True
    forget_compiled_call(model)


def _measuring() -> InfluenceState | TwoTexts | None:
    """Return the state of the running call; None if it measures nothing."""
    frame = current()
    state = None if frame is None else frame.influence
    return state if isinstance(state, InfluenceState | TwoTexts) else None


def _states(layer: int) -> list[tuple[InfluenceState, int]]:
    """Return the states that a layer writes in this call, one for each form, and its place there.

    None if the call measures nothing.
    """
    state = _measuring()
    return [] if state is None else state.of_layer(layer)


def _after_encoder(encoder: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    state = _measuring()
    if isinstance(state, TwoTexts):
        state.source_returned(output[0])


def _before_layer(
    index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    for state, own in _states(index):
        if not state.form.reads_attention_input:
            state.pending[own].residual = state.form.norms(_hidden_states(args, kwargs))


def _before_attention(
    index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    for state, own in _states(index):
        if state.form.reads_attention_input:
            state.pending[own].attention_input = state.form.norms(_hidden_states(args, kwargs))


def _after_update(
    index: int, scale: float, module: nn.Module, args: tuple[Any, ...], output: object
) -> None:
    for state, own in _states(index):
        update = output[0] if isinstance(output, tuple | list) else output
        if not isinstance(update, Tensor):
            raise RuntimeError(f"{type(module).__name__} must return a tensor, got {type(update)}")
        state.step(own, state.form.norms(update, scale))
    whole = _measuring()
    if isinstance(whole, TwoTexts):
        whole.written.add(index)


def _hidden_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    hidden_states: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden_states
