# SPDX-License-Identifier: MIT
"""How likely an answer is to a model, under many steerings of one prompt."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from guide_ext.integration import prefixes
from guide_ext.integration.inputs import Prompt, encode, is_chat
from guide_ext.steering.steering import Steering


def log_likelihoods(
    model: Any,
    tokenizer: Any,
    prompt: Prompt,
    answer: str,
    steerings: Sequence[Steering],
    *,
    batch_size: int = 32,
    on_rows: Callable[[int], None] | None = None,
) -> list[float]:
    """Return the log-likelihood of an answer to a prompt, once for each steering.

    The answer is given and not generated: one forward pass finds the probability of each of its
    tokens behind those before. What stands before the first mark is computed once for all. The end
    of the answer is not asked for, so what the model would add does not count.

    Args:
        model: An enabled model.
        tokenizer: Its fast tokenizer.
        prompt: A text, a chat or a `MarkedText`, as for `encode`. The answer to a chat begins where
            its template ends, the answer to a text behind a space.
        answer: The answer.
        steerings: What marks mean.
        batch_size: Most steerings in one forward pass.
        on_rows: Called after each pass with the number of steerings in it.

    Returns:
        Nats, one number for each steering.

    Raises:
        ValueError: If the answer has no tokens, there is no steering, or the model has too few
            positions or returns something that is no number.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> prompt = guide.as_prompt(tokenizer, "<!!-> Summarize in French <-!!> The cat sleeps.")
        >>> steerings = [Steering.guide(delta) for delta in (0.0, 2.0)]
        >>> plain, guided = log_likelihoods(model, tokenizer, prompt, "Le chat dort.", steerings)
        >>> plain < guided < 0
        True

    """
    if not steerings:
        raise ValueError("steerings must be at least one, got none")
    said = answer if is_chat(prompt) else f" {answer.lstrip()}"
    target = tokenizer.encode(said, add_special_tokens=False) if answer.strip() else []
    if not target:
        raise ValueError(f"answer must have at least one token, got {answer!r}")
    inputs: dict[str, Tensor] = encode(
        model, tokenizer, [prompt] * len(steerings), steering=steerings
    )
    length = inputs["input_ids"].shape[1]
    _check_positions(model, length + len(target))
    inputs = _with_answer(inputs, target)
    marked = (inputs["guide_bias"] != 0).any(0).nonzero()
    # The last token of the prompt gives the logits of the first of the answer.
    start = min(int(marked[0]) if len(marked) else length, length - 1)
    with torch.inference_mode():
        beginning = _beginning(model, inputs, start)
        found: list[float] = []
        for first in range(0, len(steerings), batch_size):
            part = {name: value[first : first + batch_size] for name, value in inputs.items()}
            logits = _logits(model, part, start, beginning, len(target) + 1)
            chances = logits[:, :-1].float().log_softmax(-1)
            index = torch.tensor(target, device=chances.device).expand(len(chances), -1)
            found += chances.gather(2, index[..., None]).sum((1, 2)).tolist()
            if on_rows is not None:
                on_rows(len(chances))
    if not all(value <= 0 for value in found):  # also NaN
        raise ValueError(
            "model must give the answer a probability, got logits that are no numbers; try dtype "
            "float32"
        )
    return found


def _with_answer(inputs: dict[str, Tensor], target: list[int]) -> dict[str, Tensor]:
    """Append the answer, unmarked, to the prompt of every row."""
    ids = inputs["input_ids"]
    answer = torch.tensor(target, device=ids.device).expand(len(ids), -1)
    longer = dict(inputs)
    longer["input_ids"] = torch.cat([ids, answer], 1)
    for name, value in (("attention_mask", 1), ("guide_bias", 0)):
        fill = torch.full_like(answer, value, dtype=inputs[name].dtype)
        longer[name] = torch.cat([inputs[name], fill], 1)
    longer.pop("guide_seed", None)
    return longer


def _beginning(model: Any, inputs: dict[str, Tensor], start: int) -> dict[str, Any] | None:
    if not start:
        return None
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    return prefixes.begun(model, ids[:1, :start], mask[:1, :start])


def _logits(
    model: Any, inputs: dict[str, Tensor], start: int, beginning: dict[str, Any] | None, keep: int
) -> Tensor:
    """Return the logits of the last `keep` tokens of each row."""
    how: dict[str, Any] = dict(inputs)
    if beginning is None:
        how["use_cache"] = False
    else:
        how["input_ids"] = inputs["input_ids"][:, start:]
        for name, cache in beginning.items():
            how[name] = copy.deepcopy(cache)
            how[name].batch_repeat_interleave(len(inputs["input_ids"]))
    if "logits_to_keep" in inspect.signature(type(model).forward).parameters:
        how["logits_to_keep"] = keep
    logits = model(**how).logits[:, -keep:]
    assert isinstance(logits, Tensor)
    return logits


def _check_positions(model: Any, tokens: int) -> None:
    known = getattr(model.config, "max_position_embeddings", None)
    if known is not None and tokens > known:
        raise ValueError(
            f"prompt and answer must fit into the {known} positions that the model knows, got "
            f"{tokens} tokens; use shorter texts"
        )
