# SPDX-License-Identifier: MIT
"""Generate for a batch of prompts whose beginnings are the same, and compute each beginning once.

What stands before the first mark does not depend on the marks: no token sees a later one. So
prompts that differ in Δ alone share the keys and values of all that comes before it.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from guide_ext.integration.model.state import state_of
from guide_ext.integration.roomy import repeat_rows, roomy_cache

# What says which tokens are marked; 0 on the others.
_MARKS = ("guide_bias", "guide_share")

# transformers' kinds of rotary positions whose frequencies change with the length of a text.
ROPE_BY_LENGTH = {"dynamic", "longrope"}
# Below it, one more call of the model costs more than it saves.
_LEAST_SAVED = 0.05


@dataclass(frozen=True)
class Beginnings:
    """What the rows of a batch begin with.

    The beginning of one row can be that of another and go on: then it serves both.

    Attributes:
        length: Number of slots that every row begins with, padding included.
        first: The rows whose beginnings are computed; no two of them begin alike.
        of_row: For each row, the number in `first` of the row that begins as it does.
        further: For each row, how many tokens further that beginning goes than its own.
        tokens: Number of slots of a whole row.

    """

    length: int
    first: tuple[int, ...]
    of_row: tuple[int, ...]
    further: tuple[int, ...]
    tokens: int

    @property
    def saved(self) -> float:
        """The share of the tokens of the batch that need not be computed."""
        rows = len(self.of_row)
        return (rows - len(self.first)) * self.length / (rows * self.tokens)


def generate(model: Any, inputs: dict[str, Tensor], **how: Any) -> Tensor:
    """Call ``model.generate``; where rows begin alike before their first mark, begin for all once.

    The tokens are those of one call for all rows, up to rounding: the same products are computed in
    batches of another size.

    Args:
        model: An enabled model.
        inputs: What `guide_ext.integration.encode` returned for a batch.
        **how: Arguments of ``generate``.

    Returns:
        Token ids, ``[batch, tokens]``.

    Example:
        >>> import torch
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> texts = [f"The cat sleeps. <!{delta}->Summarize in French<-!>" for delta in (0, 2)]
        >>> inputs = guide.encode(model, tokenizer, texts)
        >>> beginnings_of(inputs).of_row
        (0, 0)
        >>> how = {"max_new_tokens": 4, "do_sample": False}
        >>> bool((generate(model, inputs, **how) == model.generate(**inputs, **how)).all())
        True

    """
    cache = _empty_cache(model)
    if cache is None:
        return _tensor(model.generate(**inputs, **how))
    beginnings = beginnings_of(inputs)
    if beginnings.saved < _LEAST_SAVED:
        return _tensor(model.generate(**inputs, **{_cache_name(model): cache}, **how))
    part = torch.tensor(beginnings.first, device=inputs["input_ids"].device)
    ids = inputs["input_ids"][part, : beginnings.length]
    _fill(cache, model, ids, inputs["attention_mask"][part, : beginnings.length])
    repeat_rows(
        cache,
        torch.tensor(beginnings.of_row, device=part.device),
        torch.tensor(beginnings.further, device=part.device),
    )
    return _tensor(model.generate(**inputs, **{_cache_name(model): cache}, **how))


def begun(model: Any, ids: Tensor, mask: Tensor) -> dict[str, DynamicCache] | None:
    """Compute what rows begin with, for a forward pass over what follows.

    Args:
        model: An enabled model.
        ids: Token ids, ``[batch, tokens]``, none of them marked; there may be no tokens.
        mask: 1 on tokens and 0 on padding, of the same shape.

    Returns:
        The argument of ``forward`` that carries the cache; None if the model needs a kind of cache
        that cannot be repeated for several rows.

    """
    cache = _empty_cache(model)
    if cache is None:
        return None
    if ids.shape[1]:
        _fill(cache, model, ids, mask)
    return {_cache_name(model): cache}


def _fill(cache: DynamicCache, model: Any, ids: Tensor, mask: Tensor) -> None:
    model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        use_cache=True,
        logits_to_keep=1,
        **{_cache_name(model): cache},
    )


def beginnings_of(inputs: dict[str, Tensor]) -> Beginnings:
    """Find what rows of a left-padded batch have in common before the first mark of any.

    All rows are cut at the same slot, so that what follows is a rectangle: at the one, up to that
    mark, that leaves the fewest tokens to compute.

    Args:
        inputs: What `guide_ext.integration.encode` returned.

    """
    ids, mask = inputs["input_ids"].cpu(), inputs["attention_mask"].cpu()
    rows, tokens = ids.shape
    marked = torch.zeros_like(ids, dtype=torch.bool)
    for name in _MARKS:
        if inputs.get(name) is not None:
            marked |= inputs[name].cpu() != 0
    some = marked.any(0).nonzero()
    # At least one token must be left, whose logits give the first new one.
    latest = min(int(some[0]) if len(some) else tokens, tokens - 1)
    padding = tokens - mask.sum(-1)
    common = _common(ids, padding)
    # Beginnings part company where two rows do; between these slots, a later cut is better.
    cuts = torch.unique((padding[:, None] + common).clamp(max=latest)).tolist()
    owners = [_owners(common, (cut - padding).clamp(min=0)) for cut in cuts]
    best = min(
        range(len(cuts)),
        key=lambda i: len(torch.unique(owners[i])) * cuts[i] + rows * (tokens - cuts[i]),
    )
    own = (cuts[best] - padding).clamp(min=0)
    first, of_row = torch.unique(owners[best], return_inverse=True)
    further = own[owners[best]] - own
    return Beginnings(
        cuts[best],
        tuple(first.tolist()),
        tuple(of_row.tolist()),
        tuple(further.tolist()),
        tokens,
    )


def _common(ids: Tensor, padding: Tensor) -> Tensor:
    """Return with how many equal tokens each pair of rows begins, ``[batch, batch]``."""
    rows, tokens = ids.shape
    slots = torch.arange(tokens)
    # Without the padding on the left, and with another number on the right of each row.
    moved = ids.gather(1, (slots + padding[:, None]).clamp(max=tokens - 1))
    moved = torch.where(slots < tokens - padding[:, None], moved, -1 - torch.arange(rows)[:, None])
    ends = torch.full((rows, 1), True)
    return torch.stack(
        [torch.cat((moved != row, ends), 1).int().argmax(1) for row in moved]
    )  # the first slot that differs


def _owners(common: Tensor, own: Tensor) -> Tensor:
    """Return for each row the one that begins as it does, and goes on the longest.

    Args:
        common: What `_common` returned.
        own: Number of tokens in the beginning of each row.

    """
    rows = len(own)
    # Of several that go on as long, the first; so whoever owns a beginning owns itself.
    rank = own * rows + torch.arange(rows - 1, -1, -1)
    return torch.where(common >= own[:, None], rank, -1).argmax(1)


def _empty_cache(model: Any) -> DynamicCache | None:
    """Return a cache that can be repeated for several rows; None if the model needs another kind.

    A sliding window, a recurrent state or a compressed cache keeps only a part of what it has seen,
    or keeps it otherwise. Where the frequencies of positions depend on how long a text is, a
    beginning alone would get others than within the whole.
    """
    config = model.config
    if rope_types(config.get_text_config()) & ROPE_BY_LENGTH:
        return None
    names = inspect.signature(type(model).forward).parameters
    if config.is_encoder_decoder or not {"position_ids", "logits_to_keep"} <= set(names):
        return None
    if not model._supports_default_dynamic_cache() or _cache_name(model) is None:
        return None
    return roomy_cache(config)


def rope_types(config: Any) -> set[str]:
    """Return the kinds of rotary positions of a model, which may differ between its layers."""
    known = getattr(config, "rope_parameters", None) or {}
    of_layers = [part for part in known.values() if isinstance(part, dict)]
    return {part["rope_type"] for part in (known, *of_layers) if "rope_type" in part}


def _cache_name(model: Any) -> Any:
    return state_of(model).findings.cache_argument


def _tensor(output: Any) -> Tensor:
    assert isinstance(output, Tensor)  # nobody asked for more than the tokens
    return output
