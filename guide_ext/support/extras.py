# SPDX-License-Identifier: MIT
"""Libraries that only the studies need, imported when they are needed."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

# What the tables of a task or study are made with, and what for.
_NEEDS = {
    "french": ("py3langid", "to tell languages"),
    "sft": ("peft", "to fine-tune"),
    "bertscore": ("bert_score", "to compare summaries with references"),
}


def require_all(names: Iterable[str]) -> None:
    """Check before the work that all is there that it will need.

    Args:
        names: Tasks and studies, and ``"bertscore"`` if it is wanted.

    Raises:
        NotImplementedError: If something is not installed.

    """
    for name in names:
        if name in _NEEDS:
            module, purpose = _NEEDS[name]
            require(module, purpose)


def require(module: str, purpose: str, extra: str = "studies") -> Any:
    """Import a module of an optional dependency.

    Args:
        module: Its name.
        purpose: What for, for the message.
        extra: The extra of this package that brings it.

    Raises:
        NotImplementedError: If it is not installed.

    Example:
        >>> require("json", "to read JSON").loads("1")
        1
        >>> require("no_such_module", "to do nothing")
        Traceback (most recent call last):
        ...
        NotImplementedError: no_such_module must be installed to do nothing; get it with:
        pip install 'guide_ext[studies]'

    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.partition(".")[0] != error.name.partition(".")[0]:
            raise
        raise NotImplementedError(
            f"{module.partition('.')[0]} must be installed {purpose}; get it with: "
            f"pip install 'guide_ext[{extra}]'"
        ) from None
