# SPDX-License-Identifier: MIT
"""From prompts to answers: steer a model, generate, return the new text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, PreTrainedModel

from guide_ext.integration.decoding import (
    PromptSeeds,
    check_temperature,
    decoding_options,
    first_new,
    has_room,
)
from guide_ext.integration.image_prompts import require_text
from guide_ext.integration.inputs import Inputs, Prompt, encode
from guide_ext.integration.streaming import AnswerStream
from guide_ext.marking.chat import Chat
from guide_ext.steering.steering import Steering
from guide_ext.support.values import is_int


def as_prompt(
    tokenizer: Any, text: str, *, system: str | None = None, chat: bool = True
) -> str | Chat:
    """Wrap text as a chat if the tokenizer has a chat template, else return it as it is.

    Args:
        tokenizer: The model's tokenizer.
        text: What the user wrote, tags included.
        system: A system message to put in front; needs a chat template.
        chat: False to use the plain text even where there is a template.

    Returns:
        Messages for :func:`encode`, or the text itself.

    Raises:
        ValueError: If ``system`` is given but the prompt is not a chat.

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

    Each prompt gets one answer, decoded greedily or by plain sampling from the model's own
    probabilities. Of the checkpoint's ``generation_config``, only fields that describe the model's
    texts count: which tokens and words end a text, and which tokens may never come. Beams,
    penalties, cut-offs, numbers of answers and the rest do not count.
    `guide_ext.integration.decoding` lists every field.

    A sampled answer depends only on the seed, the prompt and the model. Its noise is drawn on the
    CPU, from a generator for each prompt. So other prompts, their order, the size of the batches
    and other threads do not change it, and torch's global random state is neither read nor changed.
    A prompt that is given several times with the same marks is sampled anew each time. With other
    marks or another strength it is answered with the same noise, so that answers can be compared.

    There is one exception: the logits of a row in a padded batch equal those of the same prompt
    alone only up to rounding. Where two tokens are nearly equally likely, an answer, sampled or
    greedy, may therefore differ from the one outside the batch. The same batches give the same
    bits.

    Args:
        model: An enabled model, in evaluation mode.
        tokenizer: Its tokenizer; no processor, because answers are to text alone.
        prompts: Texts or chats, with tags.
        delta: Δ of a level-2 mark, nats; levels 1 and 3 mean half and twice as much.
        steering: Replaces ``delta``; for other methods than GUIDE on all layers and heads.
        max_new_tokens: Longest answer, in tokens; shorter if the model has too few positions.
        temperature: 0 for greedy decoding, else multinomial sampling at this temperature.
        seed: Seed of the sampling, a whole number of 64 bits.
        batch_size: Prompts per call of ``generate``.
        stream: Print the answer to standard output while it is written; needs a single prompt. A
            terminal gets control characters as symbols; a file or a pipe gets them unchanged.
        on_batch: Called after every batch with the number of prompts in it.
        on_token: Called after every step of a batch with the number of tokens that each of its
            answers has so far.

    Returns:
        One string per prompt, without special tokens.

    Raises:
        ValueError: If a prompt's tags are wrong, a prompt leaves no position for an answer, an
            argument is out of range, there are images, or the model is in training mode.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> prompts = ["Summarize in French: the cat sleeps.", "Summarize in French: the dog eats."]
        >>> how = {"temperature": 1.0, "seed": 7, "max_new_tokens": 8}
        >>> first, second = complete(model, tokenizer, prompts, **how)
        >>> [second, first] == complete(model, tokenizer, prompts[::-1], batch_size=1, **how)
        True

    """
    require_text("complete()", tokenizer)
    _refuse_single(prompts)
    if stream and len(prompts) != 1:
        msg = f"stream needs exactly one prompt, got {len(prompts)}"
        raise ValueError(msg)
    streamer = AnswerStream(tokenizer if stream else None, on_token)
    how_marked = steering or Steering.guide(delta)
    return answers_of(
        model, tokenizer, prompts,
        lambda batch: encode(model, tokenizer, batch, steering=how_marked),
        max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, batch_size=batch_size,
        streamer=streamer if stream or on_token is not None else None, on_batch=on_batch,
    )  # fmt: skip


def answers_of(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    encoded: Callable[[Sequence[Prompt]], Inputs],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int,
    contrast: LogitsProcessor | None = None,
    streamer: AnswerStream | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[str]:
    """Answer prompts in batches that a caller encodes; see `complete`.

    Args:
        model: An enabled model, in evaluation mode.
        tokenizer: Its tokenizer.
        prompts: Texts or chats.
        encoded: Makes the inputs of a batch: a row for each prompt, or two halves of such rows for
            a `contrast`.
        max_new_tokens: See `complete`, like all that is not explained here.
        temperature: See `complete`.
        seed: See `complete`.
        batch_size: See `complete`.
        contrast: Makes equal logits of both halves.
        streamer: Follows the answers.
        on_batch: See `complete`.

    Raises:
        ValueError: As `complete` does.

    """
    _refuse_single(prompts)
    if not is_int(batch_size) or batch_size < 1:
        msg = f"batch_size must be a whole number from 1, got {batch_size!r}"
        raise ValueError(msg)
    check_temperature(temperature)
    seeds = PromptSeeds(seed)
    answers: list[str] = []
    for start in range(0, len(prompts), batch_size):
        batch = list(prompts[start : start + batch_size])
        inputs = encoded(batch)
        parts = [(inputs, len(batch))]
        if len(batch) > 1 and not has_room(model, first_new(model, inputs), max_new_tokens):
            # The longest prompt would cut the answers of its neighbours.
            parts = [(encoded([prompt]), 1) for prompt in batch]
        for part, rows in parts:
            tokens = first_new(model, part)
            halves = len(part["input_ids"]) // rows
            how = decoding_options(
                model,
                tokens,
                max_new_tokens,
                temperature,
                seeds=seeds.of({name: own[:rows] for name, own in part.items()}) * halves,
                tokenizer=tokenizer,
                contrast=contrast,
            )
            if streamer is not None:
                how["streamer"] = streamer
            with torch.inference_mode():
                ids = model.generate(**part, **how)  # type: ignore[operator]
            answers += tokenizer.batch_decode(ids[:rows, tokens:], skip_special_tokens=True)
        if on_batch is not None:
            on_batch(len(batch))
    return answers


def _refuse_single(prompts: Sequence[Prompt]) -> None:
    if isinstance(prompts, str) or (prompts and isinstance(prompts[0], Mapping)):
        msg = "prompts must be a list of texts or chats, got a single one; write [prompt]"
        raise ValueError(msg)
