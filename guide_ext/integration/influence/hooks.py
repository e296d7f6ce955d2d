# SPDX-License-Identifier: MIT
"""Hooks that read the layers of a model while Influence is measured."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from guide_ext.integration.call import arguments, caches
from guide_ext.integration.call.frame import Frame, current, requested, using
from guide_ext.integration.influence.state import InfluenceState, Request, state_on
from guide_ext.integration.model.locate import locate
from guide_ext.integration.model.parallel import Split, group_of
from guide_ext.integration.model.state import (
    forget_compiled_call,
    refuse_unknown_part,
    state_of,
    table_size,
)
from guide_ext.integration.model.verify import UnsupportedModelError


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
        raise UnsupportedModelError(
            "Influence must be measured in a model with one text, got the encoder–decoder "
            f"{type(model).__name__}; steer it without measuring"
        )
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
    state, asked = state_on(cache), requested()
    request = asked if isinstance(asked, Request) and asked.model is model else None
    if state is None and (seed is None or request is None):
        return None
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
    for index, place in enumerate(locate(model, attention_modules)):
        before = functools.partial(_before_layer, index)
        before_attention = functools.partial(_before_attention, index)
        after = functools.partial(_after_update, index, place.scale)
        attention = attention_modules[index]
        state.handles += [
            place.layer.register_forward_pre_hook(before, with_kwargs=True),
            attention.register_forward_pre_hook(before_attention, with_kwargs=True),
            place.update.register_forward_hook(after),
        ]
    state.is_watched = True
    forget_compiled_call(model)


def _states() -> list[InfluenceState]:
    """Return the states of the running call, one for each form; none if it measures nothing."""
    frame = current()
    state = None if frame is None else frame.influence
    return state.together if isinstance(state, InfluenceState) else []


def _before_layer(
    index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    for state in _states():
        if not state.form.reads_attention_input:
            state.pending[index].residual = state.form.norms(_hidden_states(args, kwargs))


def _before_attention(
    index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    for state in _states():
        if state.form.reads_attention_input:
            state.pending[index].attention_input = state.form.norms(_hidden_states(args, kwargs))


def _after_update(
    index: int, scale: float, module: nn.Module, args: tuple[Any, ...], output: object
) -> None:
    for state in _states():
        update = output[0] if isinstance(output, tuple | list) else output
        if not isinstance(update, Tensor):
            raise RuntimeError(f"{type(module).__name__} must return a tensor, got {type(update)}")
        state.step(index, state.form.norms(update, scale))


def _hidden_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    hidden_states: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden_states
