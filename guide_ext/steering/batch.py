# SPDX-License-Identifier: MIT
"""Prompts of different lengths and their steering, as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guide_ext.marking.tokens import Encoding
from guide_ext.steering.steering import Steering, check_encoding, index_from_0


@dataclass(frozen=True)
class Batch:
    """Padded prompts with their steering.

    Attributes:
        input_ids: int64 ``[batch, tokens]``.
        attention_mask: int64 ``[batch, tokens]``, 1 on tokens and 0 on padding.
        bias: Nats, float32 ``[batch, tokens]``, 0 on padding.
        strength: Multiplier of the bias, float32 ``[batch, layers, heads]``, or None for 1.
        groups: Names of the Influence groups of all prompts, in order of first appearance.
        seed: 1 on the tokens of a group, float32 ``[batch, groups, tokens]``; None without groups.

    """

    input_ids: Tensor
    attention_mask: Tensor
    bias: Tensor
    strength: Tensor | None
    groups: tuple[str, ...] = ()
    seed: Tensor | None = None


def collate(
    encodings: Sequence[Encoding],
    steerings: Steering | Sequence[Steering],
    *,
    num_layers: int,
    num_heads: int,
    pad_token_id: int = 0,
    padding_side: str = "left",
) -> Batch:
    """Pad prompts and stack them with their bias.

    Args:
        encodings: One prompt per row, at least one.
        steerings: One for all rows, or one per row.
        num_layers: Attention layers of the model.
        num_heads: Query heads per layer.
        pad_token_id: What to fill up with; attention never sees it.
        padding_side: ``"left"`` for text that is to go on, ``"right"`` for text that an encoder
            reads, as many count positions from the first slot, padding or not.

    Raises:
        ValueError: If there is no prompt, a prompt has no tokens, `steerings` is neither one nor
            one per prompt, a chosen layer or head is not in the model, `num_layers`, `num_heads`
            or `pad_token_id` is not a whole number in its range, or there is no such side.
        TypeError: If `encodings` is not a list of `Encoding`.

    Example:
        >>> from guide_ext.spans import Span
        >>> short = Encoding([7], [(0, 1)], "c", (), (Span(0, 1, level=2),))
        >>> long = Encoding([5, 6], [(0, 1), (1, 2)], "ab", (), ())
        >>> batch = collate([short, long], Steering.guide(2.0), num_layers=1, num_heads=1)
        >>> batch.input_ids.tolist(), batch.bias.tolist()
        ([[0, 7], [5, 6]], [[0.0, 2.0], [0.0, 0.0]])

    """
    if isinstance(encodings, (str, bytes)) or not isinstance(encodings, Sequence):
        raise TypeError(f"prompts must be a list of Encoding, got {type(encodings).__name__}")
    if not encodings:
        raise ValueError("prompts must be at least one, got none")
    for row, encoding in enumerate(encodings):
        check_encoding(f"prompt {row}", encoding)
    pad_token_id = index_from_0("pad_token_id", pad_token_id)
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side must be 'left' or 'right', got {padding_side!r}")
    steerings = [steerings] * len(encodings) if isinstance(steerings, Steering) else steerings
    if isinstance(steerings, str) or not isinstance(steerings, Sequence):
        raise ValueError(f"steering must be a Steering or a list of them, got {steerings!r}")
    for steering in steerings:
        if not isinstance(steering, Steering):
            raise ValueError(f"steering must be Steering objects, got {steering!r}")
    if len(steerings) != len(encodings):
        raise ValueError(
            f"steering must be one, or one per prompt: {len(encodings)}, got {len(steerings)}"
        )
    tokens = max(len(encoding.input_ids) for encoding in encodings)
    input_ids = torch.full((len(encodings), tokens), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros(len(encodings), tokens, dtype=torch.long)
    bias = torch.zeros(len(encodings), tokens)
    for row, (encoding, steering) in enumerate(zip(encodings, steerings, strict=True)):
        length = len(encoding.input_ids)
        if length == 0:
            raise ValueError(f"prompts must have at least one token, got prompt {row} with none")
        here = _place(length, tokens, padding_side)
        input_ids[row, here] = torch.tensor(encoding.input_ids)
        attention_mask[row, here] = 1
        bias[row, here] = steering.bias(encoding)
    tables = [steering.strength(num_layers, num_heads) for steering in steerings]
    strength = None
    if any(table is not None for table in tables):
        every = torch.ones(num_layers, num_heads)
        strength = torch.stack([every if table is None else table for table in tables])
    groups = group_names(encodings)
    seed = seed_of(encodings, groups, tokens, padding_side) if groups else None
    return Batch(input_ids, attention_mask, bias, strength, groups, seed)


def _place(length: int, tokens: int, padding_side: str) -> slice:
    return slice(tokens - length, tokens) if padding_side == "left" else slice(length)


def group_names(encodings: Sequence[Encoding]) -> tuple[str, ...]:
    """Return the names of the Influence groups of all prompts, in order of first appearance."""
    return tuple(dict.fromkeys(name for one in encodings for name in one.groups()))


def seed_of(
    encodings: Sequence[Encoding], groups: Sequence[str], tokens: int, padding_side: str
) -> Tensor:
    """Return 1 on the tokens of each group, float32 ``[batch, groups, tokens]``.

    Args:
        encodings: One prompt per row.
        groups: Names of groups; those of the prompts are among them.
        tokens: Tokens of a row, padding included.
        padding_side: Where the padding is, ``"left"`` or ``"right"``.

    Example:
        >>> from guide_ext.spans import Span
        >>> rule = Encoding([7, 8], [(0, 1), (1, 2)], "cd", (), (Span(1, 2, group="rule"),))
        >>> seed_of([rule], ["rule"], 3, "left").tolist()
        [[[0.0, 0.0, 1.0]]]

    """
    index = {name: place for place, name in enumerate(groups)}
    seed = torch.zeros(len(encodings), len(groups), tokens)
    for row, encoding in enumerate(encodings):
        for name, flags in encoding.groups().items():
            here = _place(len(flags), tokens, padding_side)
            seed[row, index[name], here] = torch.tensor(flags).float()
    return seed
