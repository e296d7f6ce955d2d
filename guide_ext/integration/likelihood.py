# SPDX-License-Identifier: MIT
"""How likely an answer is to a model, under many steerings of one prompt."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from guide_ext.integration import prefixes
from guide_ext.integration.image_prompts import require_text
from guide_ext.integration.inputs import Prompt, encode
from guide_ext.integration.model.state import refuse_readers_of_both_sides
from guide_ext.steering.steering import Steering

# Logits of one forward pass: in float32, half a gigabyte.
MOST_LOGITS = 1 << 27
_LOGITS_AT_ONCE = 1 << 24  # that a probability is computed from; more would be a copy of them all


def log_likelihoods(
    model: Any,
    tokenizer: Any,
    prompt: Prompt,
    answers: Sequence[str],
    steerings: Sequence[Steering],
    *,
    batch_size: int = 32,
    on_rows: Callable[[int], None] | None = None,
) -> list[float]:
    """Return how likely one of some answers to a prompt is, once for each steering.

    Answers are given and not generated: a forward pass finds the probability of each of their
    tokens behind those before. What stands before the first mark is computed once for all. An
    answer counts with and without a space in front, as models differ in that. Its end is not asked
    for, so it does not matter what the model would add.

    Args:
        model: An enabled model.
        tokenizer: Its fast tokenizer.
        prompt: A text, a chat or a `MarkedText`, as for `encode`.
        answers: The ways to say the answer. Their probabilities are added.
        steerings: What marks mean.
        batch_size: Most steerings in one forward pass.
        on_rows: Called after each pass with the number of steerings in it.

    Returns:
        The logarithm of the probability, one for each steering; -inf where a logit is, as those of
        tokens that a model leaves out.

    Raises:
        ValueError: If an answer is empty, there is none or no steering, or the model has too few
            positions or returns something that is no number.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> prompt = guide.as_prompt(tokenizer, "<!!-> Summarize in French <-!!> The cat sleeps.")
        >>> steerings = [Steering.guide(delta) for delta in (0.0, 2.0)]
        >>> found = log_likelihoods(model, tokenizer, prompt, ["Le chat dort."], steerings)
        >>> len(found), max(found) < 0
        (2, True)

    """
    for name, values in (("answers", answers), ("steerings", steerings)):
        if isinstance(values, str) or not values:
            raise ValueError(f"{name} must be a list of at least one, got {values!r}")
    refuse_readers_of_both_sides(model, "log_likelihoods()")
    require_text("log_likelihoods()", tokenizer)
    targets = targets_of(tokenizer, answers)
    inputs = encode(model, tokenizer, [prompt] * len(steerings), steering=steerings)
    inputs.pop("guide_seed", None)
    return likelihoods_of_rows(model, inputs, targets, batch_size=batch_size, on_rows=on_rows)


def likelihoods_of_rows(
    model: Any,
    inputs: dict[str, Tensor],
    targets: Sequence[list[int]],
    *,
    batch_size: int = 32,
    on_rows: Callable[[int], None] | None = None,
    before_pass: Callable[[], None] | None = None,
) -> list[float]:
    """Return how likely one of some answers is behind every row; rows differ in their bias alone.

    What stands before the first mark of any row is computed once for all.

    Args:
        model: An enabled model with one text.
        inputs: What `encode` returned, without padding and ``guide_seed``; all rows have the same
            tokens.
        targets: Token ids of the ways to say the answer, none of which begins with another. Their
            probabilities are added.
        batch_size: Most rows in one forward pass; fewer if they had more logits than fit.
        on_rows: Called after each pass with the number of rows in it.
        before_pass: Called before every forward pass; what it raises ends the work.

    Returns:
        The logarithm of the probability, one for each row; -inf where the model gives none.

    Raises:
        ValueError: If the model has too few positions, or returns something that is no number.

    """
    rows, length = inputs["input_ids"].shape
    check_positions(model, length + max(map(len, targets)))
    marked = (inputs["guide_bias"] != 0).any(0).nonzero()
    # The last token of the prompt gives the logits of the first of an answer.
    start = min(int(marked[0]) if len(marked) else length, length - 1)
    go_on = before_pass or (lambda: None)
    found: list[float] = []
    with torch.inference_mode():
        ids, mask = inputs["input_ids"][:1, :start], inputs["attention_mask"][:1, :start]
        go_on()
        beginning = prefixes.begun(model, ids, mask)
        longest = max(map(len, targets))
        if beginning is None and not _keeps_some(model):
            longest += length
        size = max(1, min(batch_size, MOST_LOGITS // (longest * vocabulary_of(model))))
        for first in range(0, rows, size):
            part = {name: value[first : first + size] for name, value in inputs.items()}
            if beginning is None:
                chances = []
                for target in targets:
                    go_on()
                    chances.append(_chance(_logits(model, part, target), target))
            else:
                chances = _chances(model, part, targets, beginning, start, go_on)
            found += torch.stack(chances).logsumexp(0).tolist()
            if on_rows is not None:
                on_rows(len(chances[0]))
    # A probability of 0 is one; its logarithm is -inf.
    if any(math.isnan(value) or value == math.inf for value in found):
        raise ValueError(
            "model must give the answer a probability, got logits that are no numbers; try dtype "
            "float32"
        )
    return found


def require_possible(name: str, likelihoods: Sequence[float]) -> None:
    """Raise ValueError if an answer has no probability, so that differences mean nothing."""
    if not all(math.isfinite(value) for value in likelihoods):
        raise ValueError(
            f"{name} must be possible for the model, got a probability of 0: it leaves out some of "
            "the tokens"
        )


def vocabulary_of(model: Any) -> int:
    """Return how many logits a model gives each token."""
    return int(model.config.get_text_config().vocab_size)


def targets_of(tokenizer: Any, answers: Sequence[str], *, exact: bool = False) -> list[list[int]]:
    """Return the different tokens of answers, without those that begin with another's.

    Args:
        tokenizer: The tokenizer.
        answers: The ways to say the answer.
        exact: Whether answers are taken as they stand, or with and without a space in front.

    Raises:
        ValueError: If an answer is empty.

    """
    if not all(answer.strip() for answer in answers):
        raise ValueError(f"answers must not be empty, got {list(answers)!r}")
    if exact:
        told = list(answers)
    else:
        told = [said for answer in answers for said in (answer.strip(), f" {answer.strip()}")]
    tokens = sorted({tuple(tokenizer.encode(said, add_special_tokens=False)) for said in told})
    # The longer of two is a case of the shorter, and would be counted twice.
    return [
        list(one)
        for one in tokens
        if not any(one != other and one[: len(other)] == other for other in tokens)
    ]


def _chances(
    model: Any,
    inputs: dict[str, Tensor],
    targets: Sequence[list[int]],
    beginning: dict[str, Any],
    start: int,
    go_on: Callable[[], None],
) -> list[Tensor]:
    """Return `_chance` of each answer; the prompt is computed once for all of them."""
    ids = inputs["input_ids"]
    rows, length = ids.shape
    cached = {name: copy.deepcopy(cache) for name, cache in beginning.items()}
    for cache in cached.values():
        cache.batch_repeat_interleave(rows)
    prompt = {**inputs, "input_ids": ids[:, start:]}
    go_on()
    first = model(**prompt, **cached, use_cache=True, logits_to_keep=1).logits[:, -1:]
    found = []
    for target in targets:
        chance = _chance(first, target[:1])
        if len(target) > 1:
            go_on()
            longer = with_answer(inputs, target[:-1])
            longer["input_ids"] = longer["input_ids"][:, length:]
            logits = model(**longer, **cached, use_cache=True).logits
            chance = chance + _chance(logits, target[1:])
            for cache in cached.values():
                cache.crop(-len(target[:-1]))  # below 0: how many tokens to remove
        found.append(chance)
    return found


def _keeps_some(model: Any) -> bool:
    """Return whether a model can leave out the logits of tokens that nobody asks for."""
    return "logits_to_keep" in inspect.signature(type(model).forward).parameters


def _logits(model: Any, inputs: dict[str, Tensor], target: list[int]) -> Tensor:
    """Return the logits of the tokens of an answer, from a pass over all tokens."""
    how: dict[str, Any] = dict(with_answer(inputs, target[:-1]))
    if _keeps_some(model):
        how["logits_to_keep"] = len(target)
    logits = model(**how, use_cache=False).logits[:, -len(target) :]
    assert isinstance(logits, Tensor)
    return logits


def _chance(logits: Tensor, target: list[int]) -> Tensor:
    """Return the log-likelihood of the tokens of an answer, for each row."""
    rows, count, vocabulary = logits.shape
    index = torch.tensor(target, device=logits.device).expand(rows, -1)[..., None]
    found = torch.zeros(rows, device=logits.device)
    step = max(1, _LOGITS_AT_ONCE // (rows * vocabulary))
    for at in range(0, count, step):
        part = logits[:, at : at + step].float().log_softmax(-1)
        found = found + part.gather(2, index[:, at : at + step]).sum((1, 2))
    return found


def with_answer(inputs: dict[str, Tensor], target: list[int]) -> dict[str, Tensor]:
    """Append tokens of an answer, unmarked, to the prompt of every row."""
    ids = inputs["input_ids"]
    answer = torch.tensor(target, device=ids.device, dtype=ids.dtype).expand(len(ids), -1)
    longer = {**inputs, "input_ids": torch.cat([ids, answer], 1)}
    for name, value in (("attention_mask", 1), ("guide_bias", 0)):
        fill = torch.full_like(answer, value, dtype=inputs[name].dtype)
        longer[name] = torch.cat([inputs[name], fill], 1)
    return longer


def check_positions(model: Any, tokens: int) -> None:
    """Raise ValueError if a model has too few positions for a prompt and its answer."""
    known = getattr(model.config, "max_position_embeddings", None)
    if known is not None and tokens > known:
        raise ValueError(
            f"prompt and answer must fit into the {known} positions that the model knows, got "
            f"{tokens} tokens; use shorter texts"
        )
