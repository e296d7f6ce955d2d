# SPDX-License-Identifier: MIT
"""SEKA: edit the keys of marked tokens by learned projections, before their rotary position."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guide_ext.integration.answers import answers_of
from guide_ext.integration.call import caches
from guide_ext.integration.image_prompts import require_text
from guide_ext.integration.inputs import Inputs, Prompt, encode
from guide_ext.integration.model.state import (
    refuse_readers_of_both_sides,
    refuse_unknown_part,
    state_of,
    table_size,
)
from guide_ext.steering.seka import KeyProjections, fit_projections
from guide_ext.steering.steering import Steering
from guide_ext.support.values import finite

Triple = tuple[Prompt, Prompt, Prompt]
"""Prompts that mark the same text: without a question, behind the question that it answers, and
behind another one."""
_FLAT, _TOKENS, _HEADS = "tokens, heads · features", "tokens, heads, features", "heads, tokens"
_CLOSE = 2e-2  # of norms, which a rotation keeps up to the rounding of half precisions


def fit_seka(
    model: Any,
    tokenizer: Any,
    triples: Sequence[Triple],
    *,
    variance: float = 0.9,
    min_shift: float = 0.0,
) -> KeyProjections:
    """Learn SEKA's projections from prompts that mark the same text in three contexts.

    Args:
        model: An enabled model whose attention modules have a ``k_proj``.
        tokenizer: Its fast tokenizer.
        triples: Without a question, behind the question that the marked text answers, and behind
            another question; all with the same marked tokens. SEKA takes 200 and more.
        variance: See `fit_projections`.
        min_shift: See `fit_projections`.

    Returns:
        The projections of all layers, for `seka`.

    Raises:
        ValueError: If there is no triple, one marks nothing or different tokens, or the keys of the
            model cannot be edited.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> text, who, where = "Now <!!->the cat sleeps<-!!>.", "Who sleeps? ", "Where is Tom? "
        >>> found = guide.fit_seka(model, tokenizer, [(text, who + text, where + text)])
        >>> found.positive.shape
        torch.Size([4, 2, 32, 32])

    """
    if not triples:
        raise ValueError("triples must be at least one, got none")
    places = _key_places(model)
    collected: list[list[Tensor]] = [[], [], []]
    for number, triple in enumerate(triples):
        if len(triple) != 3:
            raise ValueError(f"triples must have three prompts, got {len(triple)} in {number}")
        marked_ids = []
        for found, prompt in zip(collected, triple, strict=True):
            inputs, marked = _marked(model, tokenizer, [prompt])
            marked_ids.append(inputs["input_ids"][marked].tolist())
            found.append(_keys(model, inputs, places)[:, :, marked[0]])
        if not marked_ids[0] or any(ids != marked_ids[0] for ids in marked_ids):
            raise ValueError(
                f"triples must mark the same tokens in all three prompts, got {marked_ids} in "
                f"{number}"
            )
    return fit_projections(
        *(torch.cat(keys, 2) for keys in collected), variance=variance, min_shift=min_shift
    )


def seka(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    projections: KeyProjections,
    *,
    positive: float = 0.8,
    negative: float = 0.0,
    delta: float = 0.0,
    max_new_tokens: int = 200,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 16,
    on_batch: Callable[[int], None] | None = None,
) -> list[str]:
    """Answer prompts with the keys of marked tokens edited: k + g⁺ P⁺ k + g⁻ P⁻ k.

    Keys are edited once, when the prompt is read, and stay so in the cache; attention itself is
    that of the op, with a bias beside it if you state one. All marks count alike for the keys.

    Args:
        model: The enabled model that the projections were learned from.
        tokenizer: Its fast tokenizer.
        prompts: Texts or chats, with tags.
        projections: What `fit_seka` returned.
        positive: Gain g⁺. SEKA's code has 0.8.
        negative: Gain g⁻. SEKA's paper halves the sum of both; here it is not halved.
        delta: Δ of level-2 marks beside it, nats.
        max_new_tokens: Longest answer, in tokens; shorter if the model has too few positions.
        temperature: 0 for greedy decoding, else multinomial sampling at this temperature.
        seed: Seed of the sampling, a whole number of 64 bits.
        batch_size: Prompts per call of ``generate``.
        on_batch: Called after every batch with the number of prompts in it.

    Returns:
        One string per prompt, without special tokens.

    Raises:
        ValueError: As `complete` does; or if a gain is not finite, the projections are of another
            model, or the keys of the model cannot be edited.

    Source:
        SEKA (Spectral Editing Key Amplification, 2026), section 3. Its code applies P⁻ to tokens
        that are not marked; here, as in the paper, it goes to those that are.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> text, who, where = "Now <!!->the cat sleeps<-!!>.", "Who sleeps? ", "Where is Tom? "
        >>> learned = guide.fit_seka(model, tokenizer, [(text, who + text, where + text)])
        >>> [answer] = seka(model, tokenizer, [who + text], learned, max_new_tokens=4)
        >>> isinstance(answer, str)
        True

    """
    gains = finite("positive", positive), finite("negative", negative)
    places = _key_places(model)
    expected = [len(places), *places[0].size]
    if list(projections.positive.shape[:3]) != expected:
        raise ValueError(
            f"projections must be [layers, num_kv_heads, head_dim] = {expected} of this model, got "
            f"{list(projections.positive.shape[:3])}; fit them on it"
        )
    with _editing(model, places, projections, *gains) as expect:

        def encoded(batch: Sequence[Prompt]) -> Inputs:
            inputs, marked = _marked(model, tokenizer, batch, delta)
            expect(inputs["input_ids"], marked)
            return inputs

        return answers_of(
            model, tokenizer, prompts, encoded, max_new_tokens=max_new_tokens,
            temperature=temperature, seed=seed, batch_size=batch_size, on_batch=on_batch,
        )  # fmt: skip


def _marked(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], delta: float = 0.0
) -> tuple[Inputs, Tensor]:
    """Encode prompts; return also which tokens are marked, bool ``[batch, tokens]``."""
    require_text("seka()", tokenizer)
    marks = Steering.instaboost(math.e)
    marked = encode(model, tokenizer, list(prompts), steering=marks)["guide_bias"] != 0
    inputs = encode(model, tokenizer, list(prompts), delta=delta)
    inputs.pop("guide_seed", None)
    return inputs, marked


@dataclass(frozen=True)
class _Place:
    """Where the keys of a layer come from before their rotary position.

    Attributes:
        module: Its output is the keys.
        layout: How that output is arranged.
        size: Key-value heads and features of a head.

    """

    module: nn.Module
    layout: str
    size: tuple[int, int]

    def keys(self, output: Any) -> Tensor:
        """Return the output as ``[batch, tokens, heads, features]``, a view."""
        if self.layout == _FLAT:
            found: Tensor = output.unflatten(-1, self.size)
        else:
            found = output.transpose(1, 2) if self.layout == _HEADS else output
        return found

    def output(self, keys: Tensor) -> Tensor:
        """Return keys as the module returned them."""
        if self.layout == _FLAT:
            return keys.flatten(-2)
        return keys.transpose(1, 2) if self.layout == _HEADS else keys


def _key_places(model: Any) -> list[_Place]:
    """Find where keys come from, and see that nothing but a rotation follows.

    Raises:
        ValueError: If the model does not go on with one text, has no module of keys in some layer,
            or changes keys in another way before attention sees them.

    """
    table_size(model)  # raises if the model is not enabled
    refuse_readers_of_both_sides(model, "seka()")
    refuse_unknown_part(model, "seka()")
    layers = state_of(model).findings.layers
    modules = [getattr(layer, "k_norm", None) or getattr(layer, "k_proj", None) for layer in layers]
    if not all(isinstance(module, nn.Module) for module in modules):
        raise ValueError(_no_keys(model, "layers without a k_proj"))
    if len(set(map(id, modules))) < len(modules):
        raise ValueError(_no_keys(model, "one that serves several layers"))
    outputs: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        return lambda module, args, output: outputs.__setitem__(number, output)

    handles = [
        module.register_forward_hook(keep(number))  # type: ignore[union-attr]
        for number, module in enumerate(modules)
    ]
    device = model.get_input_embeddings().weight.device
    ids = torch.arange(1, 12, device=device)[None]
    try:
        with torch.inference_mode():
            found = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True)
    finally:
        for handle in handles:
            handle.remove()
    cache = caches.cache_of(state_of(model).findings.cache_argument, found)
    places = []
    for number, (layer, module) in enumerate(zip(layers, modules, strict=True)):
        place = _place(module, outputs.get(number), _held(cache, layer))
        if place is None:
            raise ValueError(_no_keys(model, f"others in the cache of layer {number}"))
        places.append(place)
    if len({place.size for place in places}) > 1:
        raise ValueError(_no_keys(model, "layers of different sizes"))
    return places


def _held(cache: Any, layer: nn.Module) -> Tensor | None:
    """Return the keys that a cache holds of a layer; None if that cannot be told."""
    index, held = getattr(layer, "layer_idx", None), getattr(cache, "layers", ())
    if not isinstance(index, int) or index >= len(held):
        return None
    found: Tensor | None = getattr(held[index], "keys", None)
    return found


def _place(module: Any, output: Tensor | None, held: Tensor | None) -> _Place | None:
    """Return how a module arranges the keys that a cache holds; None if they are others."""
    if output is None or held is None or held.dim() != 4:
        return None
    size = held.shape[1], held.shape[3]
    wanted = held.transpose(1, 2).float().norm(dim=-1)  # [batch, tokens, heads]
    for layout in (_FLAT, _TOKENS, _HEADS):
        place = _Place(module, layout, size)
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


def _no_keys(model: Any, got: str) -> str:
    return (
        "seka() must go to a model whose keys come from k_proj or k_norm and are only rotated "
        f"behind it, got a {type(model).__name__} with {got}"
    )


def _keys(model: Any, inputs: Mapping[str, Tensor], places: Sequence[_Place]) -> Tensor:
    """Return the keys of a prompt, ``[layers, num_kv_heads, tokens, head_dim]``."""
    found: dict[int, Tensor] = {}

    def keep(number: int, place: _Place) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> None:
            found[number] = place.keys(output)[0].transpose(0, 1).float()

        return hook

    handles = [
        place.module.register_forward_hook(keep(number, place))
        for number, place in enumerate(places)
    ]
    try:
        with torch.inference_mode():
            model(**inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    device = found[0].device
    return torch.stack([found[number].to(device) for number in range(len(places))])


@contextmanager
def _editing(
    model: Any, places: Sequence[_Place], projections: KeyProjections, *gains: float
) -> Iterator[Callable[[Tensor, Tensor], None]]:
    """Edit keys inside a ``with`` block, in the calls that read a prompt which was announced."""
    announced: list[tuple[Tensor, Tensor]] = []
    reading: dict[str, Tensor | None] = {"marked": None}
    owner = threading.get_ident()  # other threads may run the model at the same time

    def before(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != owner:
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        cache = caches.cache_of(state_of(model).findings.cache_argument, kwargs)
        reading["marked"] = None
        if caches.seen_tokens(cache):
            return  # a new token: the keys of the prompt are in the cache
        for known, marked in announced:
            if isinstance(ids, Tensor) and torch.equal(known, ids):
                reading["marked"] = marked
                return
        raise RuntimeError(
            "seka() must see the whole prompt in one call of the model, got another text; leave "
            "prefill_chunk_size out of the generation_config"
        )

    def edit(number: int, place: _Place) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> Tensor | None:
            marked = reading["marked"]
            if marked is None or threading.get_ident() != owner:
                return None
            keys = place.keys(output)
            edited = projections.edited(keys, number, *gains)
            chosen = marked.to(keys.device)[:, :, None, None]
            return place.output(torch.where(chosen, edited, keys))

        return hook

    handles = [model.register_forward_pre_hook(before, with_kwargs=True)]
    handles += [
        place.module.register_forward_hook(edit(number, place))
        for number, place in enumerate(places)
    ]
    try:
        yield lambda ids, marked: announced.append((ids, marked))
    finally:
        for handle in handles:
            handle.remove()
