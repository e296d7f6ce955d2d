# SPDX-License-Identifier: MIT
"""Find where a model has what Influence needs: the residual stream E and the update U.

E is the input of a layer, or of a module in it where the layer changes the stream before its
attention: half a feed-forward step in the encoder of Canary, a norm in MiniMax. U is what its
attention block adds to E. That is the output of the attention module, or of a norm, a projection or
a multiplier that follows it; their names differ from model to model, so names are not used. Instead
a tiny input runs through the model, and every candidate is tried: U is right if a later module of
the layer reads ``E + s·U``, or if the layer returns ``E + s·U``, or returns ``E + U`` plus the
output of a module that runs in parallel.

Where the decoder of an encoder–decoder attends to the encoder, its layer has attended to its own
text before. So E is no input of the layer, but of a module in it: of the norm in front of the
attention, or of the attention itself, where the norm stands behind the sum (BART). These are tried,
too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guide_ext.integration.model.parallel import HeadGroup, group_of
from guide_ext.integration.model.trial import tiny_run
from guide_ext.integration.model.verify import UnsupportedModelError

# Candidates for U: the attention module, and modules that follow it one after the other.
_LONGEST_CHAIN = 4
# Largest difference between a vector and E + s·U, relative to s·U, in addition to rounding.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
_HALF_TOLERANCE = 2e-2
_SMALLEST_SCALE = 1e-3


@dataclass(frozen=True)
class Place:
    """The modules of one attention layer that have E and U.

    Attributes:
        layer: Module whose input is E: the layer, or a module in it.
        update: Module whose output, times `scale`, is added to E.
        scale: The residual multiplier, in most models 1.

    """

    layer: nn.Module
    update: nn.Module
    scale: float


@dataclass
class _Call:
    """The input and the output of one call of a module."""

    module: nn.Module
    read: Tensor
    returned: Tensor | None = None


def locate(
    model: Any, attention_modules: tuple[nn.Module, ...], kinds: tuple[str, ...] = ()
) -> tuple[Place, ...]:
    """Find E and U of every attention layer of a model.

    Args:
        model: A transformers model that runs on a `trial`, in evaluation mode.
        attention_modules: Its attention modules, as `verify.Findings` lists them.
        kinds: Encoder–decoders only: what each of them attends to, as `verify.Findings` says.

    Returns:
        One place per attention module.

    Raises:
        UnsupportedModelError: If no output in a layer is what the layer adds to the residual
            stream, or a process has only a part of the residual stream.

    """
    run = tiny_run(model)
    with _recorded(model) as calls:
        run()
    parents = {child: parent for parent in model.modules() for child in parent.children()}
    group = group_of(model)
    if group is not None:
        # Check this in all layers before anything else can raise: an error in one process only
        # would make the others wait forever.
        layers = [_decoder_layer(attention, parents) for attention in attention_modules]
        own = [_call_of(layer, calls) for layer in layers]
        _refuse_parts(model, group, "reads", [None if call is None else call.read for call in own])
        _refuse_parts(model, group, "returns", [_returned(call) for call in own])
    places = []
    for index, attention in enumerate(attention_modules):
        layer = _decoder_layer(attention, parents)
        is_cross = bool(kinds) and kinds[index] == "cross"
        place = None if layer is None else _place(layer, attention, calls, is_cross=is_cross)
        if place is None:
            raise UnsupportedModelError(
                f"Influence must know what attention layer {index} of {type(model).__name__} adds "
                "to the residual stream, got a layer where no output behind "
                f"{type(attention).__name__} is what is added; the model can be steered, "
                "but its Influence cannot be measured"
            )
        places.append(place)
    if group is not None:
        updates = [_call_of(place.update, calls) for place in places]
        _refuse_parts(model, group, "adds", [_returned(call) for call in updates])
    return tuple(places)


def _refuse_parts(
    model: nn.Module, group: HeadGroup, does: str, tensors: Sequence[Tensor | None]
) -> None:
    """Refuse a model in which a process has only a part of E or U, as in sequence parallelism."""
    for index, tensor in enumerate(tensors):
        if tensor is not None and not group.is_same(tensor):
            raise UnsupportedModelError(
                "Influence must see the same residual stream in every process, got attention layer "
                f"{index} of {type(model).__name__}, which {does} {list(tensor.shape)} here and "
                "something else in another process; use a tp_plan that splits heads and not tokens"
            )


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[_Call]]:
    """Record input and output of every module in a ``with`` block, in the order of the calls."""
    calls: list[_Call] = []
    open_calls: dict[nn.Module, _Call] = {}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        read = args[0] if args else kwargs.get("hidden_states")
        if isinstance(read, Tensor):
            open_calls[module] = _Call(module, read)
            calls.append(open_calls[module])

    def after(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        returned = _first(output)
        if module in open_calls and returned is not None:
            open_calls.pop(module).returned = returned

    handles = [m.register_forward_pre_hook(before, with_kwargs=True) for m in model.modules()]
    handles += [module.register_forward_hook(after) for module in model.modules()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _call_of(module: nn.Module | None, calls: list[_Call]) -> _Call | None:
    return next((call for call in calls if call.module is module), None)


def _returned(call: _Call | None) -> Tensor | None:
    return None if call is None else call.returned


def _first(output: object) -> Tensor | None:
    first = output[0] if isinstance(output, tuple | list) and output else output
    return first if isinstance(first, Tensor) else None


def _decoder_layer(attention: nn.Module, parents: dict[nn.Module, nn.Module]) -> nn.Module | None:
    """Return the ancestor that is an element of the model's list of layers."""
    module = attention
    while module in parents:
        if isinstance(parents[module], nn.ModuleList) and module is not attention:
            return module
        module = parents[module]
    return None


