# SPDX-License-Identifier: MIT
"""Read and edit the keys of a model before their rotary position, and read queries there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guide_ext.integration.call import caches
from guide_ext.integration.model.state import (
    refuse_readers_of_both_sides,
    refuse_unknown_part,
    state_of,
    table_size,
)

Edit = Callable[[int, Tensor], Tensor]
"""Returns the keys of a layer, ``[batch, tokens, num_kv_heads, head_dim]``, edited."""
_FLAT, _TOKENS, _HEADS = "tokens, heads · features", "tokens, heads, features", "heads, tokens"
_CLOSE = 2e-2  # of norms, which a rotation keeps up to the rounding of half precisions


@dataclass(frozen=True)
class Place:
    """Where the keys of a layer come from before their rotary position.

    Attributes:
        module: Its output is the keys.
        layout: How that output is arranged.
        size: Key-value heads and features of a head.
        query: The module whose output is the queries, arranged alike; None if there is none.

    """

    module: nn.Module
    layout: str
    size: tuple[int, int]
    query: nn.Module | None = None

    def keys(self, output: Any) -> Tensor:
        """Return the output as ``[batch, tokens, heads, features]``, a view."""
        return _apart(output, self.layout, self.size)

    def output(self, keys: Tensor) -> Tensor:
        """Return keys as the module returned them."""
        if self.layout == _FLAT:
            return keys.flatten(-2)
        return keys.transpose(1, 2) if self.layout == _HEADS else keys

    def queries(self, output: Any, num_heads: int) -> Tensor | None:
        """Return queries as ``[batch, tokens, heads, features]``; None if they are others."""
        size = num_heads, self.size[1]
        try:
            found = _apart(output, self.layout, size)
        except RuntimeError:  # other sizes
            return None
        return found if found.dim() == 4 and tuple(found.shape[2:]) == size else None


def _apart(output: Any, layout: str, size: tuple[int, int]) -> Tensor:
    found: Tensor
    if layout == _FLAT:
        found = output.unflatten(-1, size)
    else:
        found = output.transpose(1, 2) if layout == _HEADS else output
    return found


def key_places(model: Any, name: str) -> list[Place]:
    """Find where keys come from, and see that nothing but a rotation follows.

    Args:
        model: An enabled model.
        name: The function that needs them, for errors.

    Raises:
        ValueError: If the model does not go on with one text, has no module of keys in some layer,
            or changes keys in another way before attention sees them.

    """
    table_size(model)  # raises if the model is not enabled
    refuse_readers_of_both_sides(model, name)
    refuse_unknown_part(model, name)
    layers = state_of(model).findings.layers
    modules = [getattr(layer, "k_norm", None) or getattr(layer, "k_proj", None) for layer in layers]
    if not all(isinstance(module, nn.Module) for module in modules):
        raise ValueError(_no_keys(model, name, "layers without a k_proj"))
    if len(set(map(id, modules))) < len(modules):
        raise ValueError(_no_keys(model, name, "one that serves several layers"))
    device = model.get_input_embeddings().weight.device
    ids = torch.arange(1, 12, device=device)[None]
    with _outputs_of(modules) as outputs, torch.inference_mode():
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True)
    cache = caches.cache_of(state_of(model).findings.cache_argument, found)
    places = []
    for number, (layer, module) in enumerate(zip(layers, modules, strict=True)):
        place = _place(layer, module, outputs.get(number), _held(cache, layer))
        if place is None:
            raise ValueError(_no_keys(model, name, f"others in the cache of layer {number}"))
        places.append(place)
    if len({place.size for place in places}) > 1:
        raise ValueError(_no_keys(model, name, "layers of different sizes"))
    return places


def _held(cache: Any, layer: nn.Module) -> Tensor | None:
    """Return the keys that a cache holds of a layer; None if that cannot be told."""
    index, held = getattr(layer, "layer_idx", None), getattr(cache, "layers", ())
    if not isinstance(index, int) or index >= len(held):
        return None
    found: Tensor | None = getattr(held[index], "keys", None)
    return found


def _place(layer: Any, module: Any, output: Tensor | None, held: Tensor | None) -> Place | None:
    """Return how a module arranges the keys that a cache holds; None if they are others."""
    if output is None or held is None or held.dim() != 4:
        return None
    size = held.shape[1], held.shape[3]
    wanted = held.transpose(1, 2).float().norm(dim=-1)  # [batch, tokens, heads]
    query = getattr(layer, "q_norm", None) or getattr(layer, "q_proj", None)
    for layout in (_FLAT, _TOKENS, _HEADS):
        place = Place(module, layout, size, query if isinstance(query, nn.Module) else None)
        try:
            keys = place.keys(output)
        except RuntimeError:  # other sizes
            continue
        if keys.dim() != 4 or tuple(keys.shape[2:]) != size:
            continue
        norms = keys.float().norm(dim=-1)[:, -wanted.shape[1] :]
        if norms.shape != wanted.shape:
            continue
        scale = wanted.sum() / norms.sum()  # YaRN's rotations also scale, all keys alike
        if torch.allclose(scale * norms, wanted, rtol=_CLOSE):
            return place
    return None


def _no_keys(model: Any, name: str, got: str) -> str:
    return (
        f"{name} must go to a model whose keys come from k_proj or k_norm and are only rotated "
        f"behind it, got a {type(model).__name__} with {got}"
    )


@contextmanager
def _outputs_of(modules: Sequence[Any]) -> Iterator[dict[int, Any]]:
    """Keep what modules return inside a ``with`` block, by their number."""
    found: dict[int, Any] = {}

    def keep(number: int) -> Any:
        return lambda module, args, output: found.__setitem__(number, output)

    handles = [module.register_forward_hook(keep(n)) for n, module in enumerate(modules)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def keys_of(model: Any, inputs: Mapping[str, Tensor], places: Sequence[Place]) -> Tensor:
    """Return the keys of a prompt, float32 ``[layers, num_kv_heads, tokens, head_dim]``."""
    with _outputs_of([place.module for place in places]) as found, torch.inference_mode():
        model(**inputs, use_cache=False)
    own = [place.keys(found[n])[0].transpose(0, 1).float() for n, place in enumerate(places)]
    return torch.stack([keys.to(own[0].device) for keys in own])


def last_queries(
    model: Any, inputs: Mapping[str, Tensor], places: Sequence[Place], name: str
) -> Tensor:
    """Return the queries of the last token of each prompt, before their rotary position.

    Args:
        model: An enabled model, whose keys nothing edits meanwhile.
        inputs: A batch of prompts.
        places: What `key_places` found.
        name: The function that needs them, for errors.

    Returns:
        Mean over the query heads of each key-value head, float32 ``[layers, batch, num_kv_heads,
        head_dim]``.

    Raises:
        ValueError: If a layer has no module of queries, or one that returns something else.

    """
    modules = [place.query for place in places]
    if None in modules:
        raise ValueError(_no_queries(model, name, "layers without one"))
    with _outputs_of(modules) as found, torch.inference_mode():
        model(**inputs, use_cache=False)
    mask = inputs["attention_mask"]
    last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
    rows = torch.arange(len(mask), device=mask.device)
    queries = []
    for number, place in enumerate(places):
        output = found.get(number)
        own = None if output is None else place.queries(output, table_size(model)[1])
        if own is None:
            raise ValueError(_no_queries(model, name, f"something else in layer {number}"))
        heads = own[rows.to(own.device), last.to(own.device)].float()
        groups = heads.reshape(len(heads), place.size[0], -1, place.size[1])
        queries.append(groups.mean(2))
    return torch.stack([one.to(queries[0].device) for one in queries])


def _no_queries(model: Any, name: str, got: str) -> str:
    return (
        f"{name} must go to a model whose queries come from q_proj or q_norm, as its keys do from "
        f"k_proj or k_norm, got a {type(model).__name__} with {got}"
    )


class Editor:
    """Edits keys in the calls that read a prompt which was announced.

    Args:
        model: An enabled model.
        places: What `key_places` found.
        name: The function that edits, for errors.

    """

    def __init__(self, model: Any, places: Sequence[Place], name: str) -> None:
        self._model = model
        self._places = places
        self._name = name
        self._announced: list[tuple[Tensor, Tensor, Edit]] = []
        self._reading: tuple[Tensor, Edit] | None = None
        self._rests = False
        self._owner = threading.get_ident()  # other threads may run the model at the same time

    def expect(self, ids: Tensor, marked: Tensor, edit: Edit) -> None:
        """Announce prompts, each batch of which is then read once.

        Args:
            ids: Their token ids, ``[batch, tokens]``.
            marked: The tokens whose keys are edited, bool of the same shape.
            edit: Edits the keys of a layer; only those of marked tokens are used.

        """
        self._announced.append((ids, marked, edit))

    @contextmanager
    def at_work(self) -> Iterator[Editor]:
        """Edit inside a ``with`` block, in this thread."""
        handles = [self._model.register_forward_pre_hook(self._before, with_kwargs=True)]
        handles += [
            place.module.register_forward_hook(self._hook(number, place))
            for number, place in enumerate(self._places)
        ]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Edit nothing inside a ``with`` block that lies in one of `at_work`."""
        self._rests = True
        try:
            yield
        finally:
            self._rests = False

    def _before(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != self._owner:
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        cache = caches.cache_of(state_of(self._model).findings.cache_argument, kwargs)
        self._reading = None
        if self._rests or caches.seen_tokens(cache):
            return  # a new token: the keys of the prompt are in the cache
        for number, (known, marked, edit) in enumerate(self._announced):
            if isinstance(ids, Tensor) and torch.equal(known, ids):
                # Taken off the list: the same words may come again, with other marks.
                del self._announced[number]
                self._reading = marked, edit
                return
        raise RuntimeError(
            f"{self._name} must see the whole prompt in one call of the model, got another text; "
            "leave prefill_chunk_size out of the generation_config"
        )

    def _hook(self, number: int, place: Place) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> Tensor | None:
            if self._reading is None or threading.get_ident() != self._owner:
                return None
            marked, edit = self._reading
            keys = place.keys(output)
            chosen = marked.to(keys.device)[:, :, None, None]
            return place.output(torch.where(chosen, edit(number, keys), keys))

        return hook
