# SPDX-License-Identifier: MIT
"""Where a token comes from: what each head of each layer attended to when it was written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guide_ext.integration.call.carrier import TablePlace
from guide_ext.integration.call.frame import Frame, using
from guide_ext.integration.compare import token_texts
from guide_ext.integration.image_prompts import require_text
from guide_ext.integration.influence.results import without_logits
from guide_ext.integration.inputs import Inputs, Prompt, encode
from guide_ext.integration.likelihood import check_positions, with_answer
from guide_ext.integration.model.parallel import group_of
from guide_ext.integration.model.state import (
    refuse_readers_of_both_sides,
    refuse_unknown_part,
    state_of,
    table_size,
)
from guide_ext.integration.model.verify import UnsupportedModelError
from guide_ext.op.call import AttentionCall
from guide_ext.op.row import weights_of_last_row
from guide_ext.steering.steering import Steering
from guide_ext.support.values import is_int

# The weights are computed once more, from the same queries and keys. What they are divided by must
# be what the kernel divided by, nats; rounding differs by some 1e-5, a lost bias by far more.
_SHOWN = 80  # characters of a wrong argument
_SAME_LSE = 1e-3
_WAYS = ("written", "read")


@dataclass(frozen=True)
class Sources:
    """What one row of attention pays to each token, by layer and head.

    Attributes:
        weights: ``[layers, heads, tokens]``, float32, on the CPU: the weights of the row on the
            tokens 0 to `row`. Of one head they sum to 1, less the share of a sink. NaN in heads
            that a layer does not have.
        tokens: What each of these tokens adds to the text.
        token: The token that was asked for, counted from the beginning of the prompt.
        row: The token whose query this is: `token`, or the one before it, which wrote it.
        prompt_tokens: How many tokens the prompt has.

    """

    weights: Tensor
    tokens: tuple[str, ...]
    token: int
    row: int
    prompt_tokens: int

    def mean(self) -> Tensor:
        """Return the mean over the heads of each layer, ``[layers, tokens]``."""
        return self.weights.nanmean(1)

    def strongest(
        self, count: int = 10, *, layer: int | None = None, head: int | None = None
    ) -> list[tuple[int, str, float]]:
        """Return the tokens that get the most attention: place, text and weight of each.

        Args:
            count: How many at most, from 1.
            layer: Of which layer; None for the mean of all.
            head: Of which head; None for the mean of all.

        Raises:
            ValueError: If there is no such layer or head, or `count` is none.

        Example:
            >>> weights = torch.tensor([[[0.25, 0.75]], [[0.5, 0.5]]])
            >>> found = Sources(weights, ("The", " cat"), 2, 1, 2)
            >>> found.strongest(1, layer=0), found.strongest(1)
            ([(1, ' cat', 0.75)], [(1, ' cat', 0.625)])

        """
        if not is_int(count) or count < 1:
            raise ValueError(f"count must be a whole number from 1, got {count!r}")
        layers, heads, _ = self.weights.shape
        for name, value, most in (("layer", layer, layers), ("head", head, heads)):
            if value is not None and not (is_int(value) and 0 <= value < most):
                raise ValueError(f"{name} must be from 0 to {most - 1}, or None, got {value!r}")
        own = self.weights if layer is None else self.weights[layer : layer + 1]
        own = own if head is None else own[:, head : head + 1]
        mean = own.nanmean((0, 1)).nan_to_num(0.0)
        values, places = mean.topk(min(count, len(mean)))
        return [
            (place, self.tokens[place], value)
            for place, value in zip(places.tolist(), values.tolist(), strict=True)
        ]


def sources(
    model: Any,
    tokenizer: Any,
    prompt: Prompt,
    answer: str | Sequence[int] = "",
    *,
    token: int = -1,
    of: str = "written",
    delta: float | None = None,
    steering: Steering | None = None,
) -> Sources:
    """Tell which tokens one token of a prompt or an answer comes from, by layer and head.

    One forward pass over the tokens up to that one, under the steering of the prompt; in every
    layer the weights of its last row are computed once more from the query and the keys that the
    kernel got. Nothing is n×n: the result has layers · heads · tokens numbers. Weights are flows of
    attention; what a head does with the values is not in them.

    Args:
        model: An enabled model with one text.
        tokenizer: Its fast tokenizer.
        prompt: A text with tags, a chat, a `MarkedText` or an `Encoding`, as for `encode`.
        answer: What follows the prompt exactly as it stands, text (many models begin a word with a
            space) or token ids. No bias is on it.
        token: Which token, counted from the beginning of the prompt; below 0 from the end of the
            answer.
        of: ``"written"``: the row that wrote the token, that is, the query of the token before it;
            ``"read"``: the query of the token itself.
        delta: Δ of a level-2 mark, nats; short for ``steering=Steering.guide(delta)``. 1 without
            either; 0 for the answer without steering, but for marks that state their own Δ.
        steering: What marks mean.

    Raises:
        UnsupportedModelError: If the model runs an attention layer twice in one pass, is spread
            over several processes, or attends to other keys than the tokens of the text.
        ValueError: If the model is not enabled, is an encoder or has one, or has too few positions;
            autocast is on;
            there is no such token, or no row that wrote it; or `of` is neither of the two.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> text = "<!!->Summarize in French<-!!>: Yesterday, the old baker hides the key."
        >>> prompt = guide.as_prompt(tokenizer, text)
        >>> found = sources(model, tokenizer, prompt, " Le boulanger", delta=2.0)
        >>> found.weights.shape[:2] == guide.table_size(model), len(found.tokens) == found.row + 1
        (True, True)
        >>> found.tokens[found.row], found.strongest(1, layer=0)[0][1]    # what wrote " boulanger"
        (' Le', ' baker')

    """
    if of not in _WAYS:
        raise ValueError(f"of must be 'written' or 'read', got {of!r}")
    layers, heads = _checked_size(model)
    require_text("sources()", tokenizer, prompt)
    if torch.is_autocast_enabled(model.device.type):
        raise ValueError(
            "sources() must be called outside of torch.autocast, which casts queries and keys on "
            "their way to the kernel; load the model in the dtype that it is to have"
        )
    inputs = encode(model, tokenizer, [prompt], delta=delta, steering=steering)
    inputs.pop("guide_seed", None)
    prompt_tokens = inputs["input_ids"].shape[1]
    whole = with_answer(inputs, _ids(tokenizer, answer))
    ids = whole["input_ids"][0].tolist()
    place, row = _row(token, of, len(ids))
    check_positions(model, row + 1)
    watch = _Rows(row + 1, layers, heads)
    with using(Frame(configs=state_of(model).findings.configs, watch=watch)), torch.no_grad():
        model(**_until(whole, row + 1), **without_logits(model), use_cache=False)
    texts = tuple(token_texts(tokenizer, ids[: row + 1]))
    return Sources(watch.whole(model), texts, place, row, prompt_tokens)


def _checked_size(model: Any) -> tuple[int, int]:
    """Return layers and heads of a model whose attention can be looked at."""
    size = table_size(model)  # raises if the model is not enabled
    refuse_readers_of_both_sides(model, "sources()")
    refuse_unknown_part(model, "sources()")
    name = type(model).__name__
    if state_of(model).findings.repeated:
        raise UnsupportedModelError(
            f"sources() must go to a model that runs every attention layer once, got {name}, whose "
            f"{state_of(model).findings.repeated} calls attention again in the same forward pass"
        )
    if group_of(model) is not None:
        raise UnsupportedModelError(
            f"sources() must go to a model in one process, got a {name} that is spread over "
            "several; load it without a DistributedConfig"
        )
    return size


def _ids(tokenizer: Any, answer: str | Sequence[int]) -> list[int]:
    if isinstance(answer, str):
        return list(tokenizer.encode(answer, add_special_tokens=False)) if answer else []
    is_list = isinstance(answer, Sequence) and not isinstance(answer, bytes | bytearray)
    if not is_list or not all(is_int(one) and 0 <= one < len(tokenizer) for one in answer):
        raise ValueError(
            f"answer must be text or token ids from 0 to {len(tokenizer) - 1}, got "
            f"{str(answer)[:_SHOWN]}"
        )
    return list(answer)


def _row(token: int, of: str, tokens: int) -> tuple[int, int]:
    """Return the place of a token, and that of the row which is asked for."""
    place = token + tokens if is_int(token) and token < 0 else token
    if not (is_int(token) and 0 <= place < tokens):
        raise ValueError(f"token must be from {-tokens} to {tokens - 1}, got {token!r}")
    if of == "written" and place == 0:
        raise ValueError("token must be at least 1 to have been written, got 0; use of='read'")
    return place, place - 1 if of == "written" else place


def _until(inputs: Inputs | dict[str, Tensor], end: int) -> dict[str, Tensor]:
    """Return the first tokens of the inputs; strengths count layers and heads, not tokens."""
    of_tokens = ("input_ids", "attention_mask", "guide_bias")
    return {name: one[:, :end] if name in of_tokens else one for name, one in inputs.items()}


class _Rows:
    """Takes the last row of the attention of every layer.

    Args:
        tokens: Number of tokens that the model reads.
        layers: Number of its attention layers.
        heads: Number of heads of the layer with the most.

    """

    def __init__(self, tokens: int, layers: int, heads: int) -> None:
        self._tokens = tokens
        self._seen = [False] * layers
        self._weights = torch.full((layers, heads, tokens), math.nan)

    def look(self, layer: TablePlace, call: AttentionCall, lse: Tensor) -> None:
        """Take one attention call."""
        rows, heads, queries, _ = call.query.shape
        keys = call.key.shape[2]
        if (rows, queries, keys) != (1, self._tokens, self._tokens) or self._seen[layer.index]:
            what = (
                f"a second call of layer {layer.index}" if self._seen[layer.index] else
                f"{queries} queries and {keys} keys in {rows} row(s) in layer {layer.index}"
            )  # fmt: skip
            raise UnsupportedModelError(
                f"sources() must see the {self._tokens} tokens of the text once in every layer, "
                f"got {what}"
            )
        weights, own = weights_of_last_row(
            call.query, call.key, call.key_bias, call.attn_bias, call.sinks, call.q_start,
            is_causal=call.is_causal, window_left=call.window_left,
            window_right=call.window_right, scale=call.scale, softcap=call.softcap,
        )  # fmt: skip
        kernel = lse[:, :, -1].to(own)
        if not torch.allclose(kernel, own, rtol=_SAME_LSE, atol=_SAME_LSE):
            raise RuntimeError(
                f"the weights of layer {layer.index} must be those of the kernel, whose logarithm "
                f"of the denominator is {kernel[0].tolist()}, got {own[0].tolist()}"
            )
        self._seen[layer.index] = True
        self._weights[layer.index, :heads] = weights[0].float().cpu()

    def whole(self, model: Any) -> Tensor:
        """Return the weights of all layers."""
        if not all(self._seen):
            raise UnsupportedModelError(
                f"sources() must see all {len(self._seen)} attention layers of a "
                f"{type(model).__name__}, got a pass that ran without layer "
                f"{self._seen.index(False)}"
            )
        return self._weights
