# SPDX-License-Identifier: MIT
"""Prompt-Highlighter: classifier-free guidance between marked text raised and played down."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel

from guide_ext.integration.answers import answers_of
from guide_ext.integration.image_prompts import require_text
from guide_ext.integration.inputs import Inputs, Prompt, encode
from guide_ext.integration.model.state import refuse_readers_of_both_sides
from guide_ext.steering.steering import Steering
from guide_ext.support.values import as_float

_MOST_SCALE = 1e4


def highlight(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    multiplier: float = 5.0,
    guidance_scale: float = 1.5,
    suppression: float | None = None,
    max_new_tokens: int = 200,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 16,
    trusted_roles: Collection[str] = ("system", "user"),
    on_batch: Callable[[int], None] | None = None,
) -> list[str]:
    """Answer prompts by what marked text adds to the model's probabilities.

    Every prompt is read twice, in one batch: once with the attention to marked tokens multiplied by
    `multiplier` in every head, once by `suppression`, as `Steering.instaboost` does it. A token is
    chosen by ``low + guidance_scale · (high - low)``, where high and low are the log-probabilities
    of both; both go on with it. It takes twice the time and memory of `complete`.

    Args:
        model: An enabled model, in evaluation mode.
        tokenizer: Its fast tokenizer.
        prompts: Texts or chats, with tags. All marks count alike, whatever their level.
        multiplier: Factor of the first reading, above 0; the authors' examples have 5 and more.
        guidance_scale: 1 for the first reading alone; above, the difference counts more than once.
        suppression: Factor of the second reading, from 0, which hides marked tokens; None for
            ``1 / multiplier``.
        max_new_tokens: Longest answer, in tokens; shorter if the model has too few positions.
        temperature: 0 for greedy decoding, else multinomial sampling at this temperature.
        seed: Seed of the sampling, a whole number of 64 bits.
        batch_size: Prompts per call of ``generate``; each is two rows of it.
        trusted_roles: Roles of a chat whose tags act.
        on_batch: Called after every batch with the number of prompts in it.

    Returns:
        One string per prompt, without special tokens.

    Raises:
        ValueError: As `complete` does; or if a factor or the scale is out of range, both factors
            are the same, or the model does not go on with one text.

    Source:
        Prompt Highlighter (Zhang et al. 2024, arXiv:2312.04302). The authors' code also multiplies
        the embeddings of marked tokens by 0.01 in the second reading, which is not done here, and
        its suppression is e⁻² / multiplier. ``multiplier=1, suppression=0`` is the contrast of
        Selective Prompt Anchoring (Tian and Zhang 2024) with ω = guidance_scale, where marked
        tokens are hidden from attention and not replaced.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> prompt = guide.as_prompt(tokenizer, "<!!->Summarize in French<-!!>: The cat sleeps.")
        >>> [answer] = highlight(model, tokenizer, [prompt], guidance_scale=2.0, max_new_tokens=8)
        >>> isinstance(answer, str)
        True

    """
    contrast = Contrast(guidance_scale)
    factors = checked_factors(multiplier, suppression)
    return answers_of(
        model, tokenizer, prompts,
        lambda batch: both_readings(model, tokenizer, batch, *factors, trusted_roles=trusted_roles),
        max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, batch_size=batch_size,
        contrast=contrast, on_batch=on_batch,
    )  # fmt: skip


def checked_factors(multiplier: float, suppression: float | None) -> tuple[float, float]:
    """Return the factors of both readings; see `highlight`.

    Raises:
        ValueError: If one is out of range, or they are the same.

    Example:
        >>> checked_factors(4.0, None)
        (4.0, 0.25)

    """
    high = as_float(multiplier)
    if not math.isfinite(high) or high <= 0:
        raise ValueError(f"multiplier must be a finite number above 0, got {multiplier!r}")
    low = 1 / high if suppression is None else as_float(suppression)
    if not math.isfinite(low) or low < 0:
        raise ValueError(f"suppression must be a finite number from 0, got {suppression!r}")
    if low == high:
        raise ValueError(
            "suppression must differ from multiplier, or both readings are the same, got "
            f"{multiplier!r} and {suppression!r}"
        )
    return high, low


def both_readings(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    multiplier: float,
    suppression: float,
    **how: Any,
) -> Inputs:
    """Encode prompts twice: a batch whose second half plays down what its first half raises.

    Args:
        model: An enabled model.
        tokenizer: Its fast tokenizer.
        prompts: Texts or chats, with tags.
        multiplier: See `highlight`.
        suppression: See `highlight`; not None.
        **how: Passed on to `encode`.

    Raises:
        ValueError: As `encode` does, or if the model does not go on with one text.

    """
    require_text("highlight()", tokenizer)
    marks = Steering.instaboost(math.e)
    once = encode(model, tokenizer, list(prompts), steering=marks, **how)
    refuse_readers_of_both_sides(model, "highlight()")
    once.pop("guide_seed", None)
    is_marked = once["guide_bias"] != 0
    biases = [
        torch.where(is_marked, math.log(factor) if factor else -math.inf, 0.0)
        for factor in (multiplier, suppression)
    ]
    inputs = Inputs((name, torch.cat([tensor, tensor])) for name, tensor in once.items())
    inputs["guide_bias"] = torch.cat(biases)
    return inputs


class Contrast(LogitsProcessor):  # type: ignore[misc]
    """Classifier-free guidance between the two halves of a batch, which write the same answers.

    Args:
        guidance_scale: See `highlight`.

    Raises:
        ValueError: If it is not a number from 1 to 10,000.

    Source:
        Stay on topic with Classifier-Free Guidance (Sanchez et al. 2023, arXiv:2306.17806).

    Example:
        >>> logits = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
        >>> found = Contrast(2.0)(torch.zeros(2, 1), logits)
        >>> bool((found[0] == found[1]).all()), round(float(found[0, 1] - found[0, 0]), 3)
        (True, 2.0)

    """

    def __init__(self, guidance_scale: float) -> None:
        if not 1 <= as_float(guidance_scale) <= _MOST_SCALE:
            raise ValueError(
                f"guidance_scale must be a number from 1 to {_MOST_SCALE:g}, got {guidance_scale!r}"
            )
        self._scale = float(guidance_scale)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the contrasted log-probabilities, twice: ``[rows, vocabulary]``.

        Raises:
            RuntimeError: If the halves have not written the same tokens.

        """
        rows = len(input_ids) // 2
        if not torch.equal(input_ids[:rows], input_ids[rows:]):
            raise RuntimeError(
                "both halves of the batch must write the same tokens, got others: the decoding "
                "draws or reorders rows on its own"
            )
        high, low = scores.float().log_softmax(-1).chunk(2)
        mixed = low + self._scale * (high - low)
        # A token that may not come has no log-probability in either.
        mixed = mixed.masked_fill(high == -math.inf, -math.inf)
        return torch.cat([mixed, mixed])
