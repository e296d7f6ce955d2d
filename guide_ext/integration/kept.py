# SPDX-License-Identifier: MIT
"""Keep the keys and values of texts that may go on: the next turn of a chat begins with the last.

They depend on the tokens and, behind the first layer, on their bias. So a text may go on with what
another left only as far as both are the same, and under the same layers and heads.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guide_ext.integration import prefixes
from guide_ext.integration.roomy import slots_of
from guide_ext.marking.tokens import Encoding
from guide_ext.steering.steering import Steering

_FEWEST = 16  # tokens; what is shorter is as soon computed as found


@dataclass(eq=False)
class Kept:
    """One text and its cache.

    Attributes:
        ids: Its tokens, as many as the cache holds.
        nats: Their bias.
        where: The layers and heads that the bias acts in.
        cache: The argument of ``generate`` that carries the cache.

    """

    ids: list[int]
    nats: list[float]
    where: tuple[Any, ...]
    cache: dict[str, Any]


class KeptTexts:
    """The texts that were generated last, as many as fit.

    Args:
        model: An enabled decoder.
        most: Most tokens that the tensors of all texts together could hold; 0 keeps none.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> kept = KeptTexts(model, 1000)
        >>> text = "The cat sleeps. " * 8
        >>> encoding = Encoding(tokenizer(text)["input_ids"], [], text, (), ())
        >>> one = kept.begin(encoding, Steering.guide(2.0))
        >>> inputs = guide.encode(model, tokenizer, text)
        >>> ids = model.generate(**inputs, **one.cache, max_new_tokens=4, do_sample=False)
        >>> kept.keep(one, ids[0])
        >>> longer = Encoding(ids[0].tolist() + [45], [], "", (), ())
        >>> len(kept.begin(longer, Steering.guide(2.0)).ids) == ids.shape[1] - 1
        True

    """

    def __init__(self, model: Any, most: int) -> None:
        self._model, self._most = model, most
        self._texts: list[Kept] = []  # the one that was used last is the last

    @property
    def tokens(self) -> int:
        """Number of tokens that the tensors could hold; a cache has room behind its last one."""
        return sum(slots_of(cache) for text in self._texts for cache in text.cache.values())

    def begin(self, encoding: Encoding, steering: Steering) -> Kept | None:
        """Return what a prompt begins with, and take it out; None if the model has no such cache.

        Args:
            encoding: The prompt.
            steering: What its marks mean.

        """
        if not self._most:
            return None
        ids, nats = encoding.input_ids, steering.bias(encoding).tolist()
        where = (steering.layers, steering.heads, steering.heads_by_layer, steering.table)
        best, length = None, _FEWEST - 1
        for text in self._texts:
            common = _common(text, ids, nats) if text.where == where else 0
            # The last token must be computed: its logits give the first new one.
            common = min(common, len(ids) - 1)
            if common > length:
                best, length = text, common
        if best is None:
            empty = torch.empty(1, 0, dtype=torch.long)
            cache = prefixes.begun(self._model, empty, empty)
            return None if cache is None else Kept([], [], where, cache)
        self._texts.remove(best)
        if length < len(best.ids):
            # Two texts part here, and either may go on.
            with torch.inference_mode():
                left = Kept(best.ids, best.nats, where, copy.deepcopy(best.cache))
            self._texts.append(left)
            for cache in best.cache.values():
                cache.crop(length - len(best.ids))  # below 0: so many tokens less
        return Kept(best.ids[:length], best.nats[:length], where, best.cache)

    def keep(self, text: Kept, ids: Tensor, nats: Sequence[float] = ()) -> None:
        """Keep a text that `generate` has written.

        Args:
            text: What `begin` returned for its prompt.
            ids: The tokens of prompt and answer, ``[tokens]``.
            nats: The bias of the prompt; tokens behind it have none.

        """
        (cache,) = text.cache.values()
        held = int(cache.get_seq_length())  # without the last token, which nobody has read
        known = ids.tolist()[:held]
        if len(known) < _FEWEST:
            return
        bias = [*nats, *[0.0] * len(known)][: len(known)]
        new = Kept(known, bias, text.where, text.cache)
        # What another goes on from is of no more use; the same question comes again and again.
        self._texts = [one for one in self._texts if not _begins(one, new)]
        longer = next((one for one in self._texts if _begins(new, one)), None)
        if longer is not None:
            self._texts.remove(longer)
        self._texts.append(longer or new)
        while self._texts and self.tokens > self._most:
            self._texts.pop(0)


def _begins(one: Kept, other: Kept) -> bool:
    """Return whether one text is all that another begins with."""
    return one.where == other.where and _common(one, other.ids, other.nats) == len(one.ids)


def _common(text: Kept, ids: Sequence[int], nats: Sequence[float]) -> int:
    """Return with how many tokens of the same bias two texts begin."""
    for place, pairs in enumerate(zip(text.ids, ids, text.nats, nats, strict=False)):
        if pairs[0] != pairs[1] or pairs[2] != pairs[3]:
            return place
    return min(len(text.ids), len(ids))
