# SPDX-License-Identifier: MIT
"""Values of the options of ``guide-ext study run``: how they are read."""

from __future__ import annotations

import json


def parse_deltas(text: str | None) -> tuple[float, ...] | None:
    """Read a list of strengths such as ``0,0.5,2``.

    Raises:
        ValueError: If the text is not such a list.

    Example:
        >>> parse_deltas("2, 0.5")
        (2.0, 0.5)

    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        msg = f"--deltas must be numbers with commas between, such as 0,1,2, got {text!r}"
        raise ValueError(msg) from None


def parse_names(text: str | None) -> tuple[str, ...]:
    """Read a list of names with commas between; none for no text.

    Example:
        >>> parse_names("the code, city"), parse_names(None)
        (('the code', 'city'), ())

    """
    return () if text is None else tuple(name.strip() for name in text.split(","))


def parse_heads(text: str) -> tuple[tuple[int, int], ...]:
    """Read JSON pairs of a layer and a head: a list, or what ``guide-ext study heads`` saved.

    Raises:
        ValueError: If the text holds something else, or nothing.

    Example:
        >>> parse_heads("[[0, 1], [2, 0]]")
        ((0, 1), (2, 0))
        >>> parse_heads('{"heads": [[2, 0]], "seed": 7}')
        ((2, 0),)

    """
    try:
        value = json.loads(text)
        pairs = value["heads"] if isinstance(value, dict) else value
        found = [(_index(layer), _index(head)) for layer, head in pairs]
    except (ValueError, TypeError, KeyError):
        found = []
    if not found:
        raise ValueError(
            "--heads must be a JSON list of pairs [layer, head], counted from 0, or what 'study "
            "heads' saved, got something else"
        )
    return tuple(found)


def _index(value: object) -> int:
    """Return a whole number from 0; raise TypeError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError("not a whole number from 0")
    return value
