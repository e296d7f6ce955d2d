# SPDX-License-Identifier: MIT
"""Values of the options of ``guide-ext study run``: how they are read."""

from __future__ import annotations


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