def _place(
    layer: nn.Module, attention: nn.Module, calls: list[_Call], *, is_cross: bool = False
) -> Place | None:
    """Try the attention module and the modules that follow it; return the one that fits best."""
    own = _call_of(layer, calls)
    inside = set(layer.modules()) - {layer}
    within = [call for call in calls if call.module in inside and call.returned is not None]
    link = _call_of(attention, within)
    if own is None or own.returned is None:
        return None
    found = _best(link, [own, *(_before(attention, within) if is_cross else [])], own, within)
    # Where the layer changes the stream before its attention reads it, its input is not E.
    return found or _best(link, _before(attention, within), own, within)


def _best(
    link: _Call | None, readers: Sequence[_Call], own: _Call, within: list[_Call]
) -> Place | None:
    """Return the place whose E, of some readers, and U, of a chain of modules, fit best."""
    best: tuple[float, Place] | None = None
    for _ in range(_LONGEST_CHAIN):
        if link is None or link.returned is None:
            break
        for reader in readers:
            if link.returned.numel() != reader.read.numel():
                continue
            fit = _best_fit(link, reader, own, within)
            if fit is not None and (best is None or fit.miss < best[0] / 2):
                best = fit.miss, Place(reader.module, link.module, fit.scale)
        link = _next_link(link, within)
    return None if best is None else best[1]


def _before(attention: nn.Module, within: list[_Call]) -> list[_Call]:
    """Return the calls up to that of an attention module, of modules that run once."""
    index = next((i for i, call in enumerate(within) if call.module is attention), -1)
    times = Counter(call.module for call in within)
    return [call for call in within[: index + 1] if times[call.module] == 1]


def _next_link(link: _Call, within: list[_Call]) -> _Call | None:
    """Return the call that reads what `link` returned; of nested modules, the innermost."""
    behind = [call for call in within if _same(call.read, link.returned)]
    behind = [call for call in behind if call.module is not link.module]
    inner = [call for call in behind if not list(call.module.children())]
    return next(iter(inner or behind), None)


@dataclass(frozen=True)
class _Fit:
    scale: float  # s in E + s·U
    miss: float  # size of the residual error, relative to s·U


def _best_fit(link: _Call, reader: _Call, layer: _Call, within: list[_Call]) -> _Fit | None:
    """Look for ``E + s·U`` among the inputs of modules in the layer, and in the layer's output.

    Args:
        link: The call that returns U.
        reader: The call that reads E.
        layer: The call of the layer.
        within: All calls in the layer.

    """
    residual = reader.read
    update = link.returned
    if update is None or layer.returned is None:
        return None
    update = update.reshape(residual.shape)
    sums = [call.read for call in within if call.read.numel() == residual.numel()]
    fits = [_fit(total.reshape(residual.shape), residual, update) for total in sums]
    if layer.returned.shape == residual.shape:
        fits.append(_fit(layer.returned, residual, update))
        for call in within:  # in parallel: the layer returns E + U + f(E)
            other = call.returned
            if other is None or other.shape != residual.shape or call.module is link.module:
                continue
            fit = _fit(layer.returned - other, residual, update)
            if fit is not None and abs(fit.scale - 1) < _HALF_TOLERANCE:
                fits.append(fit)
    return min((fit for fit in fits if fit is not None), key=lambda fit: fit.miss, default=None)


def _fit(total: Tensor, residual: Tensor, update: Tensor) -> _Fit | None:
    """Solve ``total = residual + s·update`` by least squares; return None if it does not fit.

    Elements count by how exactly they are stored. Most models have a token whose residual stream is
    hundreds of times as long as any other, and in half precision its rounding would hide what is
    added to all the rest (Sun et al. 2024, Massive Activations in Large Language Models).
    """
    tolerance = _TOLERANCE.get(residual.dtype, _HALF_TOLERANCE)
    sizes = total.double().abs()
    weights = 1 / (sizes + (float(sizes.median()) or 1.0))
    rounding = torch.finfo(residual.dtype).eps / 2 * float((weights * sizes).norm())
    difference = weights * (total.double() - residual.double())
    update = weights * update.double()
    scale = float((difference * update).sum() / (update * update).sum().clamp(min=1e-300))
    size = abs(scale) * float(update.norm())
    # A smaller update cannot be told from rounding.
    if not (abs(scale) >= _SMALLEST_SCALE and size > 4 * rounding):  # NaN too
        return None
    rest = float((difference - scale * update).norm())
    return _Fit(scale, rest / size) if rest <= tolerance * size + rounding else None


def _same(one: Tensor, other: Tensor | None) -> bool:
    if other is None:
        return False
    return one is other or (one.data_ptr() == other.data_ptr() and one.shape == other.shape)
