# SPDX-License-Identifier: MIT
"""Answer a batch with a random seed for each row, so that rows do not depend on each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from guide_ext.integration import prefixes
from guide_ext.integration.decoding import decoding_options, first_new
from guide_ext.integration.highlight import Contrast, both_readings, checked_factors
from guide_ext.integration.inputs import Prompt, encode
from guide_ext.integration.seka import editing
from guide_ext.steering.seka import KeyProjections
from guide_ext.steering.steering import Steering


def answer_rows(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    seeds: Sequence[int],
    steering: Sequence[Steering] | None = None,
    min_share: float | None = None,
    guidance_scale: float | None = None,
    multiplier: float = 1.0,
    projections: KeyProjections | None = None,
    gain: float = 0.8,
    max_new_tokens: int = 200,
    temperature: float = 0.0,
) -> list[tuple[str, int]]:
    """Answer prompts in one batch, each sampled from its own seed.

    Args:
        model: An enabled model.
        tokenizer: Its tokenizer.
        prompts: Texts or chats. Marks should state their own Δ; a mark of level 2 means 1 nat.
        seeds: One for each prompt.
        steering: What marks mean, one for each prompt; None for that.
        min_share: In place of Δ: the minimum share of the attention that marked text gets.
        guidance_scale: In place of Δ: answer as `guide_ext.integration.highlight` does, by this
            scale and `multiplier`.
        multiplier: See `guidance_scale`.
        projections: In place of Δ: edit keys as `guide_ext.integration.seka` does, with these and
            g⁺ = `gain`. What prompts have in common is then computed for each of them.
        gain: See `projections`.
        max_new_tokens: Longest answer, in tokens.
        temperature: 0 for greedy decoding, else multinomial sampling at this temperature.

    Returns:
        For each prompt, the new text and its number of tokens.

    Raises:
        ValueError: If the model has too few positions for a prompt and its answer, or an argument
            is out of range.

    Example:
        >>> from guide_ext import integration as guide
        >>> from guide_ext.spans import parse
        >>> model, tokenizer = guide.load_embedded()
        >>> prompt = guide.as_prompt(tokenizer, "<!2-> Summarize in French <-!> The cat sleeps.")
        >>> [(text, tokens)] = answer_rows(model, tokenizer, [prompt], seeds=[1], max_new_tokens=3)
        >>> tokens
        3

    """
    if len(seeds) != len(prompts):
        raise ValueError(f"seeds must be one for each of {len(prompts)} prompts, got {len(seeds)}")
    contrast, editor = None, None
    if projections is not None:
        if steering is not None or min_share is not None or guidance_scale is not None:
            raise ValueError(
                "projections must come without steering, min_share and guidance_scale, got "
                f"{steering!r}, {min_share!r} and {guidance_scale!r}"
            )
        editor, inputs = editing(model, tokenizer, prompts, projections, gain)
    elif guidance_scale is not None:
        if steering is not None or min_share is not None:
            raise ValueError(
                "guidance_scale must come without steering and min_share, got "
                f"{steering!r} and {min_share!r}"
            )
        contrast = Contrast(guidance_scale)
        factors = checked_factors(multiplier, None)
        inputs = both_readings(model, tokenizer, prompts, *factors)
        seeds = [*seeds, *seeds]
    else:
        delta = 1.0 if steering is None and min_share is None else None
        inputs = encode(
            model, tokenizer, list(prompts), delta=delta, steering=steering, min_share=min_share
        )
    length = first_new(model, inputs)
    how = decoding_options(
        model, length, max_new_tokens, temperature, seeds=seeds, tokenizer=tokenizer,
        contrast=contrast,
    )  # fmt: skip
    allowed = how["generation_config"].max_new_tokens
    with torch.inference_mode():
        if editor is None:
            sequences = prefixes.generate(model, inputs, **how)
        else:
            with editor.at_work():
                sequences = model.generate(**inputs, **how)
    new = sequences[: len(prompts), length:]
    texts = tokenizer.batch_decode(new, skip_special_tokens=True)
    written = [_written(model.generation_config, tokenizer, row) for row in new.tolist()]
    if allowed < max_new_tokens and None in written:
        # Otherwise the longest prompt of a batch would decide where an answer is cut off.
        raise ValueError(
            f"answers must end, or have {max_new_tokens} tokens, within the "
            f"{length + allowed} positions that the model knows, got one that goes "
            f"on behind {length} tokens of prompt; shorten the prompt"
        )
    counts = [new.shape[1] if count is None else count for count in written]
    return list(zip(texts, counts, strict=True))


def _written(config: Any, tokenizer: Any, row: list[int]) -> int | None:
    """Return the number of tokens up to the end of the text, or None if it does not end."""
    ends, stops = _listed(config.eos_token_id), _listed(config.stop_strings)
    found = next((index for index, token in enumerate(row) if token in ends), None)
    if found is not None:
        return found + 1
    if not any(stop in tokenizer.decode(row) for stop in stops):
        return None
    while row and row[-1] == config.pad_token_id:
        row = row[:-1]
    return len(row)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
