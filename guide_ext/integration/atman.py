# SPDX-License-Identifier: MIT
"""AtMan: which tokens of a prompt matter for an answer, by playing each of them down."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from guide_ext.integration.image_prompts import require_text
from guide_ext.integration.inputs import Inputs, Prompt, encode
from guide_ext.integration.likelihood import likelihoods_of_rows, require_possible
from guide_ext.integration.model.state import refuse_readers_of_both_sides
from guide_ext.support.values import as_float, is_int


@dataclass(frozen=True)
class Explanation:
    """How much each part of a prompt matters for an answer.

    Attributes:
        parts: What was played down: the text of each token, special ones included, or the name of
            each group.
        values: For each part, by how many nats the loss of the answer rises without it. Above 0,
            the part speaks for the answer; below 0, against it.
        loss: The loss with the whole prompt: the negative log-likelihood of the answer, nats.
        factor: The factor by which attention to a part was multiplied.

    """

    parts: tuple[str, ...]
    values: tuple[float, ...]
    loss: float
    factor: float


def atman(
    model: Any,
    tokenizer: Any,
    prompt: Prompt,
    target: str | Sequence[int],
    *,
    by: str = "token",
    factor: float = 0.1,
    similarity: float | None = None,
    delta: float = 0.0,
    batch_size: int = 32,
    on_progress: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Measure how much each token, or group of tokens, of a prompt matters for an answer.

    The attention to one part at a time is multiplied by `factor` in all layers and heads, before it
    is normalised: a bias of log `factor` on its keys. The value of the part is what that adds to
    the loss of the answer. Nothing n×n is allocated, and there is no backward pass: a forward pass
    for every part, in batches, over the tokens from the first part of a batch on.

    Args:
        model: An enabled model.
        tokenizer: Its fast tokenizer.
        prompt: A text, a chat or a `MarkedText`, as for `encode`.
        target: The answer: text that follows the prompt exactly as it stands (many models begin a
            word with a space), or its token ids.
        by: ``"token"`` for every token of the prompt, or ``"group"`` for those that ``<?name->``
            tags mark.
        factor: Above 0 and not 1; below 1 it plays a part down. AtMan uses 0.1.
        similarity: If given, from above 0 to 1: other tokens of the prompt whose embedding has at
            least this cosine to one of the part are played down with it, by
            ``factor + (1 - factor) · (1 - cosine)``. AtMan uses 0.6 and more.
        delta: Δ of level-2 emphasis in the prompt, nats: explains a guided answer. 0 ignores it;
            marks that state their own Δ act always.
        batch_size: Parts that are played down in one forward pass.
        on_progress: Called with the number of parts that are done and of all.

    Returns:
        One number for every part.

    Raises:
        ValueError: If the target is empty, there is no group where groups are asked for, an
            argument is out of range, the model is not enabled, does not go on with one text, or has
            too few positions.

    Source:
        AtMan (Deiseroth et al. 2023, arXiv:2301.08110), with the factor added to the scores as its
        logarithm, as ``control_log_additive`` of Aleph Alpha's interface does it. The paper's code
        multiplies the scores themselves, less the lowest of their row, which is no bias: it depends
        on the query.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> text = "<?how->Summarize in French<-?how>: The cat <?what->sleeps<-?what>."
        >>> prompt = guide.as_prompt(tokenizer, text)
        >>> [answer] = guide.complete(model, tokenizer, [prompt])
        >>> found = atman(model, tokenizer, prompt, answer, by="group")
        >>> found.parts, found.values[0] > 0
        (('how', 'what'), True)

    """
    factor = _checked_factor(factor)
    if by not in ("token", "group"):
        raise ValueError(f"by must be 'token' or 'group', got {by!r}")
    if similarity is not None and not 0 < as_float(similarity) <= 1:
        raise ValueError(f"similarity must be above 0 and at most 1, got {similarity!r}")
    if not is_int(batch_size) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number from 1, got {batch_size!r}")
    require_text("atman()", tokenizer)
    wanted = _tokens_of(tokenizer, target)
    inputs = encode(model, tokenizer, [prompt], delta=delta)
    refuse_readers_of_both_sides(model, "atman()")
    seed = inputs.pop("guide_seed", None)
    factors, names = _factors(model, tokenizer, inputs, seed, by, factor, similarity)
    losses: list[float] = []
    for first in range(0, len(factors), batch_size):
        rows = factors[first : first + batch_size]
        batch = {name: tensor.expand(len(rows), -1) for name, tensor in inputs.items()}
        batch["guide_bias"] = inputs["guide_bias"] + rows.log()
        losses += [-one for one in likelihoods_of_rows(model, batch, [wanted])]
        if on_progress is not None:
            on_progress(len(losses) - 1, len(names))
    require_possible("target", losses)
    return Explanation(names, tuple(loss - losses[0] for loss in losses[1:]), losses[0], factor)


def _checked_factor(factor: float) -> float:
    number = as_float(factor)
    if not math.isfinite(number) or number <= 0 or number == 1:
        raise ValueError(
            "factor must be a finite number above 0, and not 1, which changes nothing, got "
            f"{factor!r}"
        )
    return number


def _tokens_of(tokenizer: Any, target: str | Sequence[int]) -> list[int]:
    if isinstance(target, str):
        tokens = list(tokenizer.encode(target, add_special_tokens=False))
    else:
        tokens = list(target)
        if not all(is_int(token) for token in tokens):
            raise ValueError(f"target must be text or token ids, got {target!r}")
    if not tokens:
        raise ValueError(f"target must have a token or more, got {target!r}")
    return tokens


def _factors(
    model: Any,
    tokenizer: Any,
    inputs: Inputs,
    seed: Tensor | None,
    by: str,
    factor: float,
    similarity: float | None,
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the factors of every token, a row of ones first, and what the other rows play down."""
    ids = inputs["input_ids"][0]
    if by == "token":
        own = torch.eye(len(ids), dtype=torch.bool, device=ids.device)
        names = tuple(tokenizer.decode([token]) for token in ids.tolist())
    elif seed is None:
        raise ValueError(
            "by must be 'token' for a prompt without groups, got 'group'; mark what is to be "
            "played down with <?name-> … <-?name>"
        )
    else:
        own, names = seed[0] > 0, inputs.groups
    if similarity is None:
        rows = torch.where(own, factor, 1.0)
    else:
        vectors = F.normalize(model.get_input_embeddings()(ids).detach().float(), dim=-1)
        alike = (vectors @ vectors.mT).clamp(max=1.0)
        nearest = torch.where(own[:, :, None], alike, -1.0).amax(1)  # to any token of the part
        nearest = torch.where(own, 1.0, nearest)
        rows = torch.where(nearest >= similarity, factor + (1 - factor) * (1 - nearest), 1.0)
    return torch.cat([rows.new_ones(1, len(ids)), rows]).float(), names
