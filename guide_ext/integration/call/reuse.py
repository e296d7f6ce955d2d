# SPDX-License-Identifier: MIT
"""Know under which bias the tokens in a cache were read, and refuse to go on under another one.

A token that was read under a bias has keys and values that depend on it, in every layer but the
first. So a text can be steered in several calls only if each gives the tokens in the cache the bias
that they were read under, which may be none. What that was is kept on the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache

from guide_ext.integration.call import caches
from guide_ext.integration.call.cache_rows import keep_on
from guide_ext.integration.call.frame import Frame

_CACHE_STATE = "_guide_filled"

_ADVICE = (
    "begin with a new cache, give the tokens in it the bias that they were read under (0 where "
    "they had none), or crop() it to the tokens before the first that differs"
)


@dataclass(eq=False)
class Filling:
    """The steering of the calls that fill a cache; None stands for no bias, 1 and no share.

    Attributes:
        bias: Nats per slot, ``[rows, slots]``; a slot after its end has 0.
        strength: ``[rows, layers, heads]``.
        share: ``[rows, slots]``.
        given: What the caller gave, to see the same tensors again without a comparison. Copies and
            pickles forget it.

    """

    bias: Tensor | None = None
    strength: Tensor | None = None
    share: Tensor | None = None
    given: tuple[Any, ...] = field(default=(), repr=False)

    def before_reorder(self) -> None:
        """Do nothing: only the order of the rows changes."""

    def map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Apply `change` to every tensor."""
        for name in ("bias", "strength", "share"):
            table = getattr(self, name)
            setattr(self, name, None if table is None else change(table))
        self.given = ()

    def kept(self) -> Filling:
        """Return a copy that does not change when the caller writes into his tensors."""
        bias, strength, share = (
            None if table is None else table.clone()
            for table in (self.bias, self.strength, self.share)
        )
        return Filling(bias, strength, share, self.given)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the tensors of the caller."""
        return {**self.__dict__, "given": ()}


def filling(
    bias: Tensor | None, strength: Tensor | None, share: Tensor | None, *given: object
) -> Filling:
    """Return the steering of a call.

    Args:
        bias: Nats per slot, ``[rows, slots]``, float32, or None.
        strength: ``[rows, layers, heads]``, float32, or None.
        share: ``[rows, slots]``, float32, or None.
        *given: The tensors that the caller gave for them.

    """
    marks = tuple((value, _version(value)) for value in given if isinstance(value, Tensor))
    return Filling(bias, strength, share, given=marks)


def go_on(cache: Any, now: Filling, generation: Frame | None = None) -> None:
    """Check that a call may go on with a cache, and note how it fills it.

    The same tensors as in the call before need no comparison. Otherwise numbers are compared, which
    waits for the device once, as every check of values does.

    Args:
        cache: The cache of the call, or None.
        now: The steering of the call.
        generation: The frame of `generate()` if this is one of its steps. Only the first compares.

    Raises:
        ValueError: If the cache holds tokens that were read under another bias, or nothing tells
            under which they were read.

    """
    if not hasattr(cache, "get_seq_length"):
        return
    if generation is not None:
        steps = generation.continued
        if steps is not None and steps[0] is cache and _is_given(steps[1], now.given):
            return  # beams may have moved the rows since, within each prompt
        generation.continued = (cache, now.given)
    before = filling_of(cache)
    if before is None:
        if now.bias is None and caches.seen_tokens(cache) != 0:
            return  # it stays unknown; an unsteered call never waits
        if not _is_empty(cache):
            raise ValueError(
                "the cache must have been filled by calls of an enabled model to go on with "
                f"guide_bias, got a {type(cache).__name__} with tokens of which nothing tells "
                "under which bias they were read; fill a new cache with this model"
            )
    elif _is_same(before, now):
        return
    else:
        _check(cache, before, now)
    note(cache, now)


def note(cache: Any, now: Filling) -> None:
    """Note on a cache the steering of the calls that fill it."""
    keep_on(cache, _CACHE_STATE, now.kept())


def note_made(output: object, now: Filling) -> None:
    """Note the steering of a call on the cache that the model made in it, if it returned one."""
    parts = output.values() if isinstance(output, Mapping) else output
    for part in parts if isinstance(parts, Iterable) else ():
        if isinstance(part, Cache):
            note(part, now)


def filling_of(cache: Any) -> Filling | None:
    """Return under which steering a cache was filled, or None if nothing is known."""
    found: Filling | None = getattr(cache, _CACHE_STATE, None)
    return found


def refuse_compiled(cache: Any, *, is_steered: bool) -> None:
    """Refuse a cache whose tokens cannot be compared, because a graph is being recorded.

    Raises:
        ValueError: If it may hold tokens that were read under another bias.

    """
    if cache is None:
        return
    before = filling_of(cache)
    if is_steered and caches.seen_tokens(cache) != 0:
        raise ValueError(
            "a compiled model must get guide_bias without a cache, got a "
            f"{type(cache).__name__}, whose tokens cannot be compared inside a graph; use "
            "generate(), or make the inputs with model.prepare_inputs_for_generation()"
        )
    if before is not None and before.bias is not None:
        raise ValueError(
            "a compiled model must go on under the guide_bias that the cache was filled under, "
            "got none; make the inputs with model.prepare_inputs_for_generation(), or begin with "
            "a new cache"
        )


def _is_empty(cache: Any) -> bool:
    """Return whether a cache holds no token; this waits for the device once, if only that knows."""
    count = cache.get_seq_length()
    if isinstance(count, Tensor) and count.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return int(count) == 0


def _is_same(before: Filling, now: Filling) -> bool:
    if before.bias is None and now.bias is None:
        return True
    counted = all(version is not None for _, version in now.given)
    return bool(now.given) and counted and _is_given(before.given, now.given)


def _is_given(before: tuple[Any, ...], now: tuple[Any, ...]) -> bool:
    """Return whether these are the same tensors, and nobody has written into them since."""
    return len(before) == len(now) and all(
        one is other and known == version
        for (one, known), (other, version) in zip(before, now, strict=True)
    )


def _version(tensor: Tensor) -> int | None:
    """Return how often a tensor was written to; None in inference mode, where nothing counts."""
    return None if tensor.is_inference() else tensor._version


def _check(cache: Any, before: Filling, now: Filling) -> None:
    """Compare the steering of the tokens in a cache with that of a call.

    Raises:
        ValueError: If they differ.

    """
    count = cache.get_seq_length()
    slots = max((t.shape[1] for t in (before.bias, now.bias) if t is not None), default=0)
    if not isinstance(count, Tensor):
        slots = min(slots, count)
    if not slots:
        return
    known = next(t for t in (now.bias, before.bias) if t is not None)
    columns = torch.arange(slots, device=known.device)
    is_held = columns < (count.to(known.device) if isinstance(count, Tensor) else count)
    old, new = (_columns(t, slots, known) for t in (before.bias, now.bias))
    if before.bias is not None and now.bias is not None and len(old) != len(new):
        raise ValueError(
            f"guide_bias must have the {len(old)} row(s) of the cache, which was filled under one "
            f"of so many, got {len(new)}; repeat and select rows of a cache with its own methods"
        )
    is_other = (old != new) & is_held
    old_share, new_share = (_columns(t, slots, known) for t in (before.share, now.share))
    has_other_share = ((old_share != new_share) & is_held).any()
    is_biased = ((old != 0) & torch.isfinite(old) & is_held).any(1)
    has_other_strength = (_other_strength(before, now, known) & is_biased).any()
    found = torch.stack([is_other.any(), has_other_share, has_other_strength]).tolist()
    if found[0]:
        row, slot = is_other.nonzero()[0].tolist()
        was, wanted = (t.expand_as(is_other)[row, slot].item() for t in (old, new))
        raise ValueError(
            "guide_bias must leave the tokens in the cache the bias that they were read under, "
            f"got {wanted:g} for token {slot} of row {row}, which was read under {was:g}: later "
            f"layers keep what it made of them; {_ADVICE}"
        )
    for name, differs in zip(("guide_share", "guide_strength"), found[1:], strict=True):
        if differs:
            raise ValueError(
                f"{name} must be what it was when the marked tokens in the cache were read, got "
                f"another one; {_ADVICE}"
            )


def _columns(table: Tensor | None, slots: int, like: Tensor) -> Tensor:
    """Return the numbers of the first slots, ``[rows, slots]``; zeros for one row without any."""
    if table is None:
        return torch.zeros(1, slots, dtype=torch.float32, device=like.device)
    table = table.to(like.device)
    return F.pad(table, (0, max(slots - table.shape[1], 0)))[:, :slots]


def _other_strength(before: Filling, now: Filling, like: Tensor) -> Tensor:
    """Return for which rows the strengths differ, ``[rows or 1]``."""
    old, new = (None if t is None else t.to(like.device) for t in (before.strength, now.strength))
    if old is None and new is None:
        return torch.zeros(1, dtype=torch.bool, device=like.device)
    one = torch.ones((), device=like.device)
    differs = (one if old is None else old) != (one if new is None else new)
    return differs.flatten(1).any(1)
