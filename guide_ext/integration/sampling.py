# SPDX-License-Identifier: MIT
"""Batches whose rows do not depend on each other: every row has random numbers of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from guide_ext.integration.inputs import Prompt, encode
from guide_ext.integration.text import decoding_options, seeded


class RowSampling(LogitsProcessor):  # type: ignore[misc]
    """Sample by greedy decoding: add Gumbel noise, drawn for each row from its own seed.

    The largest of ``logits / temperature + noise`` is distributed as softmax says, so that greedy
    decoding of it is multinomial sampling. `generate()` draws for a whole batch from one generator:
    there an answer depends on what else is in its batch.

    Args:
        seeds: One for each row.
        temperature: Above 0.

    Source:
        E. J. Gumbel (1954); C. Maddison et al., A* Sampling (NeurIPS 2014), Section 2.

    Example:
        >>> first = RowSampling([5], 1.0)(torch.zeros(1, 1), torch.zeros(1, 4))
        >>> beside = RowSampling([7, 5], 1.0)(torch.zeros(2, 1), torch.zeros(2, 4))
        >>> torch.equal(first[0], beside[1])
        True

    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        """Make a generator for every row."""
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the noisy logits, ``[rows, vocabulary]``."""
        size = scores.shape[-1]
        drawn = [torch.empty(size).exponential_(generator=g) for g in self._generators]
        return scores.float() / self._temperature - torch.stack(drawn).log().to(scores.device)


def answer_rows(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    seeds: Sequence[int],
    max_new_tokens: int = 200,
    temperature: float = 0.0,
) -> list[tuple[str, int]]:
    """Answer prompts in one batch, each sampled from its own seed.

    Args:
        model: An enabled model.
        tokenizer: Its tokenizer.
        prompts: Texts or chats; marks state their own Δ, those with a level have 1 nat.
        seeds: One for each prompt.
        max_new_tokens: Most tokens to write.
        temperature: 0 for greedy decoding, else multinomial sampling at this temperature.

    Returns:
        For each prompt the new text and its number of tokens.

    Raises:
        ValueError: If the model knows too few positions for a prompt and its answer, or an argument
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
    inputs = encode(model, tokenizer, list(prompts), delta=1.0)
    length = inputs["input_ids"].shape[1]
    how = decoding_options(model, length, max_new_tokens, temperature)
    for name in ("temperature", "top_k", "top_p"):
        how.pop(name, None)
    if how.pop("do_sample"):
        how["logits_processor"] = LogitsProcessorList([RowSampling(seeds, temperature)])
    # Some models penalise repetition by default; the logits are to be theirs alone.
    how |= {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    with torch.inference_mode(), seeded(0):
        sequences = model.generate(**inputs, do_sample=False, **how)
    new = sequences[:, length:]
    texts = tokenizer.batch_decode(new, skip_special_tokens=True)
    ends = model.generation_config.eos_token_id
    ends = torch.tensor(ends if isinstance(ends, list) else [ends] if ends is not None else [])
    new = new.cpu()
    if how["max_new_tokens"] < max_new_tokens and not torch.isin(new, ends).any(1).all():
        # Where an answer is cut off would depend on the longest prompt of its batch.
        raise ValueError(
            f"answers must end, or have {max_new_tokens} tokens, within the "
            f"{length + how['max_new_tokens']} positions that the model knows, got one that goes "
            f"on behind {length} tokens of prompt; shorten the prompt"
        )
    return [(text, _written(row, ends)) for text, row in zip(texts, new, strict=True)]


def _written(row: Tensor, ends: Tensor) -> int:
    """Count the tokens up to the one that ends the text."""
    found = torch.isin(row, ends).nonzero()
    return int(found[0]) + 1 if len(found) else len(row)
