# SPDX-License-Identifier: MIT
"""The embedded model: a tiny bilingual Mistral, trained on a constructed world and shipped here."""

from __future__ import annotations

from pathlib import Path

__all__ = ["EMBEDDED", "model_path"]

EMBEDDED = "embedded"
"""The name by which commands and settings call this model."""


def model_path() -> Path:
    """Return the folder of the shipped model, ready for ``from_pretrained``.

    Returns:
        The folder with ``config.json``, ``model.safetensors`` and the tokenizer.

    Example:
        >>> model_path().name
        'model'

    """
    return Path(__file__).resolve().parent / "model"
