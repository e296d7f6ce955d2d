# SPDX-License-Identifier: MIT
"""From prompts to answers: load a checkpoint, steer it, read what it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from guide_ext.integration.decoding import (
    PromptSeeds,
    check_temperature,
    decoding_options,
    has_room,
)
from guide_ext.integration.inputs import Prompt, encode
from guide_ext.integration.streaming import AnswerStream
from guide_ext.marking.chat import Chat
from guide_ext.steering.steering import Steering
from guide_ext.support.values import is_int


def as_prompt(
    tokenizer: Any, text: str, *, system: str | None = None, chat: bool = True
) -> str | Chat:
    """Wrap text as a chat where the tokenizer has a chat template, else leave it as it is.

    Args:
        tokenizer: The model's tokenizer.
        text: What the user wrote, tags included.
        system: A system message to put in front; needs a chat template.
        chat: False to use the plain text even where there is a template.

    Returns:
        Messages for :func:`encode`, or the text itself.

    Raises:
        ValueError: ``system`` was given but the prompt is not a chat.

    """
    if chat and getattr(tokenizer, "chat_template", None):
        first = [{"role": "system", "content": system}] if system is not None else []
        return [*first, {"role": "user", "content": text}]
    if system is not None:
        msg = "system must be left out: this prompt has no chat template that could carry it"
        raise ValueError(msg)
    return text


def complete(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    delta: float = 2.0,
    steering: Steering | None = None,
    max_new_tokens: int = 200,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 16,
    stream: bool = False,
    on_batch: Callable[[int], None] | None = None,
    on_token: Callable[[int], None] | None = None,
) -> list[str]:
    """Answer prompts in left-padded batches and return the new text of each.

    One answer a prompt, decoded greedily or by plain sampling from the model's own probabilities.
    Of the checkpoint's ``generation_config`` only what the model knows of its texts holds: which
    tokens and words end one, and which tokens may never come. Beams, penalties, cut-offs, other
    numbers of answers and the rest do not; `guide_ext.integration.decoding` lists every field.

    A sampled answer depends on the seed, the prompt and the model alone: its noise is drawn on the
    CPU for each prompt from a generator of its own, so that neither other prompts, their order,
    the size of the batches nor other threads change it, and torch's global random state is
    neither read nor changed. A prompt that comes several times, with the same marks, gets as many
    answers; with other marks or another strength it is answered with the same noise, as fits a
    comparison. One thing is out of reach: a row in a padded batch has the logits that it has alone
    only up to rounding, so that an answer, sampled or greedy, may part from the one that it is
    alone where two tokens are as good as equally likely. The same batches give the same bits.

    Args:
        model: An enabled model, in evaluation mode.
        tokenizer: Its tokenizer.
        prompts: Texts or chats, with tags.
        delta: Strength of level 2 in nats; levels 1 and 3 are half and twice of it.
        steering: Another way to steer than GUIDE on all layers and heads; overrides ``delta``.
        max_new_tokens: Most tokens to write per prompt; fewer where the model knows no further
            positions.
        temperature: 0 for greedy decoding, else multinomial sampling at this temperature.
        seed: Seed of the sampling, of 64 bits.
        batch_size: Prompts per call of ``generate``.
        stream: Print tokens to standard output while they come; needs a single prompt. On a
            terminal control characters are shown as symbols; a file or a pipe gets them as they
            are.
        on_batch: Called after every batch with the number of prompts that it answered.
        on_token: Called after every step of a batch with the number of tokens that each of its
            answers has by then.

    Returns:
        One string per prompt, special tokens removed.

    Raises:
        ValueError: A prompt's tags are wrong, a prompt has more tokens than the model knows
            positions, an argument is out of range, or the model is in training mode.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> prompts = ["Summarize in French: the cat sleeps.", "Summarize in French: the dog eats."]
        >>> how = {"temperature": 1.0, "seed": 7, "max_new_tokens": 8}
        >>> first, second = complete(model, tokenizer, prompts, **how)
        >>> [second, first] == complete(model, tokenizer, prompts[::-1], batch_size=1, **how)
        True

    """
    if isinstance(prompts, str) or (prompts and isinstance(prompts[0], Mapping)):
        msg = "prompts must be a list of texts or chats, got a single one; write [prompt]"
        raise ValueError(msg)
    if not is_int(batch_size) or batch_size < 1:
        msg = f"batch_size must be a whole number from 1, got {batch_size!r}"
        raise ValueError(msg)
    if stream and len(prompts) != 1:
        msg = f"stream needs exactly one prompt, got {len(prompts)}"
        raise ValueError(msg)
    check_temperature(temperature)
    seeds = PromptSeeds(seed)
    streamer = {}
    if stream or on_token is not None:
        streamer["streamer"] = AnswerStream(tokenizer if stream else None, on_token)
    how_marked = steering or Steering.guide(delta)
    answers: list[str] = []
    for start in range(0, len(prompts), batch_size):
        batch = list(prompts[start : start + batch_size])
        inputs = encode(model, tokenizer, batch, steering=how_marked)
        parts = [inputs]
        if len(batch) > 1 and not has_room(model, inputs["input_ids"].shape[1], max_new_tokens):
            # The longest prompt would cut the answers of its neighbours.
            parts = [encode(model, tokenizer, [prompt], steering=how_marked) for prompt in batch]
        for part in parts:
            tokens = part["input_ids"].shape[1]
            how = decoding_options(
                model,
                tokens,
                max_new_tokens,
                temperature,
                seeds=seeds.of(part),
                tokenizer=tokenizer,
            )
            with torch.inference_mode():
                ids = model.generate(**part, **how, **streamer)  # type: ignore[operator]
            answers += tokenizer.batch_decode(ids[:, tokens:], skip_special_tokens=True)
        if on_batch is not None:
            on_batch(len(batch))
    return answers
