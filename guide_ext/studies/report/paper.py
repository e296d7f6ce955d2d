# SPDX-License-Identifier: MIT
"""Numbers and claims of the paper and of the authors' notebooks, each with its place.

The paper is “Pay Attention to What Matters” (NeurIPS 2024); the notebooks are those of
``netop-team/pay_attention_experiment``, which ran Mistral-7B-Instruct-v0.1 in four bits. Most
figures of the paper carry no numbers, and none are read off them here.
"""

from __future__ import annotations

from dataclasses import dataclass

PAPER, NOTEBOOKS = "paper", "authors' notebooks"
MISTRAL, GEMMA = "Mistral-7B-Instruct", "gemma-2-2b-it"

Key = tuple[tuple[str, str | float], ...]
"""Columns and values that name a row of a table."""


@dataclass(frozen=True)
class Printed:
    """A printed number.

    Attributes:
        model: The model that it holds for: `MISTRAL` or `GEMMA`.
        table: The table of a run that has the same quantity.
        row: The values that name its row there.
        column: Its column there.
        value: The number; a share of 1 where the source prints per cent.
        source: `PAPER` or `NOTEBOOKS`.
        place: Where in the source.

    """

    model: str
    table: str
    row: Key
    column: str
    value: float
    source: str
    place: str


@dataclass(frozen=True)
class Claim:
    """Something that the paper says in words.

    Attributes:
        model: The model that it holds for: `MISTRAL` or `GEMMA`.
        table: The table of a run that shows whether it holds there too.
        text: The claim, in our words.
        place: Where in the paper.

    """

    model: str
    table: str
    text: str
    place: str


def at_condition(delta: float, style: str = "plain") -> Key:
    """Name a row by its condition."""
    return (("style", style), ("delta", delta))


def at_delta(delta: float) -> Key:
    """Name a row by Δ alone."""
    return (("delta", delta),)


def printed(
    model: str, table: str, column: str, source: str, place: str, values: dict[Key, float]
) -> tuple[Printed, ...]:
    """Return numbers of one column that stand in one place.

    Args:
        model: As in `Printed`; so are the next four.
        table: Name of the table.
        column: Name of the column.
        source: `PAPER` or `NOTEBOOKS`.
        place: Where in the source.
        values: The numbers by the values that name their row.

    """
    return tuple(
        Printed(model, table, row, column, value, source, place) for row, value in values.items()
    )


def model_of(name: str) -> str | None:
    """Return which of the paper's models a name stands for; None if it is another model.

    Example:
        >>> model_of("mistralai/Mistral-7B-Instruct-v0.1")
        'Mistral-7B-Instruct'
        >>> model_of("embedded") is None
        True

    """
    return next((model for model in (MISTRAL, GEMMA) if model.lower() in name.lower()), None)
