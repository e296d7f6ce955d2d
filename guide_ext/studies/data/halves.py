# SPDX-License-Identifier: MIT
"""Which documents choose, and which judge what was chosen."""

from __future__ import annotations

from guide_ext.studies.cells import digest


def for_choosing(document: str) -> bool:
    """Return whether a document is of the half on which a study chooses.

    Example:
        >>> sum(for_choosing(f"texts:{number}") for number in range(1000))
        481

    """
    return int(digest(document)[:8], 16) % 2 == 0
