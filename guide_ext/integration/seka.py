# SPDX-License-Identifier: MIT
"""SEKA and AdaSEKA: edit the keys of marked tokens by learned projections."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from guide_ext.integration.answers import answers_of
from guide_ext.integration.image_prompts import require_text
from guide_ext.integration.inputs import Inputs, Prompt, encode
from guide_ext.integration.keys import Edit, Editor, Place, key_places, keys_of, last_queries
from guide_ext.steering.seka import KeyProjections, Mixture, fit_projections
from guide_ext.steering.steering import Steering
from guide_ext.support.values import finite

Triple = tuple[Prompt, Prompt, Prompt]
"""Prompts that mark the same text: without a question, behind the question that it answers, and
behind another one."""


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
    places = key_places(model, "fit_seka()")
    collected: list[list[Tensor]] = [[], [], []]
    for number, triple in enumerate(triples):
        if len(triple) != 3:
            raise ValueError(f"triples must have three prompts, got {len(triple)} in {number}")
        marked_ids = []
        for found, prompt in zip(collected, triple, strict=True):
            inputs, marked = _marked_inputs(model, tokenizer, [prompt])
            marked_ids.append(inputs["input_ids"][marked].tolist())
            found.append(keys_of(model, inputs, places)[:, :, marked[0]])
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
        negative: Gain g⁻. Paper and code halve the sum of both parts where there is a P⁻; here
            nothing is halved, so pass half of both gains.
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
        SEKA (Spectral Editing Key Amplification; Li et al. 2026, arXiv:2603.01281).

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
    places = key_places(model, "seka()")
    _check_size("projections", projections, places)
    return _answers(
        *(model, tokenizer, prompts, Editor(model, places, "seka()"), delta),
        lambda inputs: lambda layer, keys: projections.edited(keys, layer, *gains),
        max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, batch_size=batch_size,
        on_batch=on_batch,
    )  # fmt: skip


def ada_seka(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    experts: Sequence[KeyProjections],
    *,
    gain: float = 1.0,
    top: int = 5,
    delta: float = 0.0,
    max_new_tokens: int = 200,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 16,
    on_batch: Callable[[int], None] | None = None,
) -> list[str]:
    """Answer prompts as `seka` does, with several experts' projections mixed for each prompt.

    Every prompt is first read as it is. In each layer, and for each key-value head, the query of
    its last token says how well it fits the strongest directions of each expert, and so how much of
    these directions the edit has: k + g Σ weight · U Uᵀ k (see `guide_ext.steering.seka.Mixture`).
    Weights stay as they are for the whole answer. This reads every prompt twice.

    Args:
        model: The enabled model that the experts were learned from.
        tokenizer: Its fast tokenizer.
        prompts: Texts or chats, with tags.
        experts: Two or more results of `fit_seka`, each from pairs of another kind.
        gain: Gain g. AdaSEKA's code has 1.
        top: How many of the strongest directions of each expert count. AdaSEKA's scripts have 5.
        delta: Δ of level-2 marks beside it, nats; it acts in both readings.
        max_new_tokens: Longest answer, in tokens; shorter if the model has too few positions.
        temperature: 0 for greedy decoding, else multinomial sampling at this temperature.
        seed: Seed of the sampling, a whole number of 64 bits.
        batch_size: Prompts per call of ``generate``.
        on_batch: Called after every batch with the number of prompts in it.

    Returns:
        One string per prompt, without special tokens.

    Raises:
        ValueError: As `seka` does; or if there are fewer than two experts, `top` is no whole number
            from 1, or the queries of the model cannot be read.

    Source:
        AdaSEKA (Li et al. 2026, arXiv:2603.01281). Its code takes the query that a layer computes
        from its own *output*, and the query of the first prompt of a batch for all; here it is the
        query that the layer uses, of each prompt.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> who, where = "Who sleeps? ", "Where is Tom? "
        >>> texts = ("Now <!!->the cat sleeps<-!!>.", "In the garden <!!->Tom eats bread<-!!>.")
        >>> experts = [
        ...     guide.fit_seka(model, tokenizer, [(text, who + text, where + text)])
        ...     for text in texts
        ... ]
        >>> [answer] = ada_seka(model, tokenizer, [who + texts[0]], experts, max_new_tokens=4)
        >>> isinstance(answer, str)
        True

    """
    gain = finite("gain", gain)
    mixture = Mixture(tuple(experts), top)
    places = key_places(model, "ada_seka()")
    for number, expert in enumerate(experts):
        _check_size(f"experts[{number}]", expert, places)
    editor = Editor(model, places, "ada_seka()")

    def edit_of(inputs: Inputs) -> Edit:
        with editor.at_rest():
            weights = mixture.weights(last_queries(model, inputs, places, "ada_seka()"))
        return lambda layer, keys: mixture.edited(keys, layer, weights[:, layer], gain)

    return _answers(
        *(model, tokenizer, prompts, editor, delta, edit_of),
        max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, batch_size=batch_size,
        on_batch=on_batch,
    )  # fmt: skip


def _answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    editor: Editor,
    delta: float,
    edit_of: Callable[[Inputs], Edit],
    **how: Any,
) -> list[str]:
    """Answer prompts while the keys of their marked tokens are edited, as `edit_of` each batch."""
    with editor.at_work():

        def encoded(batch: Sequence[Prompt]) -> Inputs:
            inputs, marked = _marked_inputs(model, tokenizer, batch, delta)
            editor.expect(inputs["input_ids"], marked, edit_of(inputs))
            return inputs

        return answers_of(model, tokenizer, prompts, encoded, **how)


def editing(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    projections: KeyProjections,
    gain: float,
) -> tuple[Editor, Inputs]:
    """Return the inputs of one batch, and what edits their keys as `seka` does.

    Args:
        model: See `seka`, like all that is not explained here.
        tokenizer: See `seka`.
        prompts: See `seka`; marks mean no Δ, unless they state their own.
        projections: See `seka`.
        gain: Gain g⁺.

    Raises:
        ValueError: As `seka` does.

    """
    gain = finite("gain", gain)
    places = key_places(model, "seka()")
    _check_size("projections", projections, places)
    editor = Editor(model, places, "seka()")
    inputs, marked = _marked_inputs(model, tokenizer, prompts)
    editor.expect(
        inputs["input_ids"], marked, lambda layer, keys: projections.edited(keys, layer, gain)
    )
    return editor, inputs


def _check_size(name: str, projections: KeyProjections, places: Sequence[Place]) -> None:
    expected = [len(places), *places[0].size]
    if list(projections.positive.shape[:3]) != expected:
        raise ValueError(
            f"{name} must be [layers, num_kv_heads, head_dim] = {expected} of this model, got "
            f"{list(projections.positive.shape[:3])}; fit them on it"
        )


def _marked_inputs(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], delta: float = 0.0
) -> tuple[Inputs, Tensor]:
    """Encode prompts; return also which tokens are marked, bool ``[batch, tokens]``."""
    require_text("seka()", tokenizer)
    marks = Steering.instaboost(math.e)
    marked = encode(model, tokenizer, list(prompts), steering=marks)["guide_bias"] != 0
    inputs = encode(model, tokenizer, list(prompts), delta=delta)
    inputs.pop("guide_seed", None)
    return inputs, marked
